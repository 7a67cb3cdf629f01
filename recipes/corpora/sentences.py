"""Sentence patterns, German to English.

Each pattern draws its phrases and returns the two sentences. German varies its word order;
English has, now and then, a second wording for the same German, as translations do.
"""

from __future__ import annotations

from collections.abc import Callable

from recipes.corpora import lexicon
from recipes.corpora.phrases import Pair, Phrases

Pattern = Callable[[Phrases], Pair]


def capital(text: str) -> str:
    """The first letter in upper case."""
    return text[0].upper() + text[1:]


def either(p: Phrases, usual: str, other: str, chance: float = 0.4) -> str:
    """``other`` with probability ``chance``."""
    return other if p.rng.random() < chance else usual


def traded(p: Phrases) -> Pair:
    """Anna hat vor 3 Tagen in Rom ein altes Buch für 12 Euro gekauft."""
    name, _ = p.person()
    verb = p.rng.choice(lexicon.TRADE)
    when, where, money = p.past(), p.where(), p.amount()
    what = p.thing("acc")[0] if p.rng.random() < 0.6 else p.quantity()[0]
    if p.rng.random() < 0.5:
        german = f"{name} hat {when[0]} {where[0]} {what[0]} für {money[0]} {verb.participle}."
    else:
        german = (
            f"{capital(when[0])} hat {name} {where[0]} {what[0]} für {money[0]} {verb.participle}."
        )
    event = f"{name} {verb.english_past} {what[1]} for {money[1]} {where[1]}"
    return german, either(p, f"{event} {when[1]}.", f"{capital(when[1])}, {event}.")


def event(p: Phrases) -> Pair:
    """Die Prüfung findet am Montag um 14:05 Uhr in Rom statt."""
    noun, article, readings = p.rng.choice(lexicon.EVENTS)
    when, clock, where = p.date(), p.clock(7, 22), p.where()
    english = either(p, readings[0], readings[-1])
    if p.rng.random() < 0.5:
        german = f"{capital(article)} {noun} findet {when[0]} um {clock[0]} {where[0]} statt."
        verb = either(p, "takes place", "will take place")
    else:
        german = f"{capital(when[0])} beginnt {article} {noun} {where[0]} um {clock[0]}."
        verb = either(p, "starts", "begins")
    return german, f"The {english} {where[1]} {verb} at {clock[1]} {when[1]}."


def speaks(p: Phrases) -> Pair:
    """Weil Anna Französisch spricht, arbeitet sie seit 3 Jahren in Rom."""
    name, (er, he) = p.person()
    spoken = p.several(p.language)
    since, where = p.since(), p.where()
    work, working = p.rng.choice(
        (
            ("arbeitet", "working"),
            ("lebt", "living"),
            ("studiert", "studying"),
        )
    )
    english = f"{he} has been {working} {where[1]} {since[1]}"
    if p.rng.random() < 0.5:
        german = f"Weil {name} {spoken[0]} spricht, {work} {er} {since[0]} {where[0]}."
        return german, f"{either(p, 'Because', 'Since')} {name} speaks {spoken[1]}, {english}."
    german = f"{name} {work} {since[0]} {where[0]}, obwohl {er} kaum {spoken[0]} spricht."
    english = f"{name} has been {working} {where[1]} {since[1]}"
    return (
        german,
        f"{english}, {either(p, 'although', 'even though')} {he} hardly speaks {spoken[1]}.",
    )


def moved(p: Phrases) -> Pair:
    """Vor 3 Jahren ist Anna aus der Schweiz nach Italien gezogen."""
    name, _ = p.person()
    when, origin, goal = p.past(), p.from_country(), p.to_country()
    participle, english = p.rng.choice(
        (("gezogen", "moved"), ("geflogen", "flew"), ("gereist", "traveled"))
    )
    if p.rng.random() < 0.5:
        german = f"{capital(when[0])} ist {name} {origin[0]} {goal[0]} {participle}."
    else:
        german = f"{name} ist {when[0]} {origin[0]} {goal[0]} {participle}."
    text = f"{name} {english} {origin[1]} {goal[1]}"
    return german, either(p, f"{text} {when[1]}.", f"{capital(when[1])}, {text}.")


