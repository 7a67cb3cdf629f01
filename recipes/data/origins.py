"""Where each split's text is taken from: a folder, its sources, or out of the training text."""

from __future__ import annotations

from pathlib import Path

from recipes.schema.recipe import Data, Recipe

FOLDER, SOURCES, CUT = "folder", "sources", "training text"


def in_folder(recipe: Recipe, data_dir: Path | None, split: str) -> bool:
    """Whether ``data_dir`` has ``PREFIX.LANG`` for both languages."""
    return data_dir is not None and all(
        (data_dir / f"{split}.{lang}").is_file() for lang in recipe.languages
    )


def source_files(data: Data, split: str) -> list[str]:
    """Files that the sources of a split are read from."""
    names = (name for source in data.sources.get(split, []) for name in source.files)
    return list(dict.fromkeys(names))


def origin(recipe: Recipe, data_dir: Path | None, split: str) -> str | None:
    """FOLDER, SOURCES or CUT, the first of them that can give the text; None if none can."""
    data = recipe.data
    if in_folder(recipe, data_dir, split):
        return FOLDER
    if split in data.sources:
        names = source_files(data, split)
        if data_dir is None and all(name in data.files for name in names):
            return SOURCES
        if data_dir is not None and all((data_dir / name).is_file() for name in names):
            return SOURCES
    if data.hold_out is not None and split in data.hold_out.splits(data.valid):
        return CUT
    return None


def reads_folder(recipe: Recipe, data_dir: Path | None) -> bool:
    """Whether all text is in ``data_dir`` as it is needed, so that nothing has to be written."""
    data = recipe.data
    if data_dir is None or data.corpus is not None:
        return False
    if data.cleaning is not None or data.lowercase:
        return False
    return all(in_folder(recipe, data_dir, split) for split in data.splits)


def missing_text(recipe: Recipe, data_dir: Path | None) -> str | None:
    """Why the text cannot be made from what is declared and given, or None."""
    data = recipe.data
    if data.corpus is not None:
        return None
    for split in data.splits:
        if origin(recipe, data_dir, split) is not None:
            continue
        if data_dir is None:
            return f"give the folder of its text files with --data-dir ({_all_files(recipe)})"
        names = " and ".join(f"{split}.{lang}" for lang in recipe.languages)
        files = source_files(data, split)
        if not files:
            return f"{split} does not exist in {data_dir}; --data-dir must hold {names}"
        return (
            f"{data_dir} must hold {names}, or {' and '.join(files)}; with --data-dir nothing is "
            "downloaded but sacrebleu's test sets"
        )
    return None


def _all_files(recipe: Recipe) -> str:
    """What ``--data-dir`` has to hold: of each split the text, or what only it can provide."""
    names: list[str] = []
    for split in recipe.data.splits:
        raw = [name for name in source_files(recipe.data, split) if name not in recipe.data.files]
        names += raw or [f"{split}.{lang}" for lang in recipe.languages]
    return ", ".join(dict.fromkeys(names))


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
