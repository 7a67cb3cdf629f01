"""Reading what fairseq-train prints with ``--log-format simple``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_LINE = re.compile(r"^[\d-]+ [\d:]+ \| INFO \| (?P<tag>[\w.]+) \| (?P<rest>.*)$")
_INNER = re.compile(r"(?P<key>\w+)=\s*(?P<value>[^\s,]+)")
_SHORTEST = 5  # seconds
_PROGRESS = re.compile(r"^epoch\s+(?P<epoch>\d+):\s*(?P<step>\d+) / (?P<steps>\d+)")


@dataclass
class LogLine:
    """One line of figures: ``kind`` is ``train_inner``, ``train`` or the valid subset's name."""

    kind: str
    epoch: int
    values: dict[str, float]


@dataclass
class TrainingLog:
    """Figures of a whole log. A run that resumed repeats updates: the last repeat counts."""

    inner: dict[int, dict[str, float]] = field(default_factory=dict)
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    valid: dict[int, dict[str, float]] = field(default_factory=dict)

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Updates and values of a validation metric."""
        points = [(u, v[metric]) for u, v in sorted(self.valid.items()) if metric in v]
        return [u for u, _ in points], [value for _, value in points]

    def seconds_per_update(self) -> float | None:
        """Mean time of a training step (forward, backward, optimiser; no validation), seconds.

        None when the log covers too short a time for fairseq's whole seconds to tell.
        """
        seconds, updates, before = 0.0, 0.0, 0.0
        for update, values in sorted(self.epochs.items()):
            if "train_wall" in values:
                seconds += values["train_wall"]
                updates += update - before
            before = update
        # fairseq prints whole seconds for each epoch.
        return seconds / updates if updates and seconds >= _SHORTEST else None


def parse_line(line: str) -> LogLine | None:
    """Parse a log line with figures; None for any other line."""
    match = _LINE.match(line)
    if match is None:
        return None
    kind, rest = match["tag"], match["rest"]
    if kind == "train_inner":
        progress = _PROGRESS.match(rest)
        if progress is None:
            return None
        pairs = [(m["key"], m["value"]) for m in _INNER.finditer(rest)]
        epoch = int(progress["epoch"])
    elif rest.startswith("epoch "):
        pieces = [piece.strip() for piece in rest.split("|")]
        epoch = int(pieces[0].split()[1])
        pairs = [tuple(p.split(" ")) for p in pieces[1:] if p.count(" ") == 1]  # type: ignore[misc]
    else:
        return None
    values = {}
    for key, value in pairs:
        try:
            values[key] = float(value)
        except ValueError:
            continue
    return LogLine(kind, epoch, values) if "num_updates" in values else None


def read_training_log(path: Path) -> TrainingLog:
    """Parse the log file; a missing file gives an empty log."""
    log = TrainingLog()
    if not path.is_file():
        return log
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            parsed = parse_line(line)
            if parsed is None:
                continue
            update = int(parsed.values["num_updates"])
            if parsed.kind == "train_inner":
                log.inner[update] = parsed.values
            elif parsed.kind == "train":
                log.epochs[update] = parsed.values
            else:
                log.valid[update] = parsed.values
    return log
