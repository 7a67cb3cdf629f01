"""German-English sentences about dates, times, money, places and things, made from CLDR.

Formats, names and plural forms come from CLDR through Babel. One German sentence has several
English translations, of which one is drawn at random, as different translators would choose:
another word order, another format of a date, another word. So it is in real text, and so a model
that chooses all words at once and is trained with cross-entropy mixes several translations.

Deterministic for a seed and a version of CLDR: the same lines on every machine.
"""

from __future__ import annotations

import datetime
import functools
import random
import re
from typing import Any, Literal

import babel
from babel import Locale, dates, numbers, units

from recipes.errors import ConfigError
from recipes.schema.recipe import Recipe

Pair = tuple[str, ...]  # German, English
Unit = Literal["day", "week", "month", "year"]

_OPTIONS = {"train": 12000, "valid": 500, "test": 2500, "seed": 1}
_DE, _US, _GB = Locale("de"), Locale("en", "US"), Locale("en", "GB")

# German = English. One of [A|B] is drawn, on each side by itself; {phrases} are the same on both.
_SENTENCES = """
[{name} hat {past}|{past} hat {name}] {where} {thing} für {money} {done}.
= [{name} {done} {thing} {where} for {money} {past}
|{past}, {name} {done} {thing} for {money} {where}].
[{name} hat {past}|{past} hat {name}] {thing} {where} {done}.
= [{name} {done} {thing} {where} {past}|{past}, {name} {done} {thing} {where}].
[{event} beginnt {day} um {clock} {where}|{day} um {clock} beginnt {event} {where}].
= [{event} {where} [starts|begins] at {clock} {day}
|{day} at {clock}, {event} [starts|begins] {where}].
[{name} ist {past}|{past} ist {name}] von {city} {to} {gone}.
= [{name} {gone} from {city} {to} {past}|{past}, {name} {gone} {to} from {city}].
Weil {name} {language} spricht, {stays} {he} seit {long} {where}.
= [[because|since] {name} speaks {language}, {he} has been {stays} {where} for {long}
|{name} has been {stays} {where} for {long} [because|since] {he} speaks {language}].
{name} {stays} seit {long} {where}, obwohl {he} {language} nicht versteht.
= [[although|even though] {name} does not understand {language}, {he} has been {stays} {where}
 for {long}
|{name} has been {stays} {where} for {long} [although|even though] {he} does not understand
 {language}].
[{name} {must} {thing} {future}|{future} {must} {name} {thing}] {to} {send}.
= [{name} {must} {send} {thing} {to} {future}|{future}, {name} {must} {send} {thing} {to}].
Der {vehicle} nach {city} hat {late} Verspätung und kommt um {clock} an.
= The {vehicle} to {city} is [{late} late|delayed by {late}] and [arrives|will arrive] at {clock}.
{name} fragt, ob {event} {where} {future} um {clock} beginnt.
= {name} [asks|would like to know] [whether|if] [{event} {where} [starts|begins] {future} at {clock}
|{event} [starts|begins] {where} at {clock} {future}].
Wie viel hat {name} {past} {where} für {thing} bezahlt?
= [how much did {name} pay for {thing} {where} {past}
|{past}, how much did {name} pay for {thing} {where}]?
"""
_WOMEN = "Anna Maria Julia Laura Lena Sarah Clara Greta Nora Paula Elif Irina Priya Ingrid Yuki"
_MEN = "Paul Jonas Felix Lukas Max Jakob Stefan Peter Oskar Karl Mehmet Igor Ravi Sven Omar"
_COUNTRIES = "DE FR IT ES PL AT JP CN IN BR SE GR CA RU EG MX NO DK FI PT BE HU IE KE"
_LANGUAGES = "en fr es it ru zh ja ar tr pl nl pt sv el ko cs da fi hu"
_CURRENCIES = "EUR USD GBP JPY INR"
_CITIES = """Europe/Athens Europe/Belgrade Europe/Brussels Europe/Bucharest Europe/Copenhagen
Europe/Dublin Europe/Kiev Europe/Lisbon Europe/London Europe/Moscow Europe/Prague Europe/Rome
Europe/Vienna Europe/Warsaw Europe/Zurich Asia/Tokyo Asia/Singapore Asia/Hong_Kong Asia/Tehran
Asia/Baghdad Asia/Damascus Asia/Calcutta Asia/Taipei Asia/Tbilisi"""

