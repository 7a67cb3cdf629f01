"""What all stages of one run share: the recipe, where things lie, and how commands are run."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from recipes.data.origins import missing_text, reads_folder
from recipes.errors import RecipeError
from recipes.fairseq_commands.commands import Command
from recipes.fairseq_commands.process import Processes, run_command
from recipes.running.layout import Layout
from recipes.running.stages import Ended, Stage, changes
from recipes.running.trained_arms import TrainedRecipe, expand
from recipes.schema.recipe import Recipe
from recipes.text import Say, file_hash


@dataclass
class Run:
    """One run of a recipe in ``work_dir``.

    Raises:
        RecipeError: text is neither in ``data_dir`` nor can it be downloaded.
    """

    given: InitVar[Recipe]
    work_dir: Path
    data_dir: Path | None = None  # of the text files, in place of downloads
    say: Say = print
    dry_run: bool = False  # print the commands, run nothing
    redo: tuple[str, ...] = ()  # stages to redo although nothing changed
    cache_dir: Path | None = None  # of downloads; the user's cache folder if not given
    # For these see expand(); what was trained in work_dir before is evaluated too.
    seeds: Sequence[int] = ()
    arms: Sequence[str] = ()
    constant_reward: bool = False
    jobs: int = 1  # arms trained and decoded side by side
    until: str | None = None  # the stage to end after
    take_over: bool = False  # outputs that no record tells of count as made by this recipe
    arguments: Sequence[str] = ()  # of ``python -m recipes`` that make the same run
    shared_start: bool = False
    launcher: Sequence[str] = ()  # words before what is trained and decoded: they start it
    recipe: TrainedRecipe = field(init=False)  # with all arms that are trained
    layout: Layout = field(init=False)
    say_shell: Say = field(init=False)
    commands: list[tuple[str, str]] = field(init=False, default_factory=list)  # stage, shell line
    lock: tuple[int, ...] = field(init=False, default=())
    processes: Processes = field(init=False, default_factory=Processes)
    environment: dict[str, str] = field(init=False, default_factory=dict)
    renewed: set[Path] = field(init=False, default_factory=set)  # what a dry run would have made
    _began: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self, given: Recipe) -> None:
        work_dir, data_dir = self.work_dir, self.data_dir
        if missing := missing_text(given, data_dir):
            raise RecipeError(f"recipe {given.name}: {missing}")
        if self.jobs < 1:
            raise RecipeError(f"--jobs {self.jobs}: at least 1")
        recorded = [p.name[: -len(".stage.json")] for p in work_dir.glob("arms/*.stage.json")]
        wanted = self.seeds, self.arms, self.constant_reward, recorded, self.shared_start
        self.recipe = expand(given, *wanted)
        # Text that has to be made or changed first lies in the work-dir.
        in_place = data_dir is not None and reads_folder(self.recipe, data_dir)
        text_dir = data_dir if data_dir is not None and in_place else work_dir / "text"
        self.layout = Layout(self.recipe, work_dir, text_dir)
        say = self.say_shell = self.say
        if self.dry_run:
            # What a dry run prints is a shell script: all but its commands are comments.
            self.say = lambda line: say(f"# {line.strip()}")
        if self.dry_run or self.until:
            self.jobs = 1
        if not self.arguments:
            data = ["--data-dir", str(data_dir)] if data_dir is not None else []
            self.arguments = ["run", self.recipe.name, *data, "--work-dir", str(work_dir)]

    def restrict(self, arms: Sequence[str]) -> None:
        """Go on with these arms alone."""
        kept = {name: arm for name, arm in self.recipe.arms.items() if name in arms}
        self.recipe = copy.copy(self.recipe)
        self.recipe.arms = kept
        self.layout = Layout(self.recipe, self.work_dir, self.layout.text_dir)

    def branch(self, name: str) -> Run:
        """A run that shares all but what it says and collects, for work beside others."""
        branch = copy.copy(self)
        # Lines with the time name their stage already.
        branch.say = lambda line: self.say(line if line[:1] == "[" else f"  {name} |{line[1:]}")
        branch.commands = []
        return branch

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the work-dir's lock; fairseq processes inherit it, so it outlives a killed run."""
        if self.dry_run:
            yield
            return
        self.work_dir.mkdir(parents=True, exist_ok=True)
        lock = self.work_dir / ".lock"
        if lock.is_symlink():
            raise RecipeError(f"{lock} is a symbolic link; remove it")
        with open(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)) as file:
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

    def check_inside(self, paths: Iterable[Path]) -> None:
        """Check that what will be written to lies in the work-dir.

        Raises:
            RecipeError: a symbolic link leads out of it.
        """
        folder = self.work_dir.resolve()
        for path in paths:
            if not path.resolve().is_relative_to(folder):
                raise RecipeError(
                    f"{path} leads out of {self.work_dir}, to {path.resolve()}; remove the "
                    "symbolic link, or make the whole --work-dir one"
                )

    def launched(self, command: Command) -> Command:
        """A command as ``launcher`` starts it: where there may be GPUs, whatever there is here."""
        if not self.launcher:
            return command
        # In place: where a flag stands is a part of what the command is compared by.
        half = ["--fp16"] if self.recipe.fp16 else []
        words = [half if word == "--cpu" else [word] for word in command.arguments]
        return Command(command.program, tuple(chain.from_iterable(words)), tuple(self.launcher))

    def launch(
        self,
        argv: list[str],
        log: Path,
        stage: str,
        on_line: Say | None = None,
        append: bool = False,
    ) -> None:
        """:func:`~recipes.fairseq_commands.process.run_command` as a part of this run."""
        self.check_inside([log])
        self.say(f"  log: {os.path.relpath(log)}")
        run_command(argv, log, stage, on_line, append, self.lock, self.environment, self.processes)

    def elapsed(self) -> str:
        """Time since the run began, ``h:mm:ss``."""
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def run_stage(self, stage: Stage) -> None:
        """Run a stage unless it is up to date; its command goes into the report.

        Raises:
            Ended: it was the last one wanted.
            RecipeError: it ended without writing its outputs, or an input is missing.
        """
        stage.shell = stage.shell or [self.shell_line(until=stage.name)]
        folder = [stage.resumable] if stage.resumable is not None else []
        self.check_inside([stage.record, *stage.outputs, *folder])
        if stage.command is not None:
            self.commands.append((stage.name, stage.command.portable()))
        record, content, reason = self._look(stage)
        self.say(f"[{self.elapsed()}] {stage.name}: {reason or 'up to date'}")
        if reason is not None and self.dry_run:
            self._print_shell(stage, record, content)
        elif reason is not None:
            self._make(stage, record, content)
        if stage.name == self.until:
            raise Ended

    def shell_line(self, until: str | None = None) -> str:
        """The command that runs this recipe up to a stage, and takes over what is there."""
        last = ["--until", until] if until else []
        return shlex.join(["python", "-m", "recipes", *self.arguments, "--take-over", *last])

    def _make(self, stage: Stage, record: Any, content: dict[str, Any]) -> None:
        made = stage.resumable is None and all(output.exists() for output in stage.outputs)
        if self.take_over and record is None and made:
            self.say("  what is there is taken over")
            stage.finish({**content, "seconds": None})
            return
        for line in [f"$ {stage.command}"] * (stage.command is not None) + stage.details:
            self.say(f"  {line}")
        if aside := self._aside(stage, record, content):
            shutil.move(str(stage.resumable), aside)
            self.say(f"  the earlier run was moved to {aside}")
        stage.write_record({**content, "finished": False})
        began = time.monotonic()
        stage.action()
        for output in stage.outputs:
            if not output.exists():
                raise RecipeError(f"stage {stage.name!r} ended without writing {output}")
        stage.finish({**content, "seconds": round(time.monotonic() - began, 1)})

    def _print_shell(self, stage: Stage, record: Any, content: dict[str, Any]) -> None:
        self.renewed |= set(stage.outputs)
        # fairseq-train continues from what it finds, so a run with other inputs goes as well.
        renewed = bool(self.renewed & set(stage.inputs.values()))
        if aside := self._aside(stage, record, content, renewed):
            self.say_shell(shlex.join(["mv", str(stage.resumable), str(aside)]))
        for line in stage.shell:
            self.say_shell(line)

    def up_to_date(self, stage: Stage) -> bool:
        """Whether there is nothing to do."""
        made = all(path.exists() for path in stage.inputs.values())
        return made and self._look(stage)[2] is None

    def _look(self, stage: Stage) -> tuple[Any, dict[str, Any], str | None]:
        """The record, what it should hold, and why the stage has to run, or None."""
        # Inputs are missing only in a dry run, where the stages that make them did not run.
        missing = [str(p) for p in stage.inputs.values() if not p.exists()]
        if missing and not self.dry_run:
            raise RecipeError(f"stage {stage.name!r}: input {missing[0]} does not exist")
        settings = dict(stage.settings)
        if stage.command is not None:
            settings["command"] = stage.command.fingerprint(self.work_dir)
        content = {
            "stage": stage.name,
            "settings": json.loads(json.dumps(settings)),  # so that tuples and lists compare equal
            "inputs": {k: file_hash(p) for k, p in stage.inputs.items() if p.exists()},
        }
        record = stage.recorded()
        reason = self._reason(stage, record, content)
        if reason is None and (missing or self.renewed & set(stage.inputs.values())):
            reason = "its input is made anew"
        return record, content, reason

    def _reason(self, stage: Stage, record: Any, content: dict[str, Any]) -> str | None:
        if stage.name in self.redo:
            return "redone as asked"
        if record is None:
            exist = [o.name for o in stage.outputs if o.exists()]
            return f"no record of how {exist[0]} was made" if exist else "start"
        if changed := list(changes(record, content)):
            return "redone: " + "; ".join(changed)
        if not record.get("finished"):
            return "continues" if stage.resumable and stage.resumable.exists() else "start"
        if lost := [o.name for o in stage.outputs if not o.exists()]:
            return f"redone: {lost[0]} is missing"
        damaged = stage.damaged(record)
        if damaged is None:
            return None
        if stage.resumable is not None:
            # Hours may be in it: not for the runner to decide.
            raise RecipeError(
                f"{damaged} was changed or cut off after stage {stage.name!r} wrote it; put it "
                f"back, or train again with --redo {shlex.quote(stage.name)}"
            )
        return f"redone: {damaged.name} was changed or cut off after it was made"

    def _aside(
        self, stage: Stage, record: Any, content: dict[str, Any], renewed: bool = False
    ) -> Path | None:
        """Where a training made with other settings goes; without a record it is continued."""
        folder = stage.resumable
        if folder is None or not folder.exists():
            return None
        outdated = record is not None and (renewed or any(changes(record, content)))
        if not outdated and stage.name not in self.redo:
            return None
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        return aside


def shell_with_log(command: Command, log: Path, append: bool = False) -> list[str]:
    """Shell lines that run a command and keep what it prints in ``log``."""
    redirect = ">>" if append else ">"
    return [
        shlex.join(["mkdir", "-p", str(log.parent)]),
        f"{command} {redirect} {shlex.quote(str(log))} 2>&1",
    ]
