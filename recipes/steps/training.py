"""fairseq-train: cross-entropy, in one stage or two, then one fine-tuning run for each arm."""

from __future__ import annotations

from pathlib import Path

from recipes.checkpoints import average_checkpoints, checkpoint_updates, last_checkpoints
from recipes.commands import train_command
from recipes.config import Training, flag_value
from recipes.errors import RecipeError
from recipes.layout import START, training_log
from recipes.progress import training_progress
from recipes.run import Run


def train_start(run: Run) -> None:
    """The checkpoint that all arms start from: each stage fine-tunes the one before."""
    checkpoint = None
    for stage, training in run.layout.start_stages.items():
        checkpoint = _train(run, f"{stage} stage", stage, training, training.flags, checkpoint)


def train_arm(run: Run, arm: str) -> None:
    """One arm, from the common start."""
    recipe, start = run.recipe, run.layout.checkpoint(START)
    _train(run, f"arm {arm}", f"arms/{arm}", recipe.finetune, recipe.arm_flags(arm), start)


def _train(
    run: Run, name: str, folder: str, training: Training, flags: list[str], start: Path | None
) -> Path:
    """One stage of fairseq-train into ``folder``; a killed one continues.

    Returns the checkpoint that is used afterwards.
    """
    recipe, layout = run.recipe, run.layout
    save_dir = run.work_dir / folder
    command = train_command(recipe, layout.binarized, save_dir, flags, start)
    last, checkpoint = save_dir / "checkpoint_last.pt", save_dir / training.checkpoint_name
    limit = flag_value(flags, "--max-update")
    average = training.average

    def make() -> None:
        # With all updates done, fairseq-train would make one more.
        done = limit is not None and last.is_file() and checkpoint_updates(last) >= int(limit)
        if not done:
            log, progress = training_log(save_dir), training_progress(run.say)
            run.execute(command, log, name, progress, append=last.is_file())
        if average:
            paths = last_checkpoints(save_dir, average)
            run.say(f"  average of {', '.join(path.name for path in paths)}")
            average_checkpoints(paths, checkpoint)

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
        layout.record(folder),
        [last, checkpoint],
        make,
        inputs,
        {"average": average},
        resumable=save_dir,
    )
    return checkpoint


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
