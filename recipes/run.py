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
from recipes.data.origins import missing_text, reads_folder
from recipes.errors import RecipeError
from recipes.layout import Layout
from recipes.process import run_command
from recipes.stages import Stage, StageRunner


class Run:
    """One run of ``recipe`` in ``work_dir``.

    Args:
        data_dir: folder of the text files, in place of downloads.
        say: prints one line.
        dry_run: print the commands, run nothing.
        redo: names of stages to redo although nothing changed.
        cache_dir: where downloads are kept; the user's cache folder if not given.

    Raises:
        RecipeError: text is neither in ``data_dir`` nor can it be downloaded.
    """

    def __init__(
        self,
        recipe: Recipe,
        work_dir: Path,
        data_dir: Path | None = None,
        say: Callable[[str], None] = print,
        dry_run: bool = False,
        redo: tuple[str, ...] = (),
        cache_dir: Path | None = None,
    ) -> None:
        missing = missing_text(recipe, data_dir)
        if missing is not None:
            raise RecipeError(f"recipe {recipe.name}: {missing}")
        # Text that has to be made or changed first lies in the work-dir.
        in_place = reads_folder(recipe, data_dir)
        text_dir = data_dir if data_dir is not None and in_place else work_dir / "text"
        self.recipe = recipe
        self.work_dir = work_dir
        self.data_dir = data_dir
        self.cache_dir = cache_dir
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