# German singular, gender, plural; English singular, plural.
_NOUNS = """
Buch n Bücher book books, Tisch m Tische table tables, Stuhl m Stühle chair chairs,
Lampe f Lampen lamp lamps, Uhr f Uhren watch watches, Koffer m Koffer suitcase suitcases,
Fahrrad n Fahrräder bicycle bicycles, Teppich m Teppiche carpet carpets,
Schrank m Schränke cupboard cupboards, Schlüssel m Schlüssel key keys, Hemd n Hemden shirt shirts,
Kleid n Kleider dress dresses, Mantel m Mäntel coat coats, Hut m Hüte hat hats,
Ring m Ringe ring rings, Kette f Ketten necklace necklaces, Bild n Bilder picture pictures,
Geige f Geigen violin violins, Gitarre f Gitarren guitar guitars, Glas n Gläser glass glasses,
Tasse f Tassen cup cups, Messer n Messer knife knives, Flasche f Flaschen bottle bottles,
Korb m Körbe basket baskets, Zelt n Zelte tent tents, Puppe f Puppen doll dolls,
Spiegel m Spiegel mirror mirrors, Decke f Decken blanket blankets, Brief m Briefe letter letters,
Karte f Karten map maps
"""
# Accusative: the article, and the ending of the adjective.
_ARTICLES = {
    "m": {"a": "einen -en", "the": "den -en"},
    "f": {"a": "eine -e", "the": "die -e"},
    "n": {"a": "ein -es", "the": "das -e"},
    "plural": {"the": "die -en", "count": "{} -e"},
}
# Phrases that need no more than a word.
_WORDS = {
    "adjective": """alt old, neu new, klein [small|little], groß [big|large], rot red, blau blue,
grün green, schwarz black, weiß white, gelb yellow, schön beautiful, billig cheap, schwer heavy,
leicht light, leer empty, rund round, lang long, kaputt broken, schmutzig dirty, wertvoll
valuable""",
    "done": """gekauft bought, verkauft sold, bestellt ordered, gemietet rented, gefunden found,
bekommen [got|received], repariert [repaired|fixed], abgeholt [picked up|collected]""",
    "gone": "gezogen moved, geflogen flew, gereist travelled",
    "stays": "arbeitet working, lebt living, studiert studying",
    "must": """muss [has to|must], will wants to, soll [should|is supposed to],
kann [can|is able to]""",
    "send": "schicken send, bringen bring",
    "vehicle": "Zug train, Bus bus, Flug flight",
    "event": """das_Treffen the [meeting|gathering], die_Sitzung the [meeting|session], das_Konzert
the concert, die_Prüfung the [exam|test], der_Vortrag the [lecture|talk], der_Kurs the
[course|class], die_Feier the [party|celebration], das_Spiel the [game|match]""",
}


@functools.cache
def _entries(text: str) -> list[list[str]]:
    return [entry.split(maxsplit=1) for entry in " ".join(text.split()).split(", ")]


