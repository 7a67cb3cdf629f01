"""The stage that writes PREFIX.LANG for every split: read, cleaned, lower-cased, cut."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.data.archives import lines_of
from recipes.data.cleaning import Cleaner
from recipes.data.download import default_cache_dir, fetch
from recipes.data.formats import Pair, detokeniser, read_pairs, zipped
from recipes.data.hold_out import cut_clusters, with_several_references
from recipes.data.origins import CUT, FOLDER, SOURCES, origin, reference_files, source_files
from recipes.data.test_sets import language_pair, read_test_set
from recipes.errors import RecipeError
from recipes.schema.recipe import Recipe, TextSource
from recipes.text import Say, write_text, written_together


@dataclass
class Preparation:
    """Makes the text of ``recipe`` in ``text_dir``."""

    recipe: Recipe
    text_dir: Path
    data_dir: Path | None  # in place of downloads: PREFIX.LANG, or the files of ``data.sources``
    cache_dir: Path | None  # of downloads; the user's cache folder if not given
    say: Say
    references: list[Path] = field(default_factory=list)  # written beside :meth:`outputs`
    _paths: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data = self.recipe.data
        self.origins = {s: origin(self.recipe, self.data_dir, s) for s in self.data.splits}

    def settings(self) -> dict[str, Any]:
        """What the text depends on, beside the files of ``data_dir``."""
        data = dataclasses.asdict(self.data)
        for key in ("licence", "size", "tried"):
            data.pop(key)
        for file in data["files"].values():
            for key in ("address", "licence"):
                file.pop(key)
        return {**data, "languages": list(self.recipe.languages), "origins": self.origins}

    def inputs(self) -> dict[str, Path]:
        """The files of ``data_dir`` that are read."""
        if self.data_dir is None:
            return {}
        names: list[str] = []
        for split, kind in self.origins.items():
            if kind == FOLDER:
                names += [f"{split}.{lang}" for lang in self.recipe.languages]
                references = reference_files(self.recipe, self.data_dir, split)
                names += [str(file.relative_to(self.data_dir)) for file in references]
            elif kind == SOURCES:
                names += source_files(self.data, split)
        return {name: self.data_dir / name for name in names}

    def outputs(self) -> list[Path]:
        """PREFIX.LANG of every split."""
        return self._files(*self.data.splits)

    def details(self) -> list[str]:
        """What will be downloaded, one line each."""
        lines = []
        for split, kind in self.origins.items():
            for source in self.data.sources[split] if kind == SOURCES else []:
                if source.sacrebleu:
                    pair = language_pair(source, self.recipe.languages)
                    lines.append(f"{split}: sacrebleu's {source.sacrebleu} {pair}")
                for name in source.files:
                    file = self.data.files.get(name)
                    if file is None or self.data_dir is not None:
                        lines.append(f"{split}: {name}")
                        continue
                    licence = f", {file.licence}" if file.licence else ""
                    unknown = "" if file.sha256 else ", checksum unknown: the run prints it"
                    lines.append(f"{split}: {file.address}{licence}{unknown}")
        return list(dict.fromkeys(lines))

    def make(self) -> None:
        """Write all splits."""
        # The small ones first: what fails should fail before the large downloads.
        for split in [*self.data.tests, self.data.valid]:
            if self.origins[split] != CUT:
                self._write(split, list(self._pairs(split)))
        pairs = self._pairs(self.data.train)
        if self.data.cleaning is None:
            self._write_training(pairs)
            return
        cleaner = Cleaner(self.data.cleaning)
        self._write_training(cleaner(pairs))
        self.say(f"  {self.data.train}: {cleaner.summary()}")
        if not cleaner.counts()["kept"]:
            summary = cleaner.summary()
            raise RecipeError(f"data.cleaning leaves no pair of {self.data.train} ({summary})")
        counts = json.dumps(cleaner.counts(), indent=1)
        write_text(self.text_dir / "cleaning.json", f"{counts}\n")

    def _write_training(self, pairs: Iterable[Pair]) -> None:
        """The training text, without the splits that are cut out of it."""
        hold_out = self.data.hold_out
        cut = [split for split, kind in self.origins.items() if kind == CUT]
        if hold_out is not None and hold_out.clusters and cut:
            pairs, parts = cut_clusters(list(pairs), hold_out.clusters)
            if hold_out.several is not None:
                drawn = (pair for part in parts.values() for pair in part)
                parts[hold_out.several] = with_several_references(drawn)
            for split in cut:
                self._write(split, parts[split])
            cut = []
        every = hold_out.every if hold_out is not None and cut else None
        with written_together(self._files(self.data.train, *cut)) as files:
            for number, (source, references) in enumerate(pairs, start=1):
                held_out = every is not None and number % every == 0
                _line(files[2:] if held_out else files[:2], source, references[0])

    def _files(self, *splits: str) -> list[Path]:
        """PREFIX.LANG of both languages."""
        languages = self.recipe.languages
        return [self.text_dir / f"{split}.{lang}" for split in splits for lang in languages]

    def _write(self, split: str, pairs: list[Pair]) -> None:
        """A small split with all its references; ``PREFIX.LANG`` is the first of them."""
        several = max((len(references) for _, references in pairs), default=1)
        source, target = self._files(split)
        named = self.data.references.get(split)
        if named and len(named) != several:
            raise RecipeError(
                f"data.references.{split} names {len(named)} files, but the text has {several} "
                "references"
            )
        for old in self.text_dir.glob(f"{target.name}.*"):
            if old.suffix[1:].isdigit():
                old.unlink()  # an earlier text had more references
        numbered = [f"{target.name}.{number}" for number in range(several)] if several > 1 else []
        others = [(n, name) for n, name in enumerate(named or numbered) if name != target.name]
        self.references += (further := [self.text_dir / name for _, name in others])
        with written_together([source, target, *further]) as files:
            for text, references in pairs:
                padded = [*references, *[""] * (several - len(references))]
                _line(files, text, padded[0], *(padded[number] for number, _ in others))

    def _pairs(self, split: str) -> Iterator[Pair]:
        """All pairs of a split, detokenised and lower-cased."""
        if self.origins[split] == FOLDER:
            pairs = self._given(split)
        else:
            pairs = (p for source in self.data.sources[split] for p in self._read(source))
        if self.data.lowercase:
            return ((text.lower(), [line.lower() for line in rows]) for text, rows in pairs)
        return pairs

    def _given(self, split: str) -> Iterator[Pair]:
        """Pairs of ``data_dir``, a test set with all its references."""
        assert self.data_dir is not None
        references = reference_files(self.recipe, self.data_dir, split)
        files = [self.data_dir / f"{split}.{self.recipe.source_lang}", *references]
        return zipped([str(file) for file in files], [lines_of(file) for file in files])

    def _read(self, source: TextSource) -> Iterator[Pair]:
        if source.sacrebleu is not None:
            return iter(read_test_set(source, self.recipe.languages))

        def lines(name: str) -> Iterator[str]:
            if source.archive is not None:
                return lines_of(self._path(source.archive), name)
            return lines_of(self._path(name))

        pairs = read_pairs(source, lines, self.recipe.languages)
        if source.tokenisation == "none":
            return pairs
        one, other = (detokeniser(lang) for lang in self.recipe.languages)
        return ((one(text), [other(line) for line in rows]) for text, rows in pairs)

    def _path(self, name: str) -> Path:
        """Where a named file lies, downloaded if need be; its checksum is looked at once."""
        if name not in self._paths:
            file = self.data.files.get(name)
            if self.data_dir is not None:
                self._paths[name] = self.data_dir / name
            elif file is None:
                raise RecipeError(f"{name} is not in data.files; give its folder with --data-dir")
            else:
                cache_dir = self.cache_dir or default_cache_dir()
                self._paths[name], _ = fetch(name, file, cache_dir, self.say)
        return self._paths[name]


def _line(files: list[Any], *texts: str) -> None:
    for file, text in zip(files, texts, strict=True):
        file.write(f"{text}\n")
