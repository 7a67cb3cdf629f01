"""German words with their inflection, and their English counterparts.

What CLDR does not have: people, things, adjectives, verbs, and the countries whose German name
takes an article.
"""

from __future__ import annotations

from typing import NamedTuple


class Noun(NamedTuple):
    """A countable noun: German singular, gender (m, f, n), plural; English singular, plural."""

    singular: str
    gender: str
    plural: str
    english: str
    english_plural: str


class Verb(NamedTuple):
    """German past participle (with haben) and infinitive; English past tense and base form."""

    participle: str
    infinitive: str
    english_past: str
    english: str


def _words(text: str) -> list[str]:
    return text.split()


def _nouns(text: str) -> list[Noun]:
    return [Noun(*line.split()) for line in text.strip().splitlines()]


WOMEN = _words("""
Anna Maria Julia Laura Lena Sarah Lisa Katharina Sophie Emma Hannah Mia Clara Ida Greta Nora
Helene Johanna Charlotte Paula Marta Elif Aylin Olga Irina Priya Chiara Ingrid Astrid Yuki
""")
MEN = _words("""
Paul Jonas Felix Lukas Max Leon Jakob David Thomas Stefan Peter Martin Oskar Emil Anton Karl
Friedrich Johannes Moritz Simon Mehmet Emre Pavel Igor Ravi Marco Lars Sven Kenji Omar
""")


