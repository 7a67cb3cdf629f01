"""A stage: settings and inputs in, outputs out, redone only when one of them changed.

Beside its output every stage keeps ``NAME.stage.json``: the settings and the SHA-256 of the
inputs it was made from, whether it was finished, and the SHA-256 of what it wrote. That file
decides what happens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.fairseq_commands.commands import Command
from recipes.text import file_hash, write_text


@dataclass
class Stage:
    """One step of a recipe; inputs are compared by content."""

    name: str  # shown to the user, accepted by ``--redo``
    record: Path
    outputs: list[Path]
    settings: dict[str, Any]  # what outputs depend on other than inputs and command; for JSON
    action: Callable[[], None]  # makes the outputs
    inputs: dict[str, Path] = field(default_factory=dict)  # by role
    command: Command | None = None  # of fairseq, if the stage is one
    # A training's save-dir: a killed run continues, and one with other settings is moved aside.
    resumable: Path | None = None
    shell: list[str] = field(default_factory=list)  # lines that make the outputs in a shell
    details: list[str] = field(default_factory=list)  # lines shown before it runs

    def recorded(self) -> dict[str, Any] | None:
        """Its record, or None when there is none (or a broken one: then it is redone)."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        parts = ("settings", "inputs", "outputs")
        whole = isinstance(record, dict) and all(isinstance(record.get(p, {}), dict) for p in parts)
        return record if whole else None

    def write_record(self, content: dict[str, Any]) -> None:
        """Note what it is made from."""
        write_text(self.record, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def finish(self, content: dict[str, Any]) -> None:
        """Note that it is done, and what it wrote."""
        folder = self.record.parent
        outputs = {os.path.relpath(path, folder): file_hash(path) for path in self.outputs}
        self.write_record({**content, "finished": True, "outputs": outputs})

    def damaged(self, record: dict[str, Any]) -> Path | None:
        """The first output that is not what it wrote; records of former versions do not say."""
        for name, expected in record.get("outputs", {}).items():
            path = self.record.parent / str(name)
            if not path.exists() or file_hash(path) != expected:
                return path
        return None


class Ended(Exception):
    """The stage to end after is done."""


def changes(record: dict[str, Any], content: dict[str, Any]) -> Iterator[str]:
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
