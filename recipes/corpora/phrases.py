"""Phrases in German and English: dates, times, money, quantities, places, things.

Each method draws one phrase and returns it in both languages. Formats, names and plural forms
come from CLDR through Babel.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

from babel import Locale, dates, lists, numbers, units

from recipes.corpora import lexicon
from recipes.corpora.lexicon import Noun

T = TypeVar("T")
Pair = tuple[str, str]

_NO_COUNTRY = {"EU", "EZ", "UN", "XA", "XB", "ZZ", "QO", "AQ", "XK", "CF"}
# Parts of names that would need an article or an inflected adjective.
_AWKWARD = ("insel", "Insel", "Island", "&", "(", "Sonder", "Ameri", "Brit", "Demokrat")
_FIRST_COUNTRIES = "DE FR IT US GB ES PL AT CH NL JP CN IN BR TR SE GR CA RU EG"
_FIRST_CURRENCIES = "EUR USD GBP CHF JPY SEK PLN CZK CNY INR TRY BRL DKK NOK CAD AUD"
_FIRST_LANGUAGES = "en fr es it ru zh ja ar tr pl nl pt sv el hi ko cs da fi hu"
_UNITS = {
    "mass": ["mass-kilogram", "mass-gram", "mass-tonne", "mass-pound", "mass-ounce"],
    "volume": [
        "volume-liter",
        "volume-milliliter",
        "volume-hectoliter",
        "volume-cubic-meter",
        "volume-gallon",
        "volume-barrel",
        "volume-teaspoon",
        "volume-tablespoon",
    ],
    "length": ["length-meter", "length-kilometer", "length-centimeter", "length-foot"],
    "weight": ["mass-tonne", "mass-kilogram"],
    "speed": ["speed-kilometer-per-hour", "speed-mile-per-hour", "speed-knot"],
}
_DURATIONS = {"minute": 60, "hour": 24, "day": 30, "week": 12, "month": 12, "year": 40}
_SECONDS = {
    "minute": 60,
    "hour": 3600,
    "day": 86400,
    "week": 604800,
    "month": 2592000,
    "year": 31536000,
}


def plain(text: str) -> str:
    """CLDR's no-break and narrow spaces as ordinary ones."""
    return text.replace("\xa0", " ").replace("\u202f", " ").replace("\u2009", " ")


