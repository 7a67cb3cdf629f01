"""What a recipe says about its text: where it comes from, how it is cleaned, what it may be
used for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from recipes.errors import require

FORMATS = ("plain", "iwslt-tags", "sgml", "tmx", "tsv", "tsv-references", "labelled-references")
TOKENISATIONS = ("none", "moses")
# One file for both languages, whose reader takes the sides apart.
BOTH_SIDES = ("tmx", "tsv", "tsv-references", "labelled-references")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass
class Corpus:
    """A corpus made by a module of :mod:`recipes.corpora` instead of files in ``--data-dir``."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DownloadedFile:
    """A file that is downloaded into the cache, under its name in ``data.files``.

    Where ``sha256`` is null the checksum is not known beforehand: the one found is printed and
    kept in the work-dir, and another one is refused later. ``bytes`` is the size, to announce it.
    """

    address: str
    sha256: str | None = None
    bytes: int | None = None
    licence: str = ""


@dataclass
class TextSource:
    """A part of a split's text: files, members of an archive, or one of sacrebleu's test sets.

    Args:
        text: the file of each language, by language code, or one name with ``{lang}`` for the
            code: a name in ``data.files`` or, where ``archive`` is given, a member of that
            archive. Files of ``--data-dir`` are taken by the same names.
        archive: a name in ``data.files``; .tgz, .tar and .zip are known.
        format: how lines are read out of the file, see :mod:`recipes.data.formats`.
        references: more references, one file each, in the format of the first.
        columns: for ``tsv``, the column of each language, counted from 1.
        tokenisation: ``moses`` for text that Moses' tokenizer wrote; its words are put together.
        sacrebleu: name of a test set of sacrebleu, as ``wmt14/full``.
        language_pair: that test set's language pair; the recipe's own if not given. One in the
            other direction swaps source and reference.
    """

    text: dict[str, str] = field(default_factory=dict)
    archive: str | None = None
    format: str = "plain"
    references: list[str] = field(default_factory=list)
    columns: dict[str, int] = field(default_factory=dict)
    tokenisation: str = "none"
    sacrebleu: str | None = None
    language_pair: str | None = None

    @property
    def files(self) -> list[str]:
        """Names of the files it is read from, without repetition."""
        texts = [*self.text.values(), *self.references]
        return [self.archive] if self.archive else list(dict.fromkeys(texts))


@dataclass
class Cleaning:
    """Which pairs are taken out of the training text; lengths in words between white space.

    Args:
        max_length: longest sentence, on either side.
        max_length_ratio: largest ratio of the longer side's length to the shorter one's.
        empty: take pairs with an empty side out.
        identical: take pairs out whose sides are equal.
        duplicates: keep the first of equal pairs.
    """

    max_length: int | None = None
    max_length_ratio: float | None = None
    empty: bool = True
    identical: bool = False
    duplicates: bool = False


@dataclass
class HoldOut:
    """Splits that are cut out of the (cleaned) training text where nothing else gives them.

    Args:
        every: every ``every``-th pair goes to the valid split.
        clusters: number of pairs by split, drawn so that no sentence is in two splits. All of
            the training text is held in memory for it.
        several: with ``clusters``, a further test set: the sources of the pairs so drawn that
            have several references, with all of them.
    """

    every: int | None = None
    clusters: dict[str, int] = field(default_factory=dict)
    several: str | None = None

    def splits(self, valid: str) -> list[str]:
        """The splits that can be cut out."""
        if self.every is not None:
            return [valid]
        return [*self.clusters, *([self.several] if self.several else [])]


@dataclass
class Data:
    """Parallel text: the file ``PREFIX.LANG`` for every split and language.

    Args:
        sources: where the text of a split comes from, by split, unless ``--data-dir`` holds it.
        files: what is downloaded for them, by file name.
        references: files of the references of a test set that has several, by split. They lie
            in the folder of the text; ``PREFIX.LANG.0``, ``PREFIX.LANG.1`` ... need no mention.
        hold_out: cuts splits out of the training text.
        lowercase: lower-case all text.
        licence: of the text, in words.
        size: number of training pairs, in words.
        tried: whether the downloads were tried when the recipe was written.
    """

    train: str = "train"
    valid: str = "valid"
    tests: list[str] = field(default_factory=lambda: ["test"])
    corpus: Corpus | None = None
    files: dict[str, DownloadedFile] = field(default_factory=dict)
    sources: dict[str, list[TextSource]] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)
    cleaning: Cleaning | None = None
    hold_out: HoldOut | None = None
    lowercase: bool = False
    licence: str = ""
    size: str = ""
    tried: bool = True

    @property
    def splits(self) -> list[str]:
        """All prefixes, in the order train, valid, tests."""
        return [self.train, self.valid, *self.tests]