THINGS = _nouns("""
Buch n Bücher book books
Tisch m Tische table tables
Stuhl m Stühle chair chairs
Lampe f Lampen lamp lamps
Uhr f Uhren watch watches
Koffer m Koffer suitcase suitcases
Fahrrad n Fahrräder bicycle bicycles
Teppich m Teppiche carpet carpets
Schrank m Schränke cupboard cupboards
Schlüssel m Schlüssel key keys
Hemd n Hemden shirt shirts
Kleid n Kleider dress dresses
Mantel m Mäntel coat coats
Schuh m Schuhe shoe shoes
Hut m Hüte hat hats
Ring m Ringe ring rings
Kette f Ketten necklace necklaces
Bild n Bilder picture pictures
Kamera f Kameras camera cameras
Geige f Geigen violin violins
Klavier n Klaviere piano pianos
Gitarre f Gitarren guitar guitars
Glas n Gläser glass glasses
Tasse f Tassen cup cups
Teller m Teller plate plates
Messer n Messer knife knives
Gabel f Gabeln fork forks
Löffel m Löffel spoon spoons
Flasche f Flaschen bottle bottles
Korb m Körbe basket baskets
Zelt n Zelte tent tents
Boot n Boote boat boats
Ball m Bälle ball balls
Puppe f Puppen doll dolls
Spiegel m Spiegel mirror mirrors
Kissen n Kissen pillow pillows
Decke f Decken blanket blankets
Vase f Vasen vase vases
Kerze f Kerzen candle candles
Brief m Briefe letter letters
Karte f Karten map maps
Zeitung f Zeitungen newspaper newspapers
Drucker m Drucker printer printers
Bildschirm m Bildschirme screen screens
Regenschirm m Regenschirme umbrella umbrellas
Rucksack m Rucksäcke backpack backpacks
Brille f Brillen pair_of_glasses pairs_of_glasses
Apfel m Äpfel apple apples
Kuchen m Kuchen cake cakes
Brot n Brote loaf_of_bread loaves_of_bread
""")
VEHICLES = _nouns("""
Schiff n Schiffe ship ships
Brücke f Brücken bridge bridges
Tunnel m Tunnel tunnel tunnels
Turm m Türme tower towers
Halle f Hallen hall halls
Straße f Straßen street streets
Zug m Züge train trains
Bus m Busse bus buses
Flugzeug n Flugzeuge plane planes
""")
# stem : comparative : English : English comparative. The stem takes the endings.
ADJECTIVES = [
    tuple(line.split(":"))
    for line in """
alt:old
neu:new
klein:small
groß:big
rot:red
blau:blue
grün:green
schwarz:black
weiß:white
gelb:yellow
schön:beautiful
billig:cheap
schwer:heavy
leicht:light
leer:empty
rund:round
lang:long
kurz:short
kaputt:broken
sauber:clean
schmutzig:dirty
hell:bright
gebraucht:used
bunt:colorful
praktisch:practical
einfach:simple
wertvoll:valuable
hässlich:ugly
seltsam:strange
modern:modern
""".strip().splitlines()
]
# Goods that are measured: German, English, allowed kind of unit.
GOODS = [
    tuple(line.split(":"))
    for line in """
Milch:milk:volume
Wasser:water:volume
Öl:oil:volume
Wein:wine:volume
Bier:beer:volume
Essig:vinegar:volume
Benzin:gasoline:volume
Saft:juice:volume
Farbe:paint:volume
Reis:rice:mass
Mehl:flour:mass
Zucker:sugar:mass
Salz:salt:mass
Kaffee:coffee:mass
Tee:tea:mass
Käse:cheese:mass
Butter:butter:mass
Fleisch:meat:mass
Fisch:fish:mass
Weizen:wheat:mass
Obst:fruit:mass
Gemüse:vegetables:mass
Honig:honey:mass
Schokolade:chocolate:mass
Kupfer:copper:mass
Stahl:steel:mass
Gold:gold:mass
Silber:silver:mass
Holz:wood:mass
Baumwolle:cotton:mass
Papier:paper:mass
Pfeffer:pepper:mass
""".strip().splitlines()
]
TRADE = [
    Verb("gekauft", "kaufen", "bought", "buy"),
    Verb("verkauft", "verkaufen", "sold", "sell"),
    Verb("bestellt", "bestellen", "ordered", "order"),
    Verb("bekommen", "bekommen", "got", "get"),
    Verb("angeboten", "anbieten", "offered", "offer"),
    Verb("gemietet", "mieten", "rented", "rent"),
]
HANDLING = [
    Verb("repariert", "reparieren", "repaired", "repair"),
    Verb("gefunden", "finden", "found", "find"),
    Verb("verloren", "verlieren", "lost", "lose"),
    Verb("abgeholt", "abholen", "picked up", "pick up"),
    Verb("mitgebracht", "mitbringen", "brought along", "bring along"),
    Verb("vergessen", "vergessen", "forgot", "forget"),
    Verb("gesehen", "sehen", "saw", "see"),
    Verb("eingepackt", "einpacken", "packed", "pack"),
    Verb("zurückgegeben", "zurückgeben", "returned", "return"),
    Verb("aufgehängt", "aufhängen", "hung up", "hang up"),
]
# German event, its article, English readings (the first is the usual one).
EVENTS = [
    ("Treffen", "das", ("meeting", "gathering")),
    ("Sitzung", "die", ("meeting", "session")),
    ("Konzert", "das", ("concert",)),
    ("Prüfung", "die", ("exam", "test")),
    ("Vortrag", "der", ("lecture", "talk")),
    ("Kurs", "der", ("course", "class")),
    ("Feier", "die", ("party", "celebration")),
    ("Ausstellung", "die", ("exhibition", "show")),
    ("Besprechung", "die", ("meeting", "discussion")),
    ("Spiel", "das", ("game", "match")),
]

# American words and their British counterparts, beside those that CLDR knows.
BRITISH = {
    "colorful": "colourful",
    "gasoline": "petrol",
    "traveled": "travelled",
    "drugstore": "chemist",
    "pharmacy": "chemist",
    " store ": " shop ",
}
NUMBERS = {
    2: ("zwei", "two"),
    3: ("drei", "three"),
    4: ("vier", "four"),
    5: ("fünf", "five"),
    6: ("sechs", "six"),
    7: ("sieben", "seven"),
    8: ("acht", "eight"),
    9: ("neun", "nine"),
    10: ("zehn", "ten"),
    11: ("elf", "eleven"),
    12: ("zwölf", "twelve"),
}

