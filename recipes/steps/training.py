"""fairseq-train: cross-entropy, in one stage or two, then one fine-tuning run for each arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from recipes.errors import CommandError, RecipeError
from recipes.fairseq_commands.checkpoints import (
    LAST,
    average_checkpoints,
    checkpoint_updates,
    last_checkpoints,
    mend_last_checkpoint,
)
from recipes.fairseq_commands.commands import train_command
from recipes.fairseq_commands.training_log import training_progress
from recipes.running.layout import training_log
from recipes.running.run import Run, shell_with_log
from recipes.running.side_by_side import side_by_side
from recipes.running.stages import Stage
from recipes.schema.flags import flag_value
from recipes.schema.recipe import Training

_NO_BLEU = (
    "validation has no BLEU while the model writes nothing; begin later: --validate-after-updates"
)


def train_starts(run: Run) -> None:
    """The checkpoints that the arms start from, one for each seed."""
    needed = dict.fromkeys(arm.start for arm in run.recipe.arms.values() if arm.asked)
    side_by_side(run, {start: partial(_run_all, stages=_start, name=start) for start in needed})


def train_arms(run: Run) -> None:
    """All arms; those with the seeds of the recipe file come first."""
    arms = run.recipe.arms
    order = sorted(arms, key=lambda name: not arms[name].own_seed)
    tasks = {arms[arm].stage: partial(_run_all, stages=_arm, name=arm) for arm in order}
    side_by_side(run, tasks)


def _run_all(run: Run, stages: Callable[[Run, str], Iterable[Stage]], name: str) -> None:
    for stage in stages(run, name):
        run.run_stage(stage)


def _start(run: Run, start: str) -> Iterator[Stage]:
    """The stages that make a start: each fine-tunes the one before."""
    before = None
    for name, training in run.layout.start_stages(start).items():
        yield _stage(run, f"{name} stage", name, training, training.completed(), before)
        before = run.work_dir / name / training.checkpoint_name


def drop_unfinished(run: Run) -> None:
    """Of the arms that were not asked for, leave those that were trained before as they are now."""
    kept = []
    for name, arm in run.recipe.arms.items():
        stages = [*_start(run, arm.start), *_arm(run, name)]
        why = "not finished with these settings"
        try:
            if arm.asked or all(map(run.up_to_date, stages)):
                kept.append(name)
                continue
        except RecipeError as error:  # a damaged checkpoint
            why = str(error)
        run.say(f"  {arm.stage}: not asked for, and {why}; left out")
    run.restrict(kept)


def _arm(run: Run, arm: str) -> Iterator[Stage]:
    recipe, trained = run.recipe, run.recipe.arms[arm]
    start = run.layout.checkpoint(trained.start)
    yield _stage(run, trained.stage, f"arms/{arm}", recipe.finetune, recipe.arm_flags(arm), start)


def _stage(
    run: Run, name: str, folder: str, training: Training, flags: list[str], start: Path | None
) -> Stage:
    """One stage of fairseq-train into ``folder``; a killed one continues."""
    recipe, layout = run.recipe, run.layout
    save_dir = run.work_dir / folder
    command = run.launched(
        train_command(recipe, layout.binarized, save_dir, flags, start, folder, training.task)
    )
    last, checkpoint = save_dir / LAST, save_dir / training.checkpoint_name
    limit = flag_value(flags, "--max-update")
    average = training.average
    log = training_log(save_dir)

    def make() -> None:
        mend_last_checkpoint(save_dir, run.say)
        # With all updates done, fairseq-train would make one more.
        done = limit is not None and last.is_file() and checkpoint_updates(last) >= int(limit)
        if not done:
            try:
                progress = training_progress(run.say, None if limit is None else int(limit))
                run.launch(command.argv(), log, name, progress, append=last.is_file())
            except CommandError as error:
                if "KeyError: 'bleu'" in str(error):
                    raise CommandError(f"{error}\n{_NO_BLEU}") from error
                raise
        if average:
            paths = last_checkpoints(save_dir, average)
            run.say(f"  average of {', '.join(path.name for path in paths)}")
            average_checkpoints(paths, checkpoint)

    inputs = {
        path.name: path
        for split in (recipe.data.train, recipe.data.valid)
        for path in (layout.binary(split, lang) for lang in recipe.languages)
    }
    inputs |= layout.dictionaries
    if start is not None:
        inputs["start checkpoint"] = start
    shell = shell_with_log(command, log, append=True)
    if average:
        shell.append(run.shell_line(until=name))
    files = layout.record(folder), [last, checkpoint]
    return Stage(name, *files, {"average": average}, make, inputs, command, save_dir, shell)


def check_updates(run: Run) -> None:
    """Arms with a budget of updates must have made as many, or the comparison is void."""
    if run.dry_run:
        return
    budgeted = [name for name, arm in run.recipe.arms.items() if arm.budget == "updates"]
    made = {arm: checkpoint_updates(run.layout.save_dir(arm) / LAST) for arm in budgeted}
    if len(set(made.values())) > 1:
        raise RecipeError(f"the arms made different numbers of updates: {made}; use --max-update")
