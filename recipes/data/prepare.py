"""The stage that writes PREFIX.LANG for every split: read, cleaned, lower-cased, cut."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from recipes.config import Recipe
from recipes.data.archives import lines_of
from recipes.data.checksums import Checksums
from recipes.data.cleaning import Cleaner
from recipes.data.download import default_cache_dir, fetch, file_size
from recipes.data.files import full_disk_named, written_together
from recipes.data.formats import Pair, read_pairs
from recipes.data.test_sets import language_pair, read_test_set
from recipes.data.tokenisation import detokeniser
from recipes.data_config import TextSource
from recipes.errors import RecipeError
from recipes.references import reference_files
from recipes.text import write_text


def reads_folder(recipe: Recipe, data_dir: Path | None) -> bool:
    """Whether all text is in ``data_dir`` as it is needed, so that nothing has to be written."""
    data = recipe.data
    if data_dir is None or data.corpus is not None:
        return False
    if data.cleaning is not None or data.lowercase:
        return False
    if not data.sources and data.hold_out is None:
        return True
    return all(_in_folder(recipe, data_dir, split) for split in data.splits)


def _in_folder(recipe: Recipe, data_dir: Path | None, split: str) -> bool:
    return data_dir is not None and all(
        (data_dir / f"{split}.{lang}").is_file() for lang in recipe.languages
    )


def missing_text(recipe: Recipe, data_dir: Path | None) -> str | None:
    """Why the text cannot be made from what is declared and given, or None."""
    data = recipe.data
    if data.corpus is not None:
        return None
    for split in data.splits:
        if _in_folder(recipe, data_dir, split):
            continue
        if split == data.valid and data.hold_out is not None:
            continue  # cut out of the training text, which has its own turn
        sources = data.sources.get(split, [])
        wanted = list(dict.fromkeys(name for source in sources for name in source.files))
        if data_dir is None:
            if not sources or any(name not in data.files for name in wanted):
                return f"give the folder of its text files with --data-dir ({_all_files(recipe)})"
            continue
        names = " and ".join(f"{split}.{lang}" for lang in recipe.languages)
        if not sources:
            return f"{split} does not exist in {data_dir}; --data-dir must hold {names}"
        if any(not (data_dir / name).is_file() for name in wanted):
            return (
                f"{data_dir} must hold {names}, or {' and '.join(wanted)}; with --data-dir "
                "nothing is downloaded but sacrebleu's test sets"
            )
    return None


def _all_files(recipe: Recipe) -> str:
    """What ``--data-dir`` has to hold: of each split the text, or what only it can provide."""
    names: list[str] = []
    for split in recipe.data.splits:
        sources = recipe.data.sources.get(split, [])
        raw = [n for source in sources for n in source.files if n not in recipe.data.files]
        names += raw or [f"{split}.{lang}" for lang in recipe.languages]
    return ", ".join(dict.fromkeys(names))


class Preparation:
    """Makes the text of ``recipe`` in ``text_dir``.

    Args:
        data_dir: folder that takes the place of the downloads: PREFIX.LANG, or the files named
            in ``data.sources``.
        cache_dir: where downloads are kept.
        say: prints one line.
    """

    def __init__(
        self,
        recipe: Recipe,
        text_dir: Path,
        data_dir: Path | None,
        cache_dir: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self.recipe = recipe
        self.data = recipe.data
        self.text_dir = text_dir
        self.data_dir = data_dir
        self.cache_dir = cache_dir or default_cache_dir()
        self.say = say
        self.checksums = Checksums(text_dir.parent / "checksums.json")
        self._paths: dict[str, Path] = {}

    def settings(self) -> dict[str, Any]:
        """What the text depends on, beside the files of ``data_dir``."""
        data = dataclasses.asdict(self.data)
        for key in ("licence", "size"):
            data.pop(key)
        for file in data["files"].values():
            for key in ("address", "licence", "bytes"):
                file.pop(key)
        given = [s for s in self.data.splits if _in_folder(self.recipe, self.data_dir, s)]
        return {**data, "languages": list(self.recipe.languages), "given": given}

    def inputs(self) -> dict[str, Path]:
        """The files of ``data_dir`` that are read."""
        if self.data_dir is None:
            return {}
        names: list[str] = []
        for split in self.data.splits:
            if _in_folder(self.recipe, self.data_dir, split):
                names += [f"{split}.{lang}" for lang in self.recipe.languages]
                names += [str(f.relative_to(self.data_dir)) for f in self._given_references(split)]
            elif split != self.data.valid or self.data.hold_out is None:
                names += [n for s in self.data.sources.get(split, []) for n in s.files]
        return {name: self.data_dir / name for name in names}

    def outputs(self) -> list[Path]:
        """PREFIX.LANG of every split."""
        return [
            self.text_dir / f"{split}.{lang}"
            for split in self.data.splits
            for lang in self.recipe.languages
        ]

    def details(self) -> list[str]:
        """What will be downloaded, one line each."""
        lines = []
        for split in self.data.splits:
            if _in_folder(self.recipe, self.data_dir, split):
                continue
            for source in self.data.sources.get(split, []):
                if source.sacrebleu:
                    pair = language_pair(source, self.recipe.languages)
                    lines.append(f"{split}: sacrebleu's {source.sacrebleu} {pair}")
                for name in source.files:
                    file = self.data.files.get(name)
                    if file is None or self.data_dir is not None:
                        lines.append(f"{split}: {name}")
                        continue
                    size = f", {file_size(file.bytes)}" if file.bytes else ""
                    licence = f", {file.licence}" if file.licence else ""
                    lines.append(f"{split}: {file.address}{size}{licence}")
        return list(dict.fromkeys(lines))

    def make(self) -> None:
        """Write all splits."""
        with full_disk_named(self.text_dir, "--work-dir"):
            # The small ones first: what fails should fail before the large downloads.
            for split in self.data.tests:
                self._write_test(split)
            held_out = self.data.hold_out is not None and not _in_folder(
                self.recipe, self.data_dir, self.data.valid
            )
            if not held_out:
                self._write(self.data.valid, self._pairs(self.data.valid))
            self._write_training(held_out)

    def _write_training(self, held_out: bool) -> None:
        pairs: Iterable[Pair] = self._pairs(self.data.train)
        cleaner = Cleaner(self.data.cleaning) if self.data.cleaning else None
        if cleaner is not None:
            pairs = cleaner(pairs)
        if held_out:
            assert self.data.hold_out is not None
            self._write_both(pairs, self.data.hold_out.every)
        else:
            self._write(self.data.train, pairs)
        if cleaner is not None:
            self.say(f"  {self.data.train}: {cleaner.summary()}")
            if not cleaner.counts()["kept"]:
                raise RecipeError(
                    f"data.cleaning leaves no pair of {self.data.train} ({cleaner.summary()})"
                )
            counts = json.dumps(cleaner.counts(), indent=1)
            write_text(self.text_dir / "cleaning.json", f"{counts}\n")

    def _names(self, split: str) -> list[Path]:
        return [self.text_dir / f"{split}.{lang}" for lang in self.recipe.languages]

    def _write(self, split: str, pairs: Iterable[Pair]) -> None:
        with written_together(self._names(split)) as files:
            for source, references in pairs:
                _line(files, source, references[0])

    def _write_both(self, pairs: Iterable[Pair], every: int) -> None:
        """Training and valid text; every ``every``-th pair goes to valid."""
        paths = [*self._names(self.data.train), *self._names(self.data.valid)]
        with written_together(paths) as files:
            for number, (source, references) in enumerate(pairs, start=1):
                side = files[2:] if number % every == 0 else files[:2]
                _line(side, source, references[0])

    def _write_test(self, split: str) -> None:
        """A test set with its references; ``PREFIX.LANG`` is the first of them."""
        pairs = list(self._pairs(split))
        several = max((len(references) for _, references in pairs), default=1)
        target = f"{split}.{self.recipe.target_lang}"
        named = self.data.references.get(split)
        if several == 1 and named is None:
            self._write(split, pairs)
            return
        names = named or [f"{target}.{number}" for number in range(several)]
        if len(names) != several:
            raise RecipeError(
                f"data.references.{split} names {len(names)} files, but the text has {several} "
                "references"
            )
        paths = [*self._names(split), *(self.text_dir / n for n in names if n != target)]
        columns = [index for index, name in enumerate(names) if name != target]
        with written_together(paths) as files:
            for source, references in pairs:
                padded = [text for text, _ in zip_longest(references, names, fillvalue="")]
                _line(files, source, references[0], *(padded[index] for index in columns))

    def _pairs(self, split: str) -> Iterator[Pair]:
        """All pairs of a split, detokenised and lower-cased."""
        if _in_folder(self.recipe, self.data_dir, split):
            pairs = self._given(split)
        else:
            pairs = (p for source in self.data.sources[split] for p in self._read(source))
        if not self.data.lowercase:
            yield from pairs
            return
        for source, references in pairs:
            yield source.lower(), [reference.lower() for reference in references]

    def _given_references(self, split: str) -> list[Path]:
        """References in ``data_dir``: ``PREFIX.LANG``, or several files."""
        assert self.data_dir is not None
        return reference_files(self.recipe, self.data_dir, split)

    def _given(self, split: str) -> Iterator[Pair]:
        """Pairs of ``data_dir``, a test set with all its references."""
        assert self.data_dir is not None
        folder = self.data_dir
        references = self._given_references(split)
        if len(references) == 1:
            plain = TextSource(text={lang: f"{split}.{lang}" for lang in self.recipe.languages})
            yield from read_pairs(plain, lambda n: lines_of(folder / n), self.recipe.languages)
            return
        files = [folder / f"{split}.{self.recipe.source_lang}", *references]
        try:
            for source, *row in zip(*map(lines_of, files), strict=True):
                yield source, row
        except ValueError as error:
            names = ", ".join(file.name for file in files)
            raise RecipeError(f"{folder}: {names} differ in length") from error

    def _read(self, source: TextSource) -> Iterator[Pair]:
        if source.sacrebleu is not None:
            yield from read_test_set(source, self.recipe.languages)
            return

        def lines(name: str) -> Iterator[str]:
            if source.archive is not None:
                return lines_of(self._path(source.archive), name)
            return lines_of(self._path(name))

        pairs = read_pairs(source, lines, self.recipe.languages)
        if source.tokenisation == "none":
            yield from pairs
            return
        one, other = (detokeniser(lang) for lang in self.recipe.languages)
        for text, references in pairs:
            yield one(text), [other(reference) for reference in references]

    def _path(self, name: str) -> Path:
        """Where a named file lies, downloaded if need be; its checksum is looked at once."""
        if name not in self._paths:
            file = self.data.files.get(name)
            if self.data_dir is not None:
                self._paths[name] = self.data_dir / name
            elif file is None:
                raise RecipeError(f"{name} is not in data.files; give its folder with --data-dir")
            else:
                path, found = fetch(name, file, self.cache_dir, self.say)
                self.checksums.check(name, file.address, found, path)
                self._paths[name] = path
        return self._paths[name]


def _line(files: list[Any], *texts: str) -> None:
    for file, text in zip(files, texts, strict=True):
        file.write(f"{text}\n")
