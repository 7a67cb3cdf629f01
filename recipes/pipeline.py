"""The stages of a recipe, in order, from text to scores."""

from __future__ import annotations

import copy

from recipes.running.run import Run
from recipes.running.stages import Ended
from recipes.scoring.metrics import MetricOptions, find_metric
from recipes.steps.data import prepare_text, preprocess, segment
from recipes.steps.decoding import decode_all, evaluate
from recipes.steps.training import (
    check_loggers,
    check_updates,
    drop_unfinished,
    train_arms,
    train_starts,
)


def run_recipe(run: Run) -> bool:
    """Run every stage that is not up to date.

    Returns:
        whether the last one, the evaluation, was reached.

    Raises:
        RecipeError: a stage failed, or there is no stage of a name that was given.
    """
    check_loggers(run)
    check_metrics(run)
    if run.stages.redo or run.stages.until:
        check_stage_names(run)
    with run.locked():
        try:
            _run_stages(run)
        except Ended:
            return False
    return True


def check_metrics(run: Run) -> None:
    """Raise if a metric cannot be had, before hours of training."""
    evaluation = run.recipe.evaluation
    for name in evaluation.metrics:
        metric = find_metric(name)
        if not run.dry_run and not metric.by_sacrebleu:
            metric.build(MetricOptions.of(evaluation), [["a"]], ["a"])


def _run_stages(run: Run) -> None:
    prepare_text(run)
    segment(run)
    preprocess(run)
    train_starts(run)
    drop_unfinished(run)
    train_arms(run)
    check_updates(run)
    evaluate(run, decode_all(run))


def check_stage_names(run: Run) -> None:
    """Raise if a stage that was named does not exist, before anything is done."""
    silent = copy.copy(run)
    silent.dry_run, silent.say, silent.commands = True, lambda line: None, []
    silent.stages = run.stages.branch(silent.say)
    silent.stages.only_names = True
    _run_stages(silent)
    silent.stages.check_names()