class _Phrases(dict[str, Pair]):
    """The phrases of one sentence: each is drawn when it is first asked for."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng

    def __missing__(self, slot: str) -> Pair:
        if slot in _WORDS:
            german, english = self.rng.choice(_entries(_WORDS[slot]))
            self[slot] = german.replace("_", " "), english
        else:
            self[slot] = getattr(self, slot)()
        return self[slot]

    def name(self) -> Pair:
        """Anna; and the pronoun, for ``he``."""
        women = self.rng.random() < 0.5
        self["he"] = ("sie", "she") if women else ("er", "he")
        name = self.rng.choice((_WOMEN if women else _MEN).split())
        return name, name

    def thing(self) -> Pair:
        """ein altes Buch, das alte Buch, die alten Bücher, 3 alte Bücher, in the accusative."""
        german, rest = self.rng.choice(_entries(_NOUNS))
        gender, german_plural, english, english_plural = rest.split()
        article = self.rng.choice(("a", "the", "the", "count"))
        if article == "count" or (article == "the" and self.rng.random() < 0.5):
            gender, german, english = "plural", german_plural, english_plural
        count = str(self.rng.randint(2, 12))
        german_article, ending = _ARTICLES[gender][article].format(count).split(" -")
        adjective, english_adjective = self["adjective"]
        indefinite = "an" if english_adjective[0] in "aeiou" else "a"
        english_article = {"a": indefinite, "count": count}.get(article, "the")
        return (
            f"{german_article} {adjective}{ending} {german}",
            f"{english_article} {english_adjective} {english}",
        )

    def money(self) -> Pair:
        """12 Euro / €12."""
        value = self.rng.choice((5, 10, 20, 30, 40, 50, 75, 100, 200, 500))
        code = self.rng.choice(_CURRENCIES.split())
        names = [numbers.get_currency_name(code, value, locale=x) for x in (_DE, _US)]
        symbol = numbers.get_currency_symbol(code, locale=_US)
        return f"{value} {names[0]}", f"[{value} {names[1]}|{symbol}{value}]"

    def late(self) -> Pair:
        """20 Minuten / 20 minutes."""
        count, unit = self.rng.randint(2, 20), self.rng.choice(("duration-minute", "duration-hour"))
        return tuple(units.format_unit(count, unit, "long", locale=x) for x in (_DE, _US))

    def _from_now(self, sign: int, *names: Unit) -> Pair:
        unit, count = self.rng.choice(names), self.rng.randint(1, 20)
        days = {"day": 1, "week": 7, "month": 31, "year": 366}[unit]
        delta = datetime.timedelta(days=sign * days * count)
        return tuple(
            dates.format_timedelta(delta, unit, 1e9, add_direction=True, locale=x)
            for x in (_DE, _US)
        )

    def long(self) -> Pair:
        """3 Tagen / 3 days: what follows seit and for."""
        german, english = self._from_now(-1, "week", "month", "year")
        return german.removeprefix("vor "), english.removesuffix(" ago")

    def _date(self, *styles: str) -> tuple[str, ...]:
        style = self.rng.choice(styles)
        day = datetime.date(2000, 1, 1) + datetime.timedelta(days=self.rng.randrange(9000))
        return tuple(dates.format_date(day, style, locale=x) for x in (_DE, _US, _GB))

    def day(self) -> Pair:
        """am Montag / on Monday, am 4. März 2019 / on March 4, 2019 or on 4 March 2019."""
        german, american, british = self._date("EEEE", "long")
        return f"am {german}", f"on [{american}|{british}]"

    def past(self) -> Pair:
        """A day, a month, or vor 3 Tagen / 3 days ago."""
        drawn = self.rng.random()
        if drawn < 0.4:
            return self.day()
        if drawn < 0.6:
            german, english, _ = self._date("MMMM y")
            return f"im {german}", f"in {english}"
        return self._from_now(-1, "day", "week", "year")

    def future(self) -> Pair:
        """in 3 Tagen / in 3 days or 3 days from now."""
        german, english = self._from_now(1, "day", "week", "month")
        return german, f"[{english}|{english.removeprefix('in ')} from now]"

    def clock(self) -> Pair:
        """14:30 Uhr / 2:30 PM or 14:30."""
        time = datetime.time(self.rng.randint(6, 22), self.rng.choice((0, 15, 30, 45)))
        german, american, british = (
            dates.format_time(time, "short", locale=x).replace("\u202f", " ")
            for x in (_DE, _US, _GB)
        )
        return f"{german} Uhr", f"[{american}|{british}]"

    def language(self) -> Pair:
        """Französisch / French."""
        code = self.rng.choice(_LANGUAGES.split())
        return _DE.languages[code], _US.languages[code]

    def city(self) -> Pair:
        """Rom / Rome: a city that a time zone is named after."""
        zone = self.rng.choice(_CITIES.split())
        same = zone.split("/")[1].replace("_", " ")
        german, english = (x.time_zones.get(zone, {}).get("city", same) for x in (_DE, _US))
        return german, english

    def where(self) -> Pair:
        """in Rom / in Rome, in Italien / in Italy."""
        german, english = self._country() if self.rng.random() < 0.5 else self.city()
        return f"in {german}", f"in {english}"

    def to(self) -> Pair:
        """nach Italien / to Italy."""
        german, english = self._country()
        return f"nach {german}", f"to {english}"

    def _country(self) -> Pair:
        code = self.rng.choice(_COUNTRIES.split())
        return _DE.territories[code], _US.territories[code]


def _expand(text: str, rng: random.Random) -> str:
    """``text`` with one alternative of each ``[A|B]``, the innermost first."""
    while True:
        chosen = re.sub(r"\[([^][]*)\]", lambda found: rng.choice(found[1].split("|")), text)
        if chosen == text:
            return text[0].upper() + text[1:]
        text = chosen


def version() -> str:
    """Babel's version: its locale data decides the wording."""
    return f"babel {babel.__version__}"


