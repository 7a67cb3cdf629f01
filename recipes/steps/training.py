"""fairseq-train: the cross-entropy stage, then one fine-tuning run for each arm."""

from __future__ import annotations

from recipes.checkpoints import average_checkpoints, checkpoint_updates, last_checkpoints
from recipes.commands import train_command
from recipes.config import flag_value
from recipes.errors import RecipeError
from recipes.layout import START
from recipes.progress import training_progress
from recipes.run import Run


def train(run: Run, arm: str) -> None:
    """The cross-entropy stage (``start``) or one arm; a killed one continues."""
    recipe, layout = run.recipe, run.layout
    first = arm == START
    flags = recipe.cross_entropy.flags if first else recipe.arm_flags(arm)
    start = None if first else layout.checkpoint(START)
    save_dir = layout.save_dir(arm)
    command = train_command(recipe, layout.binarized, save_dir, flags, start)
    name = "cross_entropy stage" if first else f"arm {arm}"
    last = save_dir / "checkpoint_last.pt"
    limit = flag_value(flags, "--max-update")
    average = layout.training(arm).average

    def make() -> None:
        # With all updates done, fairseq-train would make one more.
        done = limit is not None and last.is_file() and checkpoint_updates(last) >= int(limit)
        if not done:
            log, progress = layout.training_log(arm), training_progress(run.say)
            run.execute(command, log, name, progress, append=last.is_file())
        if average:
            paths = last_checkpoints(save_dir, average)
            run.say(f"  average of {', '.join(path.name for path in paths)}")
            average_checkpoints(paths, layout.checkpoint(arm))

    inputs = {
        path.name: path
        for split in (recipe.data.train, recipe.data.valid)
        for path in (layout.binary(split, lang) for lang in recipe.languages)
    }
    for lang in recipe.languages:
        inputs[f"dictionary {lang}"] = layout.binarized / f"dict.{lang}.txt"
    if start is not None:
        inputs["start checkpoint"] = start
    run.command_stage(
        name,
        command,
        layout.record("cross_entropy" if first else f"arms/{arm}"),
        [last, layout.checkpoint(arm)],
        make,
        inputs,
        {"average": average},
        resumable=save_dir,
    )


def check_updates(run: Run) -> None:
    """All arms must have made the same number of updates, or the comparison is void."""
    if run.dry_run:
        return
    made = {
        arm: checkpoint_updates(run.layout.save_dir(arm) / "checkpoint_last.pt")
        for arm in run.recipe.arms
    }
    if len(set(made.values())) > 1:
        raise RecipeError(f"the arms made different numbers of updates: {made}; use --max-update")
