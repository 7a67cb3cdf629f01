"""A stage: settings and inputs in, outputs out, redone only when one of them changed.

Beside its output every stage keeps ``NAME.stage.json``: the settings and the SHA-256 of the
inputs it was made from, whether it was finished, and the SHA-256 of what it wrote. That file
decides what happens.
"""

from __future__ import annotations

import copy
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.errors import RecipeError
from recipes.fairseq_commands.commands import Command
from recipes.text import file_hash, write_text


@dataclass
class Stage:
    """One step of a recipe.

    Args:
        name: shown to the user, accepted by ``--redo``.
        record: the ``.stage.json`` file.
        outputs: files that exist when the stage is done.
        settings: JSON-able values the outputs depend on, other than ``command``.
        action: makes the outputs.
        inputs: files the outputs depend on, by role; compared by content.
        command: of fairseq, if the stage is one.
        resumable: folder that a killed run continues from (a training's save-dir). It is moved
            aside, never deleted, when the settings changed.
        shell: lines that make the outputs in a shell.
        details: lines shown before it runs, with the command.
    """

    name: str
    record: Path
    outputs: list[Path]
    settings: dict[str, Any]
    action: Callable[[], None]
    inputs: dict[str, Path] = field(default_factory=dict)
    command: Command | None = None
    resumable: Path | None = None
    shell: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


class Ended(Exception):
    """The stage to end after is done."""


@dataclass
class StageRunner:
    """Runs stages in order, skipping those that are up to date.

    The options are those of :class:`~recipes.running.run.Run`; ``say_shell`` prints one shell line
    of a dry run. With ``only_names``, stages are named and not looked at.
    """

    say: Callable[[str], None]
    work_dir: Path = Path()
    dry_run: bool = False
    redo: tuple[str, ...] = ()
    until: str | None = None
    take_over: bool = False
    say_shell: Callable[[str], None] = print
    only_names: bool = False
    names: list[str] = field(default_factory=list)  # of the stages that passed
    _renewed: set[Path] = field(default_factory=set)  # what a dry run would have made
    _began: float = field(default_factory=time.monotonic)

    def branch(self, say: Callable[[str], None]) -> StageRunner:
        """One for work beside others, with names and lines of its own."""
        branch = copy.copy(self)
        branch.say, branch.names = say, []
        return branch

    def elapsed(self) -> str:
        """Time since the run began, ``h:mm:ss``."""
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def run(self, stage: Stage) -> None:
        """Run ``stage`` unless it is up to date.

        Raises:
            Ended: it was the last one wanted.
            RecipeError: it ended without writing its outputs, or an input is missing.
        """
        self.names.append(stage.name)
        if self.only_names:
            return
        record, content, reason = self._look(stage)
        self.say(f"[{self.elapsed()}] {stage.name}: {reason or 'up to date'}")
        if reason is not None and self.dry_run:
            self._print_shell(stage, record, content)
        elif reason is not None:
            self._make(stage, record, content)
        if stage.name == self.until:
            raise Ended

    def _make(self, stage: Stage, record: Any, content: dict[str, Any]) -> None:
        made = stage.resumable is None and all(output.exists() for output in stage.outputs)
        if self.take_over and record is None and made:
            self.say("  what is there is taken over")
            _finish(stage, {**content, "seconds": None})
            return
        for line in [f"$ {stage.command}"] * (stage.command is not None) + stage.details:
            self.say(f"  {line}")
        if aside := self._aside(stage, record, content):
            shutil.move(stage.resumable, aside)
            self.say(f"  the earlier run was moved to {aside}")
        _write_record(stage, {**content, "finished": False})
        began = time.monotonic()
        stage.action()
        for output in stage.outputs:
            if not output.exists():
                raise RecipeError(f"stage {stage.name!r} ended without writing {output}")
        _finish(stage, {**content, "seconds": round(time.monotonic() - began, 1)})

    def _print_shell(self, stage: Stage, record: Any, content: dict[str, Any]) -> None:
        self._renewed |= set(stage.outputs)
        # fairseq-train continues from what it finds, so a run with other inputs goes as well.
        renewed = bool(self._renewed & set(stage.inputs.values()))
        if aside := self._aside(stage, record, content, renewed):
            self.say_shell(shlex.join(["mv", str(stage.resumable), str(aside)]))
        for line in stage.shell:
            self.say_shell(line)

    def renewed(self, path: Path) -> bool:
        """Whether a dry run would have made ``path`` anew."""
        return path in self._renewed

    def up_to_date(self, stage: Stage) -> bool:
        """Whether there is nothing to do."""
        made = all(path.exists() for path in stage.inputs.values())
        return made and self._look(stage)[2] is None

    def check_names(self) -> None:
        """Raise if a stage to redo or to end after is not among those that passed."""
        asked = [("--redo", name) for name in self.redo]
        asked += [("--until", self.until)] if self.until else []
        for option, name in asked:
            if name not in self.names:
                known = ", ".join(self.names)
                raise RecipeError(f"{option}: there is no stage {name!r} (stages: {known})")

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
        record = _read_record(stage.record)
        reason = self._reason(stage, record, content)
        if reason is None and (missing or self._renewed & set(stage.inputs.values())):
            reason = "its input is made anew"
        return record, content, reason

    def _reason(self, stage: Stage, record: Any, content: dict[str, Any]) -> str | None:
        if stage.name in self.redo:
            return "redone as asked"
        if record is None:
            exist = [o.name for o in stage.outputs if o.exists()]
            return f"no record of how {exist[0]} was made" if exist else "start"
        if changed := list(_changes(record, content)):
            return "redone: " + "; ".join(changed)
        if not record.get("finished"):
            return "continues" if stage.resumable and stage.resumable.exists() else "start"
        if lost := [o.name for o in stage.outputs if not o.exists()]:
            return f"redone: {lost[0]} is missing"
        damaged = _damaged(stage, record)
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
        outdated = record is not None and (renewed or any(_changes(record, content)))
        if not outdated and stage.name not in self.redo:
            return None
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        return aside


