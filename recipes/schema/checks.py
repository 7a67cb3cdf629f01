"""Checks of a recipe that need more than one key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from recipes.errors import require
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
        outside = path.is_absolute() or ".." in path.parts or not path.parts
        require(not outside, f"{where}: {name!r} is no path below --data-dir, without '..'")
    check_data(recipe.data, recipe.languages)
    _check_arms(recipe)
    for where, flags in _tasks_and_flags(recipe).items():
        check_flags(where, flags)
    _check_trainings(recipe)
    pieces = recipe.sentencepiece
    lines, kind = pieces.training_lines, pieces.model_type
    require(lines is None or lines >= 1, "sentencepiece.training_lines: at least 1")
    known = ("unigram", "bpe", "char", "word")
    where = "sentencepiece.model_type"
    require(kind in known, f"{where}: {kind!r} is not one of {', '.join(known)}")
    check_evaluation(recipe.evaluation)
    beams, searches = recipe.decoding.beams, (recipe.decoding.beams, recipe.decoding.lenpen)
    require(min(beams) >= 1, f"decoding.beams: a beam is at least 1, found {beams}")
    require(
        not recipe.task.iterative or searches == ([1], [1.0]),
        f"decoding: task {recipe.task.name} decodes in passes over all positions, without beam and "
        "length penalty; write 'beams: [1]', no lenpen, and its own settings as flags "
        "(--iter-decode-max-iter 0 is one pass)",
    )


def _check_arms(recipe: Recipe) -> None:
    known = ", ".join(recipe.arms)
    require(recipe.control in recipe.arms, f"control: {recipe.control!r} is not an arm ({known})")
    for name, arm in recipe.arms.items():
        mine = re.match(r"start(\.|\Z)", name)
        require(not mine, f"arms: {name!r}: 'start' is the checkpoint that all arms start from")
        budget = f"arms.{name}.budget: {arm.budget!r} is neither updates nor time"
        require(arm.budget in ("updates", "time"), budget)
    for flag in BUDGET_FLAGS:
        values = {
            name: flag_value(recipe.arm_flags(name), flag)
            for name, arm in recipe.arms.items()
            if arm.budget == "updates"
        }
        require(
            len(set(values.values())) <= 1,
            f"arms: all arms must run the same updates, but {flag} differs: {values}; an arm with "
            "'budget: time' may make others",
        )


def _tasks_and_flags(recipe: Recipe) -> dict[str, list[str]]:
    """All groups of flags, by key; the names of tasks are checked."""
    require(
        recipe.finetune.task is None,
        "finetune.task: the arms' models are decoded with the recipe's task; give it as task",
    )
    stages = recipe.start_stages
    tasks = {f"{name}.task": stage.task for name, stage in stages.items() if stage.task}
    tasks["task"] = recipe.task
    for where, task in tasks.items():
        require(
            _TASK_NAME.match(task.name),
            f"{where}.name: {task.name!r} is no name of a task: letters, digits, _ and - only, no "
            "- first",
        )
    return {
        **{f"{where}.flags": task.flags for where, task in tasks.items()},
        "architecture": recipe.architecture,
        **{f"{name}.flags": stage.flags for name, stage in stages.items()},
        "finetune.flags": recipe.finetune.flags,
        **{f"arms.{name}.flags": arm.flags for name, arm in recipe.arms.items()},
        "decoding.flags": recipe.decoding.flags,
    }


def _check_trainings(recipe: Recipe) -> None:
    trained = {name: stage.completed() for name, stage in recipe.start_stages.items()}
    trained["finetune"] = recipe.arm_flags(recipe.control)
    for name, flags in trained.items():
        ends = name == "cross_entropy" or any(flag_value(flags, flag) for flag in ENDS)
        require(ends, f"{name}.flags: give it an end, --max-update or --max-epoch")
        metric = "--best-checkpoint-metric"
        require(
            flag_value(flags, metric) != "bleu" or "--eval-bleu" in flags,
            f"{name}.checkpoint: 'best' is by the BLEU of validation; add --eval-bleu to the "
            f"flags, or name another {metric}",
        )


def check_file_name(where: str, name: str) -> None:
    """Check a name, given as ``where``, that becomes a part of a path that is written.

    Raises:
        ConfigError: it may lead to another folder, or is no plain name.
    """
    require(
        _FILE_NAME.match(name),
        f"{where}: {name!r} becomes a file name: use letters, digits and . _ - + = only, a letter "
        "or digit first",
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
