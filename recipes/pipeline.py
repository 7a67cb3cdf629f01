"""The stages of a recipe, in order, from text to scores."""

from __future__ import annotations

from itertools import product

from recipes.errors import RecipeError
from recipes.running.run import Run
from recipes.running.stages import Ended
from recipes.scoring.metrics import MetricOptions, find_metric
from recipes.steps.data import prepare_text, preprocess, segment
from recipes.steps.decoding import decode_all, decode_stage_name, evaluate
from recipes.steps.training import check_updates, drop_unfinished, train_arms, train_starts


def run_recipe(run: Run) -> bool:
    """Run every stage that is not up to date.

    Returns:
        whether the last one, the evaluation, was reached.

    Raises:
        RecipeError: a stage failed, or there is no stage of a name that was given.
    """
    check_metrics(run)
    for option, name in (*(("--redo", name) for name in run.redo), ("--until", run.until)):
        if name is not None and name not in (known := stage_names(run)):
            raise RecipeError(f"{option}: there is no stage {name!r} (stages: {', '.join(known)})")
    with run.locked():
        try:
            prepare_text(run)
            segment(run)
            preprocess(run)
            train_starts(run)
            drop_unfinished(run)
            train_arms(run)
            check_updates(run)
            evaluate(run, decode_all(run))
        except Ended:
            return False
    return True


def check_metrics(run: Run) -> None:
    """Raise if a metric cannot be had, before hours of training."""
    evaluation = run.recipe.evaluation
    for name in evaluation.metrics:
        metric = find_metric(name)
        if not run.dry_run and not metric.by_sacrebleu:
            metric.build(MetricOptions(**vars(evaluation)), [["a"]], ["a"])


def stage_names(run: Run) -> list[str]:
    """Names of all stages, in order; of the decodings, with every length penalty."""
    recipe, layout = run.recipe, run.layout
    prepared = "corpus" if recipe.data.corpus else "text"
    names = [prepared] * (layout.text_dir != run.data_dir)
    names += dict.fromkeys(layout.sentencepiece(lang).stem for lang in recipe.languages)
    names += ["segment", "preprocess"]
    for start in layout.starts:
        names += (f"{name} stage" for name in layout.start_stages(start))
    names += (arm.stage for arm in recipe.arms.values())
    decoded = product(layout.systems, recipe.data.splits[1:], recipe.decoding.beams)
    for system, split, beam in decoded:
        for lenpen in recipe.decoding.lenpen if beam > 1 else [1.0]:
            names.append(decode_stage_name(run, system, split, beam, lenpen))
    return [*names, "evaluate"]
