"""The stages of a recipe, in order, from text to scores."""

from __future__ import annotations

from recipes.run import Run
from recipes.steps.data import prepare_text, preprocess, segment
from recipes.steps.decoding import decode_all, evaluate
from recipes.steps.training import check_updates, train_arm, train_start


def run_recipe(run: Run) -> None:
    """Run every stage that is not up to date."""
    with run.locked():
        prepare_text(run)
        segment(run)
        preprocess(run)
        train_start(run)
        for arm in run.recipe.arms:
            train_arm(run, arm)
        check_updates(run)
        evaluate(run, decode_all(run))
        run.stages.check_redo()
