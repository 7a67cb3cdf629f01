"""Reading what fairseq-train prints with ``--log-format simple``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from recipes.text import Say

# What curves are drawn of, and their titles; of each, a run logs what its criterion has.
CURVES = {
    "bleu": "valid BLEU (greedy, while training)",
    "expected_bleu": "expected BLEU",
    "reward_greedy": "reward of greedy output",
    "reward": "reward of sampled output (training)",
    "entropy": "entropy of the tokens drawn (nats, training)",
    "nll_loss": "negative log-likelihood (bits / token)",
    "kl": "KL divergence of the latent variable (nats / sentence)",
    "length_ratio": "length ratio",
    "sample_length": "length of output (tokens)",
}
_SHOWN = ("loss", "nll_loss", "expected_bleu", "bleu", "reward", "length_ratio", "ups")

_LINE = re.compile(r"[\d-]+ [\d:]+ \| INFO \| (?P<tag>\w+) \| epoch +0*(?P<epoch>\d+)(?P<rest>.*)")
# "loss=1.5," while training, "| loss 1.5 |" at the end of an epoch and in validation.
_FIGURE = re.compile(r"(?P<key>[\w-]+)(?:= *| )(?P<value>-?\d[\d.e+-]*|nan|-?inf)(?=[,\s]|$)")
_SHORTEST = 5  # seconds
_LOADED = re.compile(r"Loaded checkpoint .* @ (?P<updates>\d+) updates\)")


@dataclass
class TrainingLog:
    """Figures of a whole log, by update.

    A run that was killed and resumed makes the updates after its last checkpoint twice: those of
    the second time count.
    """

    inner: dict[int, dict[str, float]] = field(default_factory=dict)
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    valid: dict[int, dict[str, float]] = field(default_factory=dict)

    def curve(self, metric: str) -> list[list[float]]:
        """Updates and values of a metric: in validation or, where only training logs it, there."""
        for lines in (self.valid, self.inner):
            points = [(u, v[metric]) for u, v in sorted(lines.items()) if metric in v]
            if points:
                return [[u for u, _ in points], [value for _, value in points]]
        return []

    def curves(self) -> dict[str, list[list[float]]]:
        """:meth:`curve` of every metric in :data:`CURVES` that was logged."""
        return {metric: curve for metric in CURVES if (curve := self.curve(metric))}

    def resumed_at(self, update: int) -> None:
        """Forget what came after ``update``, from which training went on."""
        for lines in (self.inner, self.epochs, self.valid):
            for later in [known for known in lines if known > update]:
                del lines[later]

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


def _figures(line: str) -> tuple[str, str, dict[str, float]] | None:
    """What a line of figures is of (``train_inner``, ``train`` or a valid subset's name), its
    epoch, and the figures; None for any other line."""
    match = _LINE.match(line)
    if match is None:
        return None
    values = {m["key"]: float(m["value"]) for m in _FIGURE.finditer(match["rest"])}
    return (match["tag"], match["epoch"], values) if "num_updates" in values else None


def read_training_log(path: Path) -> TrainingLog:
    """Parse the log file; a missing file gives an empty log."""
    log = TrainingLog()
    if not path.is_file():
        return log
    kinds = {"train_inner": log.inner, "train": log.epochs}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if loaded := _LOADED.search(line):
                log.resumed_at(int(loaded["updates"]))
            if found := _figures(line.rstrip("\n")):
                kind, _, values = found
                kinds.get(kind, log.valid)[int(values["num_updates"])] = values
    return log


def training_progress(
    say: Say, last: int | None = None, now: Callable[[], float] = monotonic
) -> Say:
    """A line handler for fairseq-train: one short line for every line of figures.

    Args:
        last: the update that ends the training, if it is known: the time that is left is shown.
        now: the clock, in seconds.
    """
    first: list[tuple[float, float]] = []  # update and time of the first line

    def on_line(line: str) -> None:
        found = _figures(line)
        if found is None or found[0] == "train":
            return
        kind, epoch, values = found
        update, time = values["num_updates"], now()
        if not first:
            first.append((update, time))
        figures = "  ".join(f"{key} {values[key]:g}" for key in _SHOWN if key in values)
        kind = "train" if kind == "train_inner" else kind
        line = f"  {kind:<5}  epoch {epoch}  updates {update:g}  {figures}"
        done = update - first[0][0]
        if last is not None and done > 0 and update < last:
            minutes = (time - first[0][1]) * (last - update) / done / 60
            line += f"  {minutes:.0f} min left" if minutes >= 1 else "  less than a minute left"
        say(line)

    return on_line
