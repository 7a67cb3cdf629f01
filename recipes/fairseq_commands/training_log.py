"""Reading what fairseq-train prints with ``--log-format simple``."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path

# What curves are drawn of; of each, a run logs what its criterion has.
CURVES = (
    "bleu",
    "expected_bleu",
    "reward_greedy",
    "reward",
    "entropy",
    "nll_loss",
    "kl",
    "length_ratio",
    "sample_length",
)
SECONDS = "_seconds"  # beside them: when an update was made

_LINE = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \| INFO \| (?P<tag>[\w.]+) \| (?P<rest>.*)$"
)
_INNER = re.compile(r"(?P<key>[\w-]+)=\s*(?P<value>[^\s,]+)")
_SHORTEST = 5  # seconds
_LOADED = re.compile(r"Loaded checkpoint .* @ (?P<updates>\d+) updates\)")
_PROGRESS = re.compile(r"^epoch\s+(?P<epoch>\d+):\s*(?P<step>\d+) / (?P<steps>\d+)")


@dataclass
class LogLine:
    """One line of figures: ``kind`` is ``train_inner``, ``train`` or the valid subset's name."""

    kind: str
    epoch: int
    values: dict[str, float]


@dataclass
class TrainingLog:
    """Figures of a whole log, by update.

    A run that was killed and resumed makes the updates after its last checkpoint twice: those of
    the second time count, in figures and in time.

    ``seconds`` are those of the clock from the first batch on, validation and saving included;
    loading data and models and the time between two parts of a run are not. fairseq's log has
    whole seconds.
    """

    inner: dict[int, dict[str, float]] = field(default_factory=dict)
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    valid: dict[int, dict[str, float]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Updates and values of a metric: in validation or, where only training logs it, there."""
        for lines in (self.valid, self.inner):
            points = [(u, v[metric]) for u, v in sorted(lines.items()) if metric in v]
            if points:
                return [u for u, _ in points], [value for _, value in points]
        return [], []

    def curves(self) -> dict[str, list[list[float]]]:
        """``[updates, values]`` of every metric in :data:`CURVES` that was logged.

        Under :data:`SECONDS`, ``[updates, seconds]``, for curves over time.
        """
        found = {metric: list(self.curve(metric)) for metric in CURVES if self.curve(metric)[0]}
        if self.seconds:
            updates = sorted(self.seconds)
            found[SECONDS] = [updates, [self.seconds[update] for update in updates]]
        return found

    def resumed_at(self, update: int) -> float:
        """Forget what came after ``update``, from which training went on; its second."""
        for lines in (self.inner, self.epochs, self.valid, self.seconds):
            for later in [known for known in lines if known > update]:
                del lines[later]
        return self.seconds[max(self.seconds)] if self.seconds else 0.0

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
    clock, validating = _Clock(), None
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            match = _LINE.match(line)
            if match is None:
                continue
            if loaded := _LOADED.match(match["rest"]):
                clock.stop(log.resumed_at(int(loaded["updates"])))
            time = datetime.datetime.fromisoformat(match["time"])
            if match["rest"].startswith("begin training epoch"):
                clock.start(time)
            elif match["rest"].startswith("begin validation"):
                validating = time
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
            clock.start(time)
            # Validation comes after the update, and is logged when it is done.
            valid = parsed.kind not in ("train_inner", "train")
            made = validating if valid and validating is not None else time
            log.seconds.setdefault(update, clock.seconds(max(made, clock.origin)))
    return log


class _Clock:
    """Seconds of training, over the parts of a run."""

    def __init__(self) -> None:
        self.before = 0.0
        self.origin: datetime.datetime | None = None

    def start(self, time: datetime.datetime) -> None:
        """Let the clock run from ``time`` on, unless it does."""
        self.origin = self.origin or time

    def stop(self, before: float) -> None:
        """Stop it at ``before``."""
        self.before, self.origin = before, None

    def seconds(self, time: datetime.datetime) -> float:
        """The clock at ``time``, which is not before its start."""
        assert self.origin is not None
        return self.before + (time - self.origin).total_seconds()
