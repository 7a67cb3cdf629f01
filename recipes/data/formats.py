"""Sentence pairs out of the file formats that parallel text comes in.

Every reader yields ``(source, references)``: the source line and the list of its references,
which has one line everywhere but in formats for several references. ``docs/recipes.md`` lists them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any
from xml.etree import ElementTree

from sacremoses import MosesDetokenizer

from recipes.errors import RecipeError
from recipes.schema.recipe import TextSource

Pair = tuple[str, list[str]]
Lines = Callable[[str], Iterable[str]]

_SEGMENT = re.compile(r"<seg[^>]*>(.*?)</seg>", re.IGNORECASE | re.DOTALL)
_METADATA = re.compile(r"\s*<")
# A sign inside a word that the tokenizer marked, as in "twenty @-@ one"; ##AT## is an older mark.
_INSIDE = re.compile(r" (@|##AT##)(\S{1,3}?)\1 ")
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def read_pairs(source: TextSource, lines: Lines, languages: tuple[str, str]) -> Iterator[Pair]:
    """Sentence pairs of one source.

    Args:
        lines: gives the lines of a file by its name in ``source.text``.
        languages: source and target.

    Raises:
        RecipeError: the sides differ in length, or a file is not in its format.
    """
    first, second = (source.text[lang] for lang in languages)
    if source.format == "tmx":
        return _tmx(first, lines(first), languages)
    if source.format == "tsv":
        columns = [source.columns[lang] for lang in languages]
        return _tsv(first, lines(first), columns)
    if source.format == "tsv-references":
        return _tsv_references(first, lines(first))
    sides: dict[str, Callable[[Iterable[str]], Iterator[str]]]
    sides = {"plain": iter, "iwslt-tags": _without_metadata, "sgml": _segments}
    names = [first, second, *source.references]
    return zipped(names, [sides[source.format](lines(name)) for name in names])


def zipped(names: list[str], sides: list[Iterator[str]]) -> Iterator[Pair]:
    """Line by line, a source and its references; an error where one side is longer."""
    for number, (source, *references) in enumerate(zip_longest(*sides), start=1):
        row = [source, *references]
        if None in row:
            short = names[row.index(None)]
            long = names[next(i for i, text in enumerate(row) if text is not None)]
            raise RecipeError(
                f"{short} ends after {number - 1} sentences, {long} has more: not the same text"
            )
        yield source, references


def _without_metadata(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if not _METADATA.match(line))


def _segments(lines: Iterable[str]) -> Iterator[str]:
    """Segments may run over several lines; entities are resolved."""
    pending = ""
    for line in lines:
        pending = f"{pending} {line}" if pending else line
        if "</seg>" not in pending.lower() and "<seg" in pending.lower():
            continue
        for text in _SEGMENT.findall(pending):
            yield " ".join(html.unescape(text).split())
        pending = ""


def _tmx(name: str, lines: Iterable[str], languages: tuple[str, str]) -> Iterator[Pair]:
    parser: Any = ElementTree.XMLPullParser(["start", "end"])
    root: Any = None
    try:
        for line in lines:
            parser.feed(f"{line}\n")
            for event, element in parser.read_events():
                if root is None:
                    root = element
                if event == "end" and element.tag == "tu":
                    yield from _unit(element, languages)
                    element.clear()
                if event == "end" and element.tag == "body":
                    root.clear()
    except ElementTree.ParseError as error:
        raise RecipeError(f"{name} is not TMX: {error}") from error


def _unit(unit: ElementTree.Element, languages: tuple[str, str]) -> Iterator[Pair]:
    found = {}
    for variant in unit.iter("tuv"):
        language = variant.get(_LANGUAGE) or variant.get("lang") or ""
        segment = variant.find("seg")
        if segment is not None:
            found[language.lower().split("-")[0]] = " ".join("".join(segment.itertext()).split())
    if all(lang in found for lang in languages):
        yield found[languages[0]], [found[languages[1]]]


def _tsv(name: str, lines: Iterable[str], columns: list[int]) -> Iterator[Pair]:
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        if len(cells) < max(columns):
            raise RecipeError(f"{name}: line {number} has {len(cells)} columns, not {max(columns)}")
        yield cells[columns[0] - 1], [cells[columns[1] - 1]]


def _tsv_references(name: str, lines: Iterable[str]) -> Iterator[Pair]:
    for number, line in enumerate(lines, start=1):
        source, *references = line.split("\t")
        if not references:
            raise RecipeError(f"{name}: line {number} has no reference")
        yield source, references


def detokeniser(language: str) -> Callable[[str], str]:
    """Turns a tokenised line of ``language`` into text; Moses' escapes (``&apos;``) go too."""
    detokenizer = MosesDetokenizer(lang=language)

    def detokenise(line: str) -> str:
        words = _INSIDE.sub(r"\2", line).split()
        return str(detokenizer.detokenize(words, unescape=True))

    return detokenise