def price(p: Phrases) -> Pair:
    """Das alte Buch kostet 12 Euro, aber Anna hat nur 10 Euro dabei."""
    what, plural = p.thing("nom", p.rng.choice(("definite", "definite_plural")))
    first, second = p.amount(), p.amount()
    name, _ = p.person()
    german = f"{capital(what[0])} {'kosten' if plural else 'kostet'} {first[0]}"
    english = f"{capital(what[1])} {'cost' if plural else 'costs'} {first[1]}"
    if p.rng.random() < 0.5:
        return f"{german}, aber {name} hat nur {second[0]} dabei.", (
            f"{english}, but {name} only has {second[1]}{either(p, '', ' with them')}."
        )
    return f"{german}, {name} will aber nur {second[0]} bezahlen.", (
        f"{english}, but {name} {either(p, 'only wants to pay', 'wants to pay only')} {second[1]}."
    )


def delay(p: Phrases) -> Pair:
    """Der Zug von Rom nach Paris hat 20 Minuten Verspätung und kommt erst um 14:05 Uhr an."""
    first, second, late, clock = p.city(), p.city(), p.duration(), p.clock()
    vehicle = p.rng.choice((("Zug", "train"), ("Bus", "bus"), ("Flug", "flight")))
    german = f"Der {vehicle[0]} von {first[0]} nach {second[0]} hat {late[0]} Verspätung"
    english = f"The {vehicle[1]} from {first[1]} to {second[1]} is {late[1]} late"
    if p.rng.random() < 0.6:
        german += f" und kommt erst um {clock[0]} an"
        english += either(
            p, f" and will not arrive until {clock[1]}", f" and only arrives at {clock[1]}", 0.4
        )
    return f"{german}.", f"{english}."


def delivered(p: Phrases) -> Pair:
    """Am Montag wurden 3,5 Liter Milch aus Italien und der Schweiz geliefert."""
    when, (what, value) = p.past(), p.quantity()
    origin = p.several(p.from_country)
    german = (
        f"{capital(when[0])} {'wurde' if value == 1 else 'wurden'} {what[0]} {origin[0]} geliefert."
    )
    passive = f"{what[1]} {'was' if value == 1 else 'were'} delivered {origin[1]}"
    return german, either(p, f"{passive} {when[1]}.", f"{capital(when[1])}, {passive}.")


def trend(p: Phrases) -> Pair:
    """Der Preis für Milch ist in Italien seit März 2019 um 12,5 % gestiegen."""
    good, english_good, _ = p.rng.choice(lexicon.GOODS)
    where, rate, since = p.in_country(), p.percent(), p.since()
    german_verb, readings = p.rng.choice(
        (("gestiegen", ("risen", "increased")), ("gefallen", ("fallen", "dropped")))
    )
    verb = either(p, *readings)
    if p.rng.random() < 0.5:
        german = f"Der Preis für {good} ist {where[0]} {since[0]} um {rate[0]} {german_verb}."
    else:
        german = (
            f"{capital(where[0])} ist der Preis für {good} {since[0]} um {rate[0]} {german_verb}."
        )
    return german, f"The price of {english_good} {where[1]} has {verb} by {rate[1]} {since[1]}."


def speakers(p: Phrases) -> Pair:
    """2,5 Millionen Menschen sprechen Französisch, vor allem in Italien und in der Schweiz."""
    people, language = p.people(), p.language()
    where = p.several(p.in_country)
    if p.rng.random() < 0.5:
        german = f"{people[0]} Menschen sprechen {language[0]}, vor allem {where[0]}."
    else:
        german = f"{language[0]} wird von {people[0]} Menschen gesprochen, vor allem {where[0]}."
        return german, (
            f"{language[1]} is spoken by {people[1]} people, "
            f"{either(p, 'mainly', 'above all')} {where[1]}."
        )
    return german, (
        f"{people[1]} people speak {language[1]}, {either(p, 'mainly', 'above all')} {where[1]}."
    )


def measured(p: Phrases) -> Pair:
    """Die alte Brücke in Rom ist 30 Meter lang und 5 Meter breit."""
    what, _ = p.thing("nom", "definite", lexicon.VEHICLES)
    where, first, second = p.where(), p.measure("length"), p.measure("length")
    dimensions = p.rng.sample(
        [("lang", "long"), ("breit", "wide"), ("hoch", either(p, "high", "tall"))], 2
    )
    (one, one_english), (two, two_english) = dimensions
    german = f"{capital(what[0])} {where[0]} ist {first[0]} {one} und {second[0]} {two}."
    return german, (
        f"{capital(what[1])} {where[1]} is {first[1]} {one_english} and {second[1]} {two_english}."
    )


