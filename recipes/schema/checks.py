"""Checks of a recipe that need more than one key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from recipes.errors import ConfigError
from recipes.schema.data import Data, check_data
from recipes.schema.evaluation import check_evaluation
from recipes.schema.flags import BUDGET_FLAGS, ENDS, check_flags, flag_value
from recipes.schema.recipe import Recipe

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*\Z")
_TASK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\Z")


def check_recipe(recipe: Recipe) -> None:
    """Checks that need more than one key.

    Raises:
        ConfigError: names the key.
    """
    for where, name in _file_names(recipe):
        check_file_name(where, name)
    for where, name in _text_files(recipe.data):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ConfigError(f"{where}: {name!r} is no path below --data-dir, without '..'")
    if len(set(recipe.data.splits)) != len(recipe.data.splits):
        raise ConfigError(f"data: two splits are the same file: {recipe.data.splits}")
    check_data(recipe.data, recipe.languages)
    if recipe.control not in recipe.arms:
        raise ConfigError(f"control: {recipe.control!r} is not an arm ({', '.join(recipe.arms)})")
    for name, arm in recipe.arms.items():
        if re.match(r"start(\.|\Z)", name):
            raise ConfigError(f"arms: {name!r}: 'start' is the checkpoint that all arms start from")
        if arm.budget not in ("updates", "time"):
            raise ConfigError(f"arms.{name}.budget: {arm.budget!r} is neither updates nor time")
    if recipe.finetune.task is not None:
        raise ConfigError(
            "finetune.task: the arms' models are decoded with the recipe's task; give it as task"
        )
    stages = recipe.start_stages
    tasks = {"task": recipe.task}
    tasks |= {f"{name}.task": stage.task for name, stage in stages.items() if stage.task}
    for where, task in tasks.items():
        if not _TASK_NAME.match(task.name):
            raise ConfigError(
                f"{where}.name: {task.name!r} is no name of a task: letters, digits, _ and - only, "
                "no - first"
            )
    groups = {
        **{f"{where}.flags": task.flags for where, task in tasks.items()},
        "architecture": recipe.architecture,
        **{f"{name}.flags": stage.flags for name, stage in stages.items()},
        "finetune.flags": recipe.finetune.flags,
        **{f"arms.{name}.flags": arm.flags for name, arm in recipe.arms.items()},
        "decoding.flags": recipe.decoding.flags,
    }
    for where, flags in groups.items():
        check_flags(where, flags)
    for flag in BUDGET_FLAGS:
        values = {
            name: flag_value(recipe.arm_flags(name), flag)
            for name, arm in recipe.arms.items()
            if arm.budget == "updates"
        }
        if len(set(values.values())) > 1:
            raise ConfigError(
                f"arms: all arms must run the same updates, but {flag} differs: {values}; an arm "
                "with 'budget: time' may make others"
            )
    trained = {name: stage.completed() for name, stage in stages.items()}
    trained["finetune"] = recipe.arm_flags(recipe.control)
    for name, flags in trained.items():
        if name != "cross_entropy" and not any(flag_value(flags, flag) for flag in ENDS):
            raise ConfigError(f"{name}.flags: give it an end, --max-update or --max-epoch")
        metric = "--best-checkpoint-metric"
        if flag_value(flags, metric) == "bleu" and "--eval-bleu" not in flags:
            raise ConfigError(
                f"{name}.checkpoint: 'best' is by the BLEU of validation; add --eval-bleu to the "
                f"flags, or name another {metric}"
            )
    if recipe.sentencepiece.training_lines is not None and recipe.sentencepiece.training_lines < 1:
        raise ConfigError("sentencepiece.training_lines: at least 1")
    if recipe.sentencepiece.model_type not in ("unigram", "bpe", "char", "word"):
        raise ConfigError(
            f"sentencepiece.model_type: {recipe.sentencepiece.model_type!r} is not one of "
            "unigram, bpe, char, word"
        )
    check_evaluation(recipe.evaluation)
    if any(beam < 1 for beam in recipe.decoding.beams):
        raise ConfigError(f"decoding.beams: a beam is at least 1, found {recipe.decoding.beams}")
    searches = recipe.decoding.beams, recipe.decoding.lenpen
    if recipe.task.iterative and searches != ([1], [1.0]):
        raise ConfigError(
            f"decoding: task {recipe.task.name} decodes in passes over all positions, without beam "
            "and length penalty; write 'beams: [1]', no lenpen, and its own settings as flags "
            "(--iter-decode-max-iter 0 is one pass)"
        )


def check_file_name(where: str, name: str) -> None:
    """Check a name, given as ``where``, that becomes a part of a path that is written.

    Raises:
        ConfigError: it may lead to another folder, or is no plain name.
    """
    if not _FILE_NAME.match(name):
        raise ConfigError(
            f"{where}: {name!r} becomes a file name: use letters, digits and . _ - + = only, "
            "a letter or digit first"
        )


def _file_names(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every name in a recipe that becomes a part of a path, with its key."""
    data = recipe.data
    yield "name", recipe.name
    yield "source_lang", recipe.source_lang
    yield "target_lang", recipe.target_lang
    yield from (("arms", name) for name in recipe.arms)
    for key, training in (*recipe.start_stages.items(), ("finetune", recipe.finetune)):
        yield f"{key}.checkpoint", training.checkpoint
    yield from (("data", split) for split in (*data.splits, *data.sources, *data.references))
    yield from (("data.files", name) for name in data.files)
    # In --data-dir they may lie in subfolders; text that is downloaded is written in the same ones.
    for split, names in data.references.items():
        yield from ((f"data.references.{split}", part) for n in names for part in n.split("/"))


def _text_files(data: Data) -> Iterator[tuple[str, str]]:
    """Files that are only read, in ``--data-dir`` or as a download named in ``data.files``."""
    for split, sources in data.sources.items():
        for source in sources:
            yield from ((f"data.sources.{split}", name) for name in source.files)
