"""Corpora that recipes can make by themselves, so that they run without any download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recipes.corpora import cldr
from recipes.errors import ConfigError
from recipes.schema.building import did_you_mean
from recipes.schema.recipe import Recipe


@dataclass(frozen=True)
class Corpus:
    """A generator of parallel text.

    ``make(recipe, options)`` returns the lines of every file by its name ``SPLIT.LANG``;
    ``version()`` names the data it draws from, whose change makes the corpus another one.
    """

    make: Callable[[Recipe, dict[str, Any]], dict[str, list[str]]]
    version: Callable[[], str]


CORPORA = {"cldr": Corpus(cldr.make, cldr.version)}


def find(name: str) -> Corpus:
    """The corpus generator called ``name``."""
    if name not in CORPORA:
        hint = did_you_mean(name, CORPORA)
        raise ConfigError(f"data.corpus.name: unknown {name!r}{hint} (known: {', '.join(CORPORA)})")
    return CORPORA[name]