def question(p: Phrases) -> Pair:
    """Wie viel kostet das alte Buch in Rom, wenn man mit Schwedischen Kronen bezahlt?"""
    what, plural = p.thing("nom", p.rng.choice(("definite", "indefinite", "definite_plural")))
    where, money = p.where(), p.currency()
    german = f"Wie viel {'kosten' if plural else 'kostet'} {what[0]} {where[0]}"
    english = f"How much {'do' if plural else 'does'} {what[1]} cost {where[1]}"
    if p.rng.random() < 0.6:
        german += f", wenn man in {money[0]} rechnet"
        english += f" {either(p, 'if you reckon', 'when reckoned')} in {money[1]}"
    return f"{german}?", f"{english}?"


def exchange(p: Phrases) -> Pair:
    """Bevor Anna nach Italien fliegt, möchte sie 12 Euro in Schwedische Kronen umtauschen."""
    name, (er, he) = p.person()
    money, other, goal = p.amount(), p.currency(), p.to_country()
    wish = either(p, "would like to", "wants to")
    if p.rng.random() < 0.5:
        german = f"Bevor {name} {goal[0]} fliegt, möchte {er} {money[0]} in {other[0]} umtauschen."
        return (
            german,
            f"Before {name} flies {goal[1]}, {he} {wish} exchange {money[1]} for {other[1]}.",
        )
    german = f"{name} möchte {money[0]} in {other[0]} umtauschen, bevor {er} {goal[0]} fliegt."
    return german, f"{name} {wish} exchange {money[1]} for {other[1]} before {he} flies {goal[1]}."


def asks(p: Phrases) -> Pair:
    """Anna fragt, ob der Bus nach Rom schon um 14:05 Uhr abfährt."""
    name, _ = p.person()
    city, clock, when = p.city(), p.clock(), p.coming()
    ask, english_ask = p.rng.choice(
        (
            ("fragt", "asks whether"),
            ("weiß nicht", "does not know whether"),
            ("möchte wissen", "wants to know whether"),
        )
    )
    english_ask = either(p, english_ask, english_ask.replace("whether", "if"))
    vehicle = p.rng.choice(
        (("der Zug", "the train"), ("der Bus", "the bus"), ("das Schiff", "the ship"))
    )
    if p.rng.random() < 0.5:
        german = f"{name} {ask}, ob {vehicle[0]} nach {city[0]} schon um {clock[0]} abfährt."
        return (
            german,
            f"{name} {english_ask} {vehicle[1]} to {city[1]} already leaves at {clock[1]}.",
        )
    german = f"{name} {ask}, ob {vehicle[0]} aus {city[0]} erst {when[0]} ankommt."
    return german, f"{name} {english_ask} {vehicle[1]} from {city[1]} only arrives {when[1]}."


def must(p: Phrases) -> Pair:
    """Morgen muss Anna die alten Bücher nach Italien schicken."""
    name, _ = p.person()
    what, when, goal = p.thing("acc")[0], p.coming(), p.to_country()
    modal, readings = p.rng.choice(
        (
            ("muss", ("has to", "must")),
            ("will", ("wants to", "wants to")),
            ("soll", ("is supposed to", "should")),
            ("kann", ("can", "is able to")),
        )
    )
    verb, english = p.rng.choice((("schicken", "send"), ("bringen", "bring")))
    if p.rng.random() < 0.5:
        german = f"{name} {modal} {what[0]} {when[0]} {goal[0]} {verb}."
    else:
        german = f"{capital(when[0])} {modal} {name} {what[0]} {goal[0]} {verb}."
    return german, f"{name} {either(p, *readings)} {english} {what[1]} {goal[1]} {when[1]}."


def relative(p: Phrases) -> Pair:
    """Die Frau, die Französisch spricht, hat Anna ein altes Buch geschenkt."""
    name, _ = p.person()
    person = p.rng.choice(
        (
            ("Die Frau", "die", "The woman"),
            ("Der Mann", "der", "The man"),
            ("Das Kind", "das", "The child"),
        )
    )
    language, what, origin = p.language(), p.thing("acc")[0], p.from_country()
    if p.rng.random() < 0.5:
        german, english = f"{language[0]} spricht", f"speaks {language[1]}"
    else:
        german, english = f"{origin[0]} kommt", f"comes {origin[1]}"
    verb, wordings = p.rng.choice(
        (
            ("geschenkt", ("gave {0} to {1}", "gave {1} {0} as a present")),
            ("gezeigt", ("showed {0} to {1}", "showed {1} {0}")),
            ("verkauft", ("sold {0} to {1}", "sold {1} {0}")),
        )
    )
    done = either(p, *wordings).format(what[1], name)
    return f"{person[0]}, {person[1]} {german}, hat {name} {what[0]} {verb}.", (
        f"{person[2]} who {english} {done}."
    )