def _changes(record: dict[str, Any], content: dict[str, Any]) -> Iterator[str]:
    """Readable reasons why a record does not fit."""
    old, new = record.get("settings", {}), content["settings"]
    for key in sorted(new.keys() | old.keys()):
        if old.get(key) != new.get(key):
            yield f"{key} changed ({_difference(old.get(key), new.get(key))})"
    old, new = record.get("inputs", {}), content["inputs"]
    for key in sorted(new.keys() | old.keys()):
        if old.get(key) != new.get(key):
            yield f"input {key} changed"


def _difference(old: Any, new: Any) -> str:
    """What changed between two commands given as lists: the words that came and went."""
    if not (isinstance(old, list) and isinstance(new, list)):
        return f"{old} -> {new}"
    gone = " ".join(str(word) for word in old if word not in new)
    come = " ".join(str(word) for word in new if word not in old)
    return ", ".join([f"-{gone}"] * bool(gone) + [f"+{come}"] * bool(come)) or "order"


def _damaged(stage: Stage, record: dict[str, Any]) -> Path | None:
    """The first output that is not what the stage wrote; records of former versions do not say."""
    for name, expected in record.get("outputs", {}).items():
        path = stage.record.parent / name
        if not path.exists() or file_hash(path) != expected:
            return path
    return None


def _read_record(path: Path) -> dict[str, Any] | None:
    """The stage record, or None when there is none (or a broken one: then it is redone)."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    parts = ("settings", "inputs", "outputs")
    whole = isinstance(record, dict) and all(isinstance(record.get(p, {}), dict) for p in parts)
    return record if whole else None


def _finish(stage: Stage, content: dict[str, Any]) -> None:
    folder = stage.record.parent
    outputs = {os.path.relpath(path, folder): file_hash(path) for path in stage.outputs}
    _write_record(stage, {**content, "finished": True, "outputs": outputs})


def _write_record(stage: Stage, content: dict[str, Any]) -> None:
    write_text(stage.record, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