def check_data(data: Data, languages: tuple[str, str]) -> None:
    """Checks of ``data:`` that need more than one key.

    Raises:
        ConfigError: names the key.
    """
    splits = data.splits
    require(len(set(splits)) == len(splits), f"data: two splits are the same file: {splits}")
    for name, file in data.files.items():
        http = file.address.startswith(("http://", "https://"))
        require(http, f"data.files.{name}.address: {file.address!r} is not http(s)")
        digits = "expected 64 hexadecimal digits (lower case), or null"
        known = file.sha256 is None or _SHA256.match(file.sha256)
        require(known, f"data.files.{name}.sha256: {digits}")
    for split, sources in data.sources.items():
        for number, source in enumerate(sources):
            _check_source(source, f"data.sources.{split}[{number}]", data, languages)
    for split in data.references:
        known = split in data.tests or split in data.sources
        require(known, f"data.references: {split!r} is not a test set ({data.tests})")
    corpus = None if data.corpus is None else data.corpus.name
    require(corpus in (None, "cldr"), f"data.corpus.name: unknown {corpus!r} (known: cldr)")
    both = data.corpus is not None and data.sources
    require(not both, "data: give either a corpus or sources, not both")
    if data.hold_out is not None:
        _check_hold_out(data.hold_out, data)
    if data.cleaning is not None:
        length, ratio = data.cleaning.max_length, data.cleaning.max_length_ratio
        require(length is None or length >= 1, "data.cleaning.max_length: at least 1 word")
        longer = "data.cleaning.max_length_ratio: longer over shorter, at least 1"
        require(ratio is None or ratio >= 1, longer)
        clean = "data.cleaning: a corpus that the recipe makes is clean already"
        require(data.corpus is None, clean)


def _check_hold_out(hold_out: HoldOut, data: Data) -> None:
    every, clusters = hold_out.every, hold_out.clusters
    require((every is None) != (not clusters), "data.hold_out: give either every or clusters")
    left = "data.hold_out.every: at least 2, so that training text is left"
    require(every is None or every >= 2, left)
    require(hold_out.several is None or clusters, "data.hold_out.several: needs clusters")
    others = ", ".join(data.splits[1:])
    for split in hold_out.splits(data.valid):
        neither = f"data.hold_out: {split!r} is neither the valid split nor a test set ({others})"
        require(split in data.splits[1:], neither)
    least = "data.hold_out.clusters: at least 1 pair for each split"
    require(all(count >= 1 for count in clusters.values()), least)


def _check_source(source: TextSource, where: str, data: Data, languages: tuple[str, str]) -> None:
    if source.sacrebleu is not None:
        both = source.text or source.archive
        require(not both, f"{where}: give either sacrebleu or text, not both")
        return
    pair = source.language_pair
    require(pair is None, f"{where}.language_pair: belongs to a test set of sacrebleu")
    for key, known in (("format", FORMATS), ("tokenisation", TOKENISATIONS)):
        value = getattr(source, key)
        names = ", ".join(known)
        require(value in known, f"{where}.{key}: {value!r} is not one of {names}")
    for lang in languages:
        require(lang in source.text, f"{where}.text: no file for language {lang!r}")
    archive = source.archive
    unknown = f"{where}.archive: {archive!r} is not in data.files"
    require(archive is None or archive in data.files, unknown)
    if source.format in BOTH_SIDES:
        one = f"{where}.text: format {source.format} holds both languages in one file"
        require(len({source.text[lang] for lang in languages}) == 1, one)
        inside = f"{where}.references: format {source.format} has them in the same file"
        require(not source.references, inside)
    else:
        own = f"{where}.text: the same file for both languages; write {{lang}} in its name"
        require(len({source.text[lang] for lang in languages}) == len(set(languages)), own)
    columns = source.columns
    needed = f"{where}.columns: needed for format tsv, and for no other"
    require((source.format == "tsv") == bool(columns), needed)
    counted = not columns or all(columns.get(lang, 0) >= 1 for lang in languages)
    require(counted, f"{where}.columns: give the column of each language, counted from 1")