def handled(p: Phrases) -> Pair:
    """Anna hat die 3 Bücher am Montag abgeholt, nachdem sie 2 Stunden gewartet hatte."""
    name, (er, he) = p.person()
    verb, what, when, time = (
        p.rng.choice(lexicon.HANDLING),
        p.thing("acc")[0],
        p.past(),
        p.duration(),
    )
    german = f"{name} hat {what[0]} {when[0]} {verb.participle}"
    english = f"{name} {verb.english_past} {what[1]} {when[1]}"
    if p.rng.random() < 0.5:
        german += f", nachdem {er} {time[0]} gewartet hatte"
        english += f" after {he} had {either(p, 'waited', 'been waiting')} for {time[1]}"
    return f"{german}.", f"{english}."


def negated(p: Phrases) -> Pair:
    """Obwohl Anna 2 Stunden gesucht hat, hat sie das alte Buch nicht gefunden."""
    name, (er, he) = p.person()
    what, time, where = p.thing("acc", "definite")[0], p.duration(), p.where()
    german = f"Obwohl {name} {time[0]} {where[0]} gesucht hat, hat {er} {what[0]} nicht gefunden."
    return german, (
        f"{either(p, 'Although', 'Even though')} {name} searched {where[1]} for {time[1]}, "
        f"{he} {either(p, 'did not find', 'has not found')} {what[1]}."
    )


def compared(p: Phrases) -> Pair:
    """Die Milch aus Italien ist um 12,5 % teurer als die aus der Schweiz."""
    good, english_good, _ = p.rng.choice(lexicon.GOODS)
    rate, first, second = p.percent(), p.from_country(), p.from_country()
    german_more, english_more = p.rng.choice(
        (("teurer", "more expensive"), ("billiger", "cheaper"), ("besser", "better"))
    )
    if german_more == "besser":
        german = f"{good} {first[0]} ist besser als {good} {second[0]}."
        return (
            german,
            f"{capital(english_good)} {first[1]} is better than {english_good} {second[1]}.",
        )
    german = f"{good} {first[0]} ist um {rate[0]} {german_more} als {good} {second[0]}."
    return german, (
        f"{capital(english_good)} {first[1]} is {rate[1]} {english_more} than "
        f"{english_good} {second[1]}."
    )


def opening(p: Phrases) -> Pair:
    """Das Geschäft in Rom ist am Montag von 8:00 Uhr bis 18:00 Uhr geöffnet."""
    shop, readings = p.rng.choice(
        (
            ("Das Geschäft", ("shop", "store")),
            ("Das Museum", ("museum", "museum")),
            ("Die Bank", ("bank", "bank")),
            ("Die Apotheke", ("pharmacy", "drugstore")),
            ("Der Markt", ("market", "market")),
        )
    )
    where, day, first, last = p.where(), p.weekday(), p.clock(6, 11), p.clock(13, 22)
    state, english = p.rng.choice((("geöffnet", "open"), ("geschlossen", "closed")))
    german = f"{shop} {where[0]} ist {day[0]} von {first[0]} bis {last[0]} {state}."
    return german, (
        f"The {either(p, *readings)} {where[1]} is {english} from {first[1]} "
        f"{either(p, 'to', 'until')} {last[1]} {day[1]}."
    )


def born(p: Phrases) -> Pair:
    """Anna wurde am 4. März 2019 in Rom geboren und lebt heute in der Schweiz."""
    name, _ = p.person()
    when, city, where = p.date(), p.city(), p.in_country()
    german = f"{name} wurde {when[0]} in {city[0]} geboren und lebt heute {where[0]}."
    return german, (
        f"{name} was born {when[1]} in {city[1]} and "
        f"{either(p, 'now lives', 'lives today')} {where[1]}."
    )


def fast(p: Phrases) -> Pair:
    """Das neue Schiff fährt 30 Knoten, das alte Schiff aber nur 12 Knoten."""
    first, _ = p.thing("nom", "definite", [n for n in lexicon.VEHICLES if n.english in _MOVING])
    second, _ = p.thing("nom", "definite", [n for n in lexicon.VEHICLES if n.english in _MOVING])
    one, two = p.measure("speed"), p.measure("speed")
    return f"{capital(first[0])} schafft {one[0]}, {second[0]} aber nur {two[0]}.", (
        f"{capital(first[1])} reaches {one[1]}, but {second[1]} "
        f"{either(p, 'only', 'no more than')} {two[1]}."
    )


_MOVING = ("ship", "train", "bus", "plane")

PATTERNS: tuple[Pattern, ...] = (
    traded, event, speaks, moved, price, delay, delivered, trend, speakers, measured, question,
    exchange, asks, must, relative, handled, negated, compared, opening, born, fast,
)  # fmt: skip