# Countries with an article in German: where, where to, where from.
COUNTRIES_WITH_ARTICLE = {
    "CH": ("in der Schweiz", "in die Schweiz", "aus der Schweiz"),
    "TR": ("in der Türkei", "in die Türkei", "aus der Türkei"),
    "UA": ("in der Ukraine", "in die Ukraine", "aus der Ukraine"),
    "SK": ("in der Slowakei", "in die Slowakei", "aus der Slowakei"),
    "MN": ("in der Mongolei", "in die Mongolei", "aus der Mongolei"),
    "NL": ("in den Niederlanden", "in die Niederlande", "aus den Niederlanden"),
    "PH": ("auf den Philippinen", "auf die Philippinen", "von den Philippinen"),
    "MV": ("auf den Malediven", "auf die Malediven", "von den Malediven"),
    "BS": ("auf den Bahamas", "auf die Bahamas", "von den Bahamas"),
    "SC": ("auf den Seychellen", "auf die Seychellen", "von den Seychellen"),
    "KM": ("auf den Komoren", "auf die Komoren", "von den Komoren"),
    "US": (
        "in den Vereinigten Staaten",
        "in die Vereinigten Staaten",
        "aus den Vereinigten Staaten",
    ),
    "GB": (
        "im Vereinigten Königreich",
        "ins Vereinigte Königreich",
        "aus dem Vereinigten Königreich",
    ),
    "AE": (
        "in den Vereinigten Arabischen Emiraten",
        "in die Vereinigten Arabischen Emirate",
        "aus den Vereinigten Arabischen Emiraten",
    ),
    "DO": (
        "in der Dominikanischen Republik",
        "in die Dominikanische Republik",
        "aus der Dominikanischen Republik",
    ),
    "IQ": ("im Irak", "in den Irak", "aus dem Irak"),
    "IR": ("im Iran", "in den Iran", "aus dem Iran"),
    "LB": ("im Libanon", "in den Libanon", "aus dem Libanon"),
    "YE": ("im Jemen", "in den Jemen", "aus dem Jemen"),
    "SD": ("im Sudan", "in den Sudan", "aus dem Sudan"),
    "TD": ("im Tschad", "in den Tschad", "aus dem Tschad"),
    "NE": ("im Niger", "in den Niger", "aus dem Niger"),
}
ENGLISH_THE = frozenset(_words("NL PH MV BS SC KM US GB AE DO"))

_ENDINGS = {
    # strong: without an article, as after a number; weak: after der/die/das; mixed: after ein.
    ("strong", "p"): {"nom": "e", "acc": "e", "dat": "en"},
    ("weak", "p"): {"nom": "en", "acc": "en", "dat": "en"},
    ("weak", "m"): {"nom": "e", "acc": "en", "dat": "en"},
    ("weak", "f"): {"nom": "e", "acc": "e", "dat": "en"},
    ("weak", "n"): {"nom": "e", "acc": "e", "dat": "en"},
    ("mixed", "m"): {"nom": "er", "acc": "en", "dat": "en"},
    ("mixed", "f"): {"nom": "e", "acc": "e", "dat": "en"},
    ("mixed", "n"): {"nom": "es", "acc": "es", "dat": "en"},
}
_DEFINITE = {
    "m": {"nom": "der", "acc": "den", "dat": "dem"},
    "f": {"nom": "die", "acc": "die", "dat": "der"},
    "n": {"nom": "das", "acc": "das", "dat": "dem"},
    "p": {"nom": "die", "acc": "die", "dat": "den"},
}
_INDEFINITE = {
    "m": {"nom": "ein", "acc": "einen", "dat": "einem"},
    "f": {"nom": "eine", "acc": "eine", "dat": "einer"},
    "n": {"nom": "ein", "acc": "ein", "dat": "einem"},
}


def inflect(adjective: str, pattern: str, gender: str, case: str) -> str:
    """Adjective with its ending; ``gender`` is m, f, n or p (plural)."""
    return adjective + _ENDINGS[pattern, gender][case]


def definite(gender: str, case: str) -> str:
    """der, die, das ..."""
    return _DEFINITE[gender][case]


def indefinite(gender: str, case: str) -> str:
    """ein, eine, einen ..."""
    return _INDEFINITE[gender][case]


def dative_plural(noun: Noun) -> str:
    """The plural with the dative's -n."""
    return noun.plural if noun.plural.endswith(("n", "s")) else noun.plural + "n"


def english_article(phrase: str) -> str:
    """``phrase`` with a or an."""
    vowel = phrase[0].lower() in "aeiou" and not phrase.startswith("used")
    return f"{'an' if vowel else 'a'} {phrase}"
