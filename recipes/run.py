"""What all stages of one run share: the recipe, where things lie, and how commands are run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.commands import Command
from recipes.config import Recipe
from recipes.errors import RecipeError
from recipes.layout import Layout
from recipes.process import run_command
from recipes.stages import Stage, StageRunner


class Run:
    """One run of ``recipe`` in ``work_dir``.

    Args:
        data_dir: folder of the text files, for recipes that do not make their corpus.
        say: prints one line.
        dry_run: print the commands, run nothing.
        redo: names of stages to redo although nothing changed.

    Raises:
        RecipeError: the recipe reads files and ``data_dir`` is missing.
    """

    def __init__(
        self,
        recipe: Recipe,
        work_dir: Path,
        data_dir: Path | None = None,
        say: Callable[[str], None] = print,
        dry_run: bool = False,
        redo: tuple[str, ...] = (),
    ) -> None:
        if recipe.data.corpus is not None:
            text_dir = work_dir / "text"
        elif data_dir is None:
            names = [f"{s}.{lang}" for s in recipe.data.splits for lang in recipe.languages]
            raise RecipeError(
                f"recipe {recipe.name}: give the folder of its text files with --data-dir "
                f"({', '.join(names)})"
            )
        else:
            text_dir = data_dir
        self.recipe = recipe
        self.work_dir = work_dir
        self.layout = Layout(recipe, work_dir, text_dir)
        self.say = say
        self.dry_run = dry_run
        self.stages = StageRunner(say, dry_run, redo)
        self.commands: list[tuple[str, str]] = []
        self.lock: tuple[int, ...] = ()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the work-dir's lock; fairseq processes inherit it, so it outlives a killed run."""
        if self.dry_run:
            yield
            return
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with open(self.work_dir / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecipeError(
                    f"{self.work_dir} is in use by another run, or by a fairseq process that a "
                    "killed run left behind; wait for it or end it, then start again"
                ) from None
            self.lock = (file.fileno(),)
            yield
            self.lock = ()

    def execute(
        self,
        command: Command,
        log: Path,
        stage: str,
        on_line: Callable[[str], None] | None = None,
        append: bool = False,
    ) -> None:
        """Run a command; its output goes to ``log``, whose name is shown."""
        self.say(f"  log: {os.path.relpath(log)}")
        run_command(command.argv(), log, stage, on_line, append, self.lock)

    def command_stage(
        self,
        name: str,
        command: Command,
        record: Path,
        outputs: list[Path],
        action: Callable[[], None],
        inputs: dict[str, Path],
        extra: dict[str, Any] | None = None,
        resumable: Path | None = None,
    ) -> None:
        """A stage that is one fairseq command: printed first, compared by its arguments."""
        self.commands.append((name, command.portable()))
        settings = {"command": command.fingerprint(self.work_dir), **(extra or {})}
        details = [f"$ {command}"]
        self.stages.run(Stage(name, record, outputs, settings, action, inputs, details, resumable))
