"""Checks of a recipe that need more than one key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from recipes.errors import ConfigError
from recipes.schema.flags import BUDGET_FLAGS, ENDS, check_flags, flag_value
from recipes.schema.recipe import Data, Evaluation, HoldOut, Recipe, TextSource

# One file for both languages, whose reader takes the sides apart.
BOTH_SIDES = ("tmx", "tsv", "tsv-references")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*\Z")
_TASK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def require(where: str, *rules: tuple[object, str]) -> None:
    """Raise a :class:`ConfigError`, ``where`` and a message, for the first rule that fails."""
    for holds, message in rules:
        if not holds:
            raise ConfigError(f"{where}{message}")


def check_recipe(recipe: Recipe) -> None:
    """Checks that need more than one key.

    Raises:
        ConfigError: names the key.
    """
    for where, name in _file_names(recipe):
        check_file_name(where, name)
    _check_data(recipe.data, recipe.languages)
    _check_arms(recipe)
    for where, flags in _tasks_and_flags(recipe).items():
        check_flags(where, flags)
    _check_trainings(recipe)
    lines = recipe.sentencepiece.training_lines
    require("sentencepiece", (lines is None or lines >= 1, ".training_lines: at least 1"))
    check_evaluation(recipe.evaluation)
    beams, searches = recipe.decoding.beams, (recipe.decoding.beams, recipe.decoding.lenpen)
    require(
        "decoding",
        (min(beams) >= 1, f".beams: a beam is at least 1, found {beams}"),
        (
            not recipe.task.iterative or searches == ([1], [1.0]),
            f": task {recipe.task.name} decodes in passes over all positions, without beam and "
            "length penalty; write 'beams: [1]', no lenpen, and its own settings as flags "
            "(--iter-decode-max-iter 0 is one pass)",
        ),
    )


def check_evaluation(evaluation: Evaluation) -> None:
    """Checks of ``evaluation:`` that need more than one key.

    Raises:
        ConfigError: names the key.
    """
    bounds, chosen = evaluation.length_buckets, evaluation.selected_by
    known = ", ".join(evaluation.metrics)
    ascending = bounds and bounds == sorted(set(bounds)) and bounds[0] >= 1
    require(
        "evaluation.",
        (
            chosen in evaluation.metrics,
            f"selection: {chosen!r} is not one of evaluation.metrics ({known})",
        ),
        (evaluation.bootstrap_samples >= 1, "bootstrap_samples: at least 1"),
        (evaluation.randomization_trials >= 0, "randomization_trials: 0 (no such test) or more"),
        (ascending, f"length_buckets: ascending, from 1 on; found {bounds}"),
        (evaluation.smallest_bucket >= 1, "smallest_bucket: at least 1 sentence"),
    )


def _check_data(data: Data, languages: tuple[str, str]) -> None:
    splits, corpus = data.splits, data.corpus is not None
    require(
        "data",
        (len(set(splits)) == len(splits), f": two splits are the same file: {splits}"),
        (not (corpus and data.sources), ": give either a corpus or sources, not both"),
        (not (corpus and data.cleaning), ".cleaning: a corpus that the recipe makes is clean"),
    )
    for name, file in data.files.items():
        address, digits = file.address, file.sha256
        hexadecimal = digits is None or _SHA256.match(digits)
        require(
            f"data.files.{name}.",
            (re.match("https?://", address), f"address: {address!r} is not http(s)"),
            (hexadecimal, "sha256: expected 64 hexadecimal digits (lower case), or null"),
        )
    for split, sources in data.sources.items():
        for number, source in enumerate(sources):
            for name in source.files:  # they are only read
                path = PurePosixPath(name)
                outside = path.is_absolute() or ".." in path.parts or not path.parts
                rule = f": {name!r} is no path below --data-dir, without '..'"
                require(f"data.sources.{split}", (not outside, rule))
            _check_source(source, f"data.sources.{split}[{number}]", data, languages)
    for split in data.references:
        known = split in data.tests or split in data.sources
        require("data.references", (known, f": {split!r} is not a test set ({data.tests})"))
    if data.hold_out is not None:
        _check_hold_out(data.hold_out, data)
    if data.cleaning is not None:
        length, ratio = data.cleaning.max_length, data.cleaning.max_length_ratio
        require(
            "data.cleaning.",
            (length is None or length >= 1, "max_length: at least 1 word"),
            (ratio is None or ratio >= 1, "max_length_ratio: longer over shorter, at least 1"),
        )


def _check_hold_out(hold_out: HoldOut, data: Data) -> None:
    every, clusters = hold_out.every, hold_out.clusters
    require(
        "data.hold_out",
        ((every is None) != (not clusters), ": give either every or clusters"),
        (every is None or every >= 2, ".every: at least 2, so that training text is left"),
        (hold_out.several is None or clusters, ".several: needs clusters"),
        (
            all(count >= 1 for count in clusters.values()),
            ".clusters: at least 1 pair for each split",
        ),
    )
    others = ", ".join(data.splits[1:])
    for split in hold_out.splits(data.valid):
        neither = f": {split!r} is neither the valid split nor a test set ({others})"
        require("data.hold_out", (split in data.splits[1:], neither))


def _check_source(source: TextSource, where: str, data: Data, languages: tuple[str, str]) -> None:
    if source.sacrebleu is not None:
        both = source.text or source.archive
        require(where, (not both, ": give either sacrebleu or text, not both"))
        return
    archive, columns = source.archive, source.columns
    one_file = len({source.text.get(lang) for lang in languages}) == 1
    both_sides = source.format in BOTH_SIDES
    require(
        f"{where}.",
        (source.language_pair is None, "language_pair: belongs to a test set of sacrebleu"),
        *((lang in source.text, f"text: no file for language {lang!r}") for lang in languages),
        (archive is None or archive in data.files, f"archive: {archive!r} is not in data.files"),
        (
            one_file or not both_sides,
            f"text: format {source.format} holds both languages in one file",
        ),
        (
            both_sides or not one_file or len(set(languages)) == 1,
            "text: the same file for both languages; write {lang} in its name",
        ),
        (
            not (both_sides and source.references),
            f"references: format {source.format} has them in the same file",
        ),
        ((source.format == "tsv") == bool(columns), "columns: needed for format tsv, and no other"),
        (
            not columns or all(columns.get(lang, 0) >= 1 for lang in languages),
            "columns: give the column of each language, counted from 1",
        ),
    )


def _check_arms(recipe: Recipe) -> None:
    control, known = recipe.control, ", ".join(recipe.arms)
    require("control", (control in recipe.arms, f": {control!r} is not an arm ({known})"))
    for name in recipe.arms:
        taken = f": {name!r}: 'start' is the checkpoint that all arms start from"
        require("arms", (not re.match(r"start(\.|\Z)", name), taken))
    same = [name for name, arm in recipe.arms.items() if arm.budget == "updates"]
    for flag in BUDGET_FLAGS:
        values = {name: flag_value(recipe.arm_flags(name), flag) for name in same}
        differs = (
            f": all arms must run the same updates, but {flag} differs: {values}; an arm with "
            "'budget: time' may make others"
        )
        require("arms", (len(set(values.values())) <= 1, differs))


def _tasks_and_flags(recipe: Recipe) -> dict[str, list[str]]:
    """All groups of flags, by key; the names of tasks are checked."""
    decoded = ": the arms' models are decoded with the recipe's task; give it as task"
    require("finetune.task", (recipe.finetune.task is None, decoded))
    stages = recipe.start_stages
    tasks = {f"{name}.task": stage.task for name, stage in stages.items() if stage.task}
    tasks["task"] = recipe.task
    for where, task in tasks.items():
        rule = "is no name of a task: letters, digits, _ and - only, no - first"
        require(where, (_TASK_NAME.match(task.name), f".name: {task.name!r} {rule}"))
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
    metric = "--best-checkpoint-metric"
    for name, flags in trained.items():
        ends = name == "cross_entropy" or any(flag_value(flags, flag) for flag in ENDS)
        require(
            name,
            (ends, ".flags: give it an end, --max-update or --max-epoch"),
            (
                flag_value(flags, metric) != "bleu" or "--eval-bleu" in flags,
                ".checkpoint: 'best' is by the BLEU of validation; add --eval-bleu to the flags, "
                f"or name another {metric}",
            ),
        )


def check_file_name(where: str, name: str) -> None:
    """Check a name, given as ``where``, that becomes a part of a path that is written.

    Raises:
        ConfigError: it may lead to another folder, or is no plain name.
    """
    rule = "use letters, digits and . _ - + = only, a letter or digit first"
    require(where, (_FILE_NAME.match(name), f": {name!r} becomes a file name: {rule}"))


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
