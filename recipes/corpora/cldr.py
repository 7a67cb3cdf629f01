"""A German-English corpus generated from CLDR's formats and names (through Babel).

Deterministic for a seed and a version of CLDR: the same lines on every machine.
"""

from __future__ import annotations

import random
from typing import Any

import babel

from recipes.corpora.phrases import Phrases
from recipes.corpora.sentences import PATTERNS
from recipes.errors import ConfigError
from recipes.schema.recipe import Recipe

_OPTIONS = {"train": 19000, "valid": 500, "test": 500, "seed": 1}


def version() -> str:
    """Babel's version: its locale data decides the wording."""
    return f"babel {babel.__version__}"


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` sentence pairs; no German and no English sentence occurs twice."""
    phrases = Phrases(random.Random(seed))
    found: list[tuple[str, str]] = []
    german_seen: set[str] = set()
    english_seen: set[str] = set()
    while len(found) < count:
        german, english = phrases.sentence(phrases.rng.choice(PATTERNS))
        if german in german_seen or english in english_seen:
            continue
        german_seen.add(german)
        english_seen.add(english)
        found.append((german, english))
    return found


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
