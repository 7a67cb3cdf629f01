"""Test sets that sacrebleu knows, through its Python API; it keeps them in its own cache."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from sacrebleu.dataset import DATASETS

from recipes.data.formats import Pair
from recipes.errors import ConfigError, RecipeError
from recipes.schema.reading import did_you_mean
from recipes.schema.recipe import TextSource


def language_pair(source: TextSource, languages: tuple[str, str]) -> str:
    """The language pair of the test set that is read: the recipe's own, or the reverse."""
    assert source.sacrebleu is not None
    if source.sacrebleu not in DATASETS:
        hint = did_you_mean(source.sacrebleu, DATASETS)
        raise ConfigError(
            f"sacrebleu has no test set {source.sacrebleu!r}{hint} (sacrebleu --list)"
        )
    known = list(DATASETS[source.sacrebleu].langpairs)
    pair = source.language_pair or "-".join(languages)
    if pair not in known:
        raise ConfigError(
            f"sacrebleu's {source.sacrebleu} has no language pair {pair} (it has: "
            f"{', '.join(known)}); name one with language_pair"
        )
    if set(pair.split("-")) != set(languages):
        raise ConfigError(
            f"sacrebleu's {source.sacrebleu}: {pair} is not {' and '.join(languages)}"
        )
    return pair


def read_test_set(source: TextSource, languages: tuple[str, str]) -> list[Pair]:
    """Sentences with all their references; downloaded by sacrebleu if they are not there.

    Raises:
        RecipeError: sacrebleu cannot get the test set.
    """
    pair = language_pair(source, languages)
    dataset: Any = DATASETS[str(source.sacrebleu)]
    where = f"sacrebleu's test set {source.sacrebleu} {pair} ({', '.join(dataset.data)})"
    try:
        sources = [line.strip() for line in dataset.source(pair)]
        references = [[r.strip() for r in row] for row in dataset.references(pair)]
        if not sources or len(sources) != len(references):
            raise ValueError(f"{len(sources)} sources, {len(references)} references")
    # sacrebleu ends the process after a wrong checksum, and raises Exception itself elsewhere.
    except (Exception, SystemExit) as error:
        _remove_broken(dataset, pair)
        why = "wrong checksum" if isinstance(error, SystemExit) else error
        raise RecipeError(
            f"{where} cannot be read ({why}). sacrebleu -t {source.sacrebleu} -l {pair} --echo src "
            "(and ref) writes it on a machine with a network: give a folder with PREFIX.LANG files "
            "as --data-dir"
        ) from error
    if pair.split("-")[0] == languages[0]:
        return list(zip(sources, references, strict=True))
    if any(len(row) > 1 for row in references):
        raise RecipeError(f"{where} has several references: it cannot be turned around")
    return [(row[0], [line]) for line, row in zip(sources, references, strict=True)]


def _remove_broken(dataset: Any, pair: str) -> None:
    """Remove what a failed download left, which sacrebleu would take for the whole."""
    raw = Path(dataset._rawdir)
    files = [file for file in raw.glob("*") if file.is_file()] if raw.is_dir() else []
    files += [Path(dataset._get_txt_file_path(pair, f)) for f in dataset.fieldnames(pair)]
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()
