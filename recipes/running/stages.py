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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.errors import RecipeError
from recipes.text import file_hash, write_text


@dataclass
class Stage:
    """One step of a recipe.

    Args:
        name: shown to the user, accepted by ``--redo``.
        record: the ``.stage.json`` file.
        outputs: files that exist when the stage is done.
        settings: JSON-able values the outputs depend on.
        inputs: files the outputs depend on, by role; compared by content.
        action: makes the outputs.
        details: lines shown before it runs, such as the command.
        resumable: folder that a killed run continues from (a training's save-dir). It is moved
            aside, never deleted, when the settings changed.
        shell: lines that make the outputs in a shell.
        portable: its command as it goes into a report, if it is one.
    """

    name: str
    record: Path
    outputs: list[Path]
    settings: dict[str, Any]
    action: Callable[[], None]
    inputs: dict[str, Path] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    resumable: Path | None = None
    shell: list[str] = field(default_factory=list)
    portable: str | None = None


class Ended(Exception):
    """The stage to end after is done."""


def _read_record(path: Path) -> dict[str, Any] | None:
    """The stage record, or None when there is none (or a broken one: then it is redone)."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    parts = ("settings", "inputs", "outputs")
    whole = isinstance(record, dict) and all(isinstance(record.get(p, {}), dict) for p in parts)
    return record if whole else None


def _difference(old: Any, new: Any) -> str:
    """What changed between two commands given as lists: the words that came and went."""
    if not (isinstance(old, list) and isinstance(new, list)):
        return f"{old} -> {new}"
    gone = " ".join(str(word) for word in old if word not in new)
    come = " ".join(str(word) for word in new if word not in old)
    return ", ".join([f"-{gone}"] * bool(gone) + [f"+{come}"] * bool(come)) or "order"


@dataclass
class _State:
    """The record of a stage, and the settings and inputs that it should have."""

    record: dict[str, Any] | None
    settings: dict[str, Any]
    inputs: dict[str, str]

    def changes(self) -> list[str]:
        """Readable reasons why the record does not fit."""
        if self.record is None:
            return []
        reasons = []
        old_settings, old_inputs = self.record.get("settings", {}), self.record.get("inputs", {})
        for key in sorted(self.settings.keys() | old_settings.keys()):
            old, new = old_settings.get(key), self.settings.get(key)
            if old != new:
                reasons.append(f"{key} changed ({_difference(old, new)})")
        for key in sorted(self.inputs.keys() | old_inputs.keys()):
            if self.inputs.get(key) != old_inputs.get(key):
                reasons.append(f"input {key} changed")
        return reasons


class StageRunner:
    """Runs stages in order, skipping those that are up to date.

    The options are those of :class:`~recipes.running.run.Run`; ``say_shell`` prints one shell line
    of a dry run, ``say`` if not given.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        dry_run: bool = False,
        redo: tuple[str, ...] = (),
        until: str | None = None,
        take_over: bool = False,
        say_shell: Callable[[str], None] | None = None,
    ) -> None:
        self.say = say
        self.say_shell = say_shell or say
        self.dry_run = dry_run
        self.redo = set(redo)
        self.until = until
        self.take_over = take_over
        self.names: list[str] = []
        self.only_names = False
        self._renewed: set[Path] = set()  # what a dry run would have made
        self._began = time.monotonic()

    def branch(self, say: Callable[[str], None]) -> StageRunner:
        """One for work beside others, with names and lines of its own."""
        branch = copy.copy(self)
        branch.say, branch.names = say, []
        return branch

    def elapsed(self) -> str:
        """Time since the run began, ``h:mm:ss``."""
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def run(self, stage: Stage) -> bool:
        """Run ``stage`` unless it is up to date; returns whether it ran (or would run).

        Raises:
            Ended: it was the last one wanted.
        """
        self.names.append(stage.name)
        if self.only_names:
            return False
        ran = self._run(stage)
        if stage.name == self.until:
            raise Ended
        return ran

    def _run(self, stage: Stage) -> bool:
        state, reason = self._state(stage)
        if reason is None:
            self.say(f"[{self.elapsed()}] {stage.name}: up to date")
            return False
        self.say(f"[{self.elapsed()}] {stage.name}: {reason}")
        if self.dry_run:
            self._print_shell(stage, state)
            return True
        content = {"stage": stage.name, "settings": state.settings, "inputs": state.inputs}
        made = stage.resumable is None and all(output.exists() for output in stage.outputs)
        if self.take_over and state.record is None and made:
            self.say("  what is there is taken over")
            self._finish(stage, {**content, "seconds": None})
            return False
        for detail in stage.details:
            self.say(f"  {detail}")
        if aside := self._aside(stage, state):
            shutil.move(stage.resumable, aside)
            self.say(f"  the earlier run was moved to {aside}")
        _write_record(stage, {**content, "finished": False})
        began = time.monotonic()
        stage.action()
        for output in stage.outputs:
            if not output.exists():
                raise RecipeError(f"stage {stage.name!r} ended without writing {output}")
        self._finish(stage, {**content, "seconds": round(time.monotonic() - began, 1)})
        return True

    def _finish(self, stage: Stage, content: dict[str, Any]) -> None:
        folder = stage.record.parent
        outputs = {os.path.relpath(path, folder): file_hash(path) for path in stage.outputs}
        _write_record(stage, {**content, "finished": True, "outputs": outputs})

    def renewed(self, path: Path) -> bool:
        """Whether a dry run would have made ``path`` anew."""
        return path in self._renewed

    def up_to_date(self, stage: Stage) -> bool:
        """Whether there is nothing to do."""
        made = all(path.exists() for path in stage.inputs.values())
        return made and self._state(stage)[1] is None

    def _state(self, stage: Stage) -> tuple[_State, str | None]:
        """What is known of a stage, and why it has to run."""
        # Inputs are missing only in a dry run, where the stages that make them did not run.
        missing = [str(p) for p in stage.inputs.values() if not p.exists()]
        if missing and not self.dry_run:
            raise RecipeError(f"stage {stage.name!r}: input {missing[0]} does not exist")
        inputs = {k: file_hash(p) for k, p in stage.inputs.items() if p.exists()}
        # Through JSON, so that tuples and lists compare equal.
        settings = json.loads(json.dumps(stage.settings))
        state = _State(_read_record(stage.record), settings, inputs)
        reason = self._reason(stage, state)
        if reason is None and (missing or self._renewed & set(stage.inputs.values())):
            reason = "its input is made anew"
        return state, reason

    def _print_shell(self, stage: Stage, state: _State) -> None:
        self._renewed |= set(stage.outputs)
        # fairseq-train continues from what it finds, so a run with other inputs goes as well.
        renewed = bool(self._renewed & set(stage.inputs.values()))
        if aside := self._aside(stage, state, renewed):
            self.say_shell(shlex.join(["mv", str(stage.resumable), str(aside)]))
        for line in stage.shell:
            self.say_shell(line)

    def check_names(self) -> None:
        """Raise if a stage to redo or to end after is not among those that passed."""
        for option, names in (("--redo", self.redo), ("--until", {self.until} - {None})):
            unknown = sorted(names - set(self.names))
            if unknown:
                raise RecipeError(
                    f"{option}: there is no stage {unknown[0]!r} (stages: {', '.join(self.names)})"
                )

    def _reason(self, stage: Stage, state: _State) -> str | None:
        """Why the stage has to run, or None."""
        if stage.name in self.redo:
            return "redone as asked"
        if state.record is None:
            exist = [o.name for o in stage.outputs if o.exists()]
            return f"no record of how {exist[0]} was made" if exist else "start"
        if changed := state.changes():
            return "redone: " + "; ".join(changed)
        if not state.record.get("finished"):
            return "continues" if stage.resumable and stage.resumable.exists() else "start"
        lost = [o.name for o in stage.outputs if not o.exists()]
        if lost:
            return f"redone: {lost[0]} is missing"
        damaged = _damaged(stage, state.record)
        if damaged is None:
            return None
        if stage.resumable is not None:
            # Hours may be in it: not for the runner to decide.
            raise RecipeError(
                f"{damaged} was changed or cut off after stage {stage.name!r} wrote it; put it "
                f"back, or train again with --redo {shlex.quote(stage.name)}"
            )
        return f"redone: {damaged.name} was changed or cut off after it was made"

    def _aside(self, stage: Stage, state: _State, renewed: bool = False) -> Path | None:
        """Where a training made with other settings goes; without a record it is continued."""
        folder = stage.resumable
        if folder is None or not folder.exists():
            return None
        outdated = state.record is not None and (renewed or bool(state.changes()))
        if not outdated and stage.name not in self.redo:
            return None
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        return aside


def _damaged(stage: Stage, record: dict[str, Any]) -> Path | None:
    """The first output that is not what the stage wrote; records of former versions do not say."""
    for name, expected in record.get("outputs", {}).items():
        path = stage.record.parent / name
        if not path.exists() or file_hash(path) != expected:
            return path
    return None


def _write_record(stage: Stage, content: dict[str, Any]) -> None:
    write_text(stage.record, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