class Phrases:
    """Draws phrases with the random generator ``rng``."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.de = Locale("de")
        self.us = Locale("en", "US")
        self.gb = Locale("en", "GB")
        self.en = self.us

    def sentence(self, pattern: Callable[[Phrases], Pair]) -> Pair:
        """One sentence pair, its English all American or all British, as the translator was."""
        self.en = self.gb if self.rng.random() < 0.4 else self.us
        german, english = pattern(self)
        if self.en is self.gb:
            for american, british in lexicon.BRITISH.items():
                english = english.replace(american, british)
        return german, english

    def spelled(self, german: str, english: str, count: float) -> Pair:
        """Small numbers as words now and then, in each language by its own choice."""
        if count in lexicon.NUMBERS:
            german_word, english_word = lexicon.NUMBERS[int(count)]
            if self.rng.random() < 0.4:
                german = german.replace(f"{count} ", f"{german_word} ", 1)
            if self.rng.random() < 0.4:
                english = english.replace(f"{count} ", f"{english_word} ", 1)
        return german, english

    # Vocabularies: the common items first, then the others; drawn with falling probability.

    @cached_property
    def countries(self) -> list[str]:
        """Territory codes."""

        def usable(code: str) -> bool:
            names = f"{self.de.territories[code]} {self.us.territories.get(code, '')}"
            adjective = code not in lexicon.COUNTRIES_WITH_ARTICLE and "Republik" in names
            return not adjective and not any(word in names for word in _AWKWARD)

        codes = sorted(
            c
            for c in self.de.territories
            if len(c) == 2 and c.isalpha() and c not in _NO_COUNTRY and c in self.us.territories
        )
        return _common_first(_FIRST_COUNTRIES, [c for c in codes if usable(c)])

    @cached_property
    def currencies(self) -> list[str]:
        """Codes of the currencies in use somewhere."""
        day = datetime.date(2020, 1, 1)
        codes = {
            code
            for country in self.countries
            for code in numbers.get_territory_currencies(country, day, day)
        }
        names = {
            c: f"{self.de.currencies.get(c, '(')} {self.us.currencies.get(c, '(')}" for c in codes
        }
        named = [c for c in sorted(codes) if "(" not in names[c]]
        return _common_first(_FIRST_CURRENCIES, named)

    @cached_property
    def languages(self) -> list[str]:
        """Two-letter language codes."""
        codes = sorted(c for c in self.de.languages if len(c) == 2 and c in self.us.languages)
        return _common_first(_FIRST_LANGUAGES, codes)

    @cached_property
    def cities(self) -> list[Pair]:
        """Cities of the time zones."""
        zones = sorted(z for z in self.de.time_zones if "/" in z and not z.startswith("Etc/"))
        countries = {self.de.territories[c] for c in lexicon.COUNTRIES_WITH_ARTICLE}
        pairs: list[Pair] = []
        for zone in zones:
            fallback = zone.rsplit("/", 1)[1].replace("_", " ")
            german = self.de.time_zones[zone].get("city", fallback)
            english = self.us.time_zones.get(zone, {}).get("city", fallback)
            with_article = german in countries or any(word in german for word in _AWKWARD)
            if not with_article and (german, english) not in pairs:
                pairs.append((german, english))
        return pairs

    def common(self, items: Sequence[T]) -> T:
        """An item, the earlier the likelier (a long tail remains)."""
        return items[int(len(items) * self.rng.random() ** 2.5)]

    # Time.

    def day(self) -> datetime.date:
        """A date between 1990 and 2030."""
        return datetime.date(1990, 1, 1) + datetime.timedelta(days=self.rng.randrange(14600))

    def date(self) -> Pair:
        """am 4. März 2019 / on March 4, 2019, in several formats."""
        day = self.day()
        style = self.rng.choices(
            ("full", "long", "medium", "weekday", "month", "day"), (1, 3, 2, 1, 1, 2)
        )[0]
        if style == "weekday":
            return self.weekday(day)
        if style == "month":
            german = dates.format_skeleton("yMMMM", day, locale=self.de)
            return f"im {german}", f"in {dates.format_skeleton('yMMMM', day, locale=self.en)}"
        if style == "day":
            german = dates.format_skeleton("MMMMd", day, locale=self.de)
            return f"am {german}", f"on {dates.format_skeleton('MMMMd', day, locale=self.en)}"
        german = dates.format_date(day, style, locale=self.de).replace(", ", ", dem ")
        # A German numeric date is written out in English as often as it is abbreviated.
        other = self.rng.choice(("long", "medium")) if style == "medium" else style
        return f"am {german}", f"on {dates.format_date(day, other, locale=self.en)}"

    def weekday(self, day: datetime.date | None = None) -> Pair:
        """am Montag / on Monday."""
        day = day or self.day()
        names = (dates.format_date(day, "EEEE", locale=x) for x in (self.de, self.en))
        german, english = names
        return f"am {german}", f"on {english}"

    def clock(self, first: int = 0, last: int = 23) -> Pair:
        """14:05 Uhr / 2:05 PM."""
        time = datetime.time(
            self.rng.randint(first, last), self.rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50))
        )
        german = dates.format_time(time, "short", locale=self.de)
        return f"{german} Uhr", plain(dates.format_time(time, "short", locale=self.en))

    def _timedelta(self, direction: int) -> Pair:
        unit = self.rng.choice(list(_DURATIONS))
        count = self.rng.randint(1, self.common(range(2, _DURATIONS[unit] + 1)))
        delta = datetime.timedelta(seconds=direction * count * _SECONDS[unit])
        german, english = (
            dates.format_timedelta(
                delta, granularity=unit, threshold=1e9, add_direction=True, locale=locale
            )
            for locale in (self.de, self.en)
        )
        return self.spelled(german, english, count)

    def ago(self) -> Pair:
        """vor 3 Tagen / 3 days ago."""
        return self._timedelta(-1)

    def coming(self) -> Pair:
        """in 3 Tagen / in 3 days."""
        return self._timedelta(1)

    def since(self) -> Pair:
        """seit 3 Tagen / for 3 days (the dative is that of vor)."""
        german, english = self._timedelta(-1)
        return german.replace("vor ", "seit ", 1), f"for {english.removesuffix(' ago')}"

    def duration(self) -> Pair:
        """3 Tage / 3 days."""
        unit = self.rng.choice(("minute", "hour", "day", "week"))
        count = self.rng.randint(1, _DURATIONS[unit])
        return self.spelled(*self._unit(count, f"duration-{unit}"), count)

    def past(self) -> Pair:
        """A point in the past, as an adverbial."""
        return self.ago() if self.rng.random() < 0.5 else self.date()

    # Numbers.

    def _unit(self, value: float, unit: str) -> Pair:
        german, english = (
            plain(units.format_unit(value, unit, "long", locale=x)) for x in (self.de, self.en)
        )
        return german, english

    def number(self, largest: int = 100) -> float:
        """A number that is round or has one decimal."""
        value = self.rng.randint(1, self.common(range(2, largest)))
        return value + self.rng.randint(1, 9) / 10 if self.rng.random() < 0.3 else value

    def measure(self, kind: str) -> Pair:
        """3,5 Meter / 3.5 meters."""
        return self._unit(self.number(), self.rng.choice(_UNITS[kind]))

    def percent(self) -> Pair:
        """12,5 % / 12.5%."""
        value = round(self.number(60), 1) / 100
        german = numbers.format_percent(value, "#,##0.#\xa0%", locale=self.de)
        return plain(german), numbers.format_percent(value, "#,##0.#%", locale=self.en)

    def people(self) -> Pair:
        """2,5 Millionen / 2.5 million."""
        value = round(self.number(90), 1) * self.rng.choice((1000, 1000000))
        german, english = (
            plain(
                numbers.format_compact_decimal(
                    value, format_type="long", fraction_digits=1, locale=locale
                )
            )
            for locale in (self.de, self.en)
        )
        return german, english

    def currency(self, count: float = 10, code: str | None = None) -> Pair:
        """Schwedische Kronen / Swedish kronor."""
        code = code or self.common(self.currencies)
        german, english = (
            numbers.get_currency_name(code, count=count, locale=x) for x in (self.de, self.en)
        )
        return german, english

    def amount(self) -> Pair:
        """1.234,50 Schwedische Kronen / 1,234.50 Swedish kronor, or with the symbol."""
        value = self.number(1000) if self.rng.random() < 0.8 else self.rng.randint(1000, 99999)
        code = self.common(self.currencies)
        if self.rng.random() < 0.2:
            german, english = (
                plain(numbers.format_currency(value, code, locale=x)) for x in (self.de, self.en)
            )
            return german, english
        names = self.currency(value, code)
        german, english = (
            f"{numbers.format_decimal(value, locale=x)} {name}"
            for x, name in zip((self.de, self.en), names, strict=True)
        )
        return german, english

    def quantity(self) -> tuple[Pair, float]:
        """3,5 Liter Milch / 3.5 liters of milk, and the number."""
        german, english, kind = self.rng.choice(lexicon.GOODS)
        value = self.number()
        unit = self._unit(value, self.rng.choice(_UNITS[kind]))
        return (f"{unit[0]} {german}", f"{unit[1]} of {english}"), value

    # Names.

    def person(self) -> tuple[str, Pair]:
        """A first name and its pronouns."""
        if self.rng.random() < 0.5:
            return self.rng.choice(lexicon.WOMEN), ("sie", "she")
        return self.rng.choice(lexicon.MEN), ("er", "he")

    def city(self) -> Pair:
        """Rom / Rome."""
        return self.rng.choice(self.cities)

    def language(self) -> Pair:
        """Französisch / French."""
        code = self.common(self.languages)
        return self.de.languages[code], self.en.languages[code]

    def _country(self, form: int, preposition: str, code: str) -> str:
        forms = lexicon.COUNTRIES_WITH_ARTICLE.get(code)
        return forms[form] if forms else f"{preposition} {self.de.territories[code]}"

    def english_country(self, code: str) -> str:
        """The name, with the where English has it."""
        name = self.en.territories[code]
        return f"the {name}" if code in lexicon.ENGLISH_THE else name

    def in_country(self) -> Pair:
        """in der Schweiz / in Switzerland."""
        code = self.common(self.countries)
        return self._country(0, "in", code), f"in {self.english_country(code)}"

    def to_country(self) -> Pair:
        """in die Schweiz / to Switzerland."""
        code = self.common(self.countries)
        return self._country(1, "nach", code), f"to {self.english_country(code)}"

    def from_country(self) -> Pair:
        """aus der Schweiz / from Switzerland."""
        code = self.common(self.countries)
        return self._country(2, "aus", code), f"from {self.english_country(code)}"

    def where(self) -> Pair:
        """A country or a city, with its preposition."""
        if self.rng.random() < 0.5:
            return self.in_country()
        german, english = self.city()
        return f"in {german}", f"in {english}"

    def several(self, draw: Callable[[], Pair], most: int = 3) -> Pair:
        """A, B und C / A, B, and C: one to ``most`` different phrases out of ``draw``."""
        count = self.rng.randint(1, most)
        drawn: dict[str, str] = {}
        while len(drawn) < count:
            german, english = draw()
            drawn[german] = english
        german = lists.format_list(list(drawn), locale=self.de)
        return german, lists.format_list(list(drawn.values()), locale=self.en)

    def thing(
        self, case: str, form: str | None = None, nouns: Sequence[Noun] | None = None
    ) -> tuple[Pair, bool]:
        """A noun phrase in German ``case`` (nom, acc, dat), and whether it is plural.

        ``form`` is definite, indefinite, definite_plural or counted; None draws one.
        """
        noun = self.rng.choice(nouns or lexicon.THINGS)
        forms = ("definite", "indefinite", "definite_plural", "counted")
        form = form or self.rng.choice(forms)
        adjective, english_adjective = self.rng.choice(lexicon.ADJECTIVES)
        bare = self.rng.random() < 0.4
        plural = form in ("definite_plural", "counted")
        gender = "p" if plural else noun.gender
        german_noun = noun.singular
        if plural:
            german_noun = lexicon.dative_plural(noun) if case == "dat" else noun.plural
        pattern = {"counted": "strong", "indefinite": "mixed"}.get(form, "weak")
        word = "" if bare else lexicon.inflect(adjective, pattern, gender, case) + " "
        english = (noun.english_plural if plural else noun.english).replace("_", " ")
        english = english if bare else f"{english_adjective} {english}"
        if form == "counted":
            count = self.rng.randint(2, self.common(range(3, 60)))
            pair = self.spelled(f"{count} {word}{german_noun}", f"{count} {english}", count)
            return pair, plural
        if form == "indefinite":
            article = lexicon.indefinite(gender, case)
            return (f"{article} {word}{german_noun}", lexicon.english_article(english)), plural
        return (f"{lexicon.definite(gender, case)} {word}{german_noun}", f"the {english}"), plural


def _common_first(first: str, codes: list[str]) -> list[str]:
    known = [code for code in first.split() if code in codes]
    return known + [code for code in codes if code not in known]