def pairs(count: int, seed: int) -> list[Pair]:
    """``count`` sentence pairs; no German and no English sentence occurs twice."""
    rng = random.Random(seed)
    lines = re.sub(r"\n(?=[=| ])", "", _SENTENCES.strip()).splitlines()
    patterns = [[side.strip() for side in line.split("=")] for line in lines]
    found: dict[str, str] = {}
    english_seen: set[str] = set()
    while len(found) < count:
        pattern, phrases = rng.choice(patterns), _Phrases(rng)
        needed = re.findall(r"{(\w+)}", pattern[0])
        drawn = [(slot, *phrases[slot]) for slot in needed]
        german = _expand(pattern[0].format_map({slot: text for slot, text, _ in drawn}), rng)
        english = _expand(pattern[1].format_map({slot: text for slot, _, text in drawn}), rng)
        if german not in found and english not in english_seen:
            english_seen.add(english)
            found[german] = english
    return list(found.items())


def make(recipe: Recipe, options: dict[str, Any]) -> dict[str, list[str]]:
    """Lines of all files of ``recipe``, by name.

    Args:
        options: ``train``, ``valid``, ``test`` (number of pairs, ``test`` for each test set)
            and ``seed``.
    """
    unknown = set(options) - set(_OPTIONS)
    if unknown:
        raise ConfigError(
            f"data.corpus.options: unknown {sorted(unknown)} (known: {', '.join(_OPTIONS)})"
        )
    if set(recipe.languages) != {"de", "en"}:
        raise ConfigError(f"corpus cldr has de and en, not {' and '.join(recipe.languages)}")
    settings = {**_OPTIONS, **options}
    sizes = {recipe.data.train: settings["train"], recipe.data.valid: settings["valid"]}
    sizes.update(dict.fromkeys(recipe.data.tests, settings["test"]))
    drawn = pairs(sum(sizes.values()), settings["seed"])
    files: dict[str, list[str]] = {}
    for split, size in sizes.items():
        part, drawn = drawn[:size], drawn[size:]
        files[f"{split}.de"] = [german for german, _ in part]
        files[f"{split}.en"] = [english for _, english in part]
    return files
