"""The references of a split: one file, or several."""

from __future__ import annotations

from pathlib import Path

from recipes.schema.recipe import Recipe


def reference_files(recipe: Recipe, text_dir: Path, split: str) -> list[Path]:
    """Files of the original text that output of ``split`` is scored against.

    Those of ``data.references``; else ``SPLIT.LANG.0``, ``SPLIT.LANG.1`` ... where they lie in
    ``text_dir``; else ``SPLIT.LANG``.
    """
    named = recipe.data.references.get(split)
    if named:
        return [text_dir / name for name in named]
    single = text_dir / f"{split}.{recipe.target_lang}"
    numbered: list[Path] = []
    while (path := single.with_name(f"{single.name}.{len(numbered)}")).is_file():
        numbered.append(path)
    return numbered or [single]
