"""Short lines about what fairseq is doing."""

from __future__ import annotations

from collections.abc import Callable

from recipes.fairseq_commands.training_log import parse_line

_SHOWN = ("loss", "nll_loss", "expected_bleu", "bleu", "reward", "length_ratio", "ups")


def training_progress(say: Callable[[str], None]) -> Callable[[str], None]:
    """A line handler for fairseq-train: one short line for every line of figures."""

    def on_line(line: str) -> None:
        parsed = parse_line(line)
        if parsed is None or parsed.kind == "train":
            return
        values = parsed.values
        figures = "  ".join(f"{key} {values[key]:g}" for key in _SHOWN if key in values)
        kind = "train" if parsed.kind == "train_inner" else parsed.kind
        say(f"  {kind:<5}  epoch {parsed.epoch}  updates {values['num_updates']:g}  {figures}")

    return on_line


def generation_progress(say: Callable[[str], None], lines: int) -> Callable[[str], None]:
    """A line handler for fairseq-generate: sentences done, every quarter of a large set."""
    done = 0
    step = max(lines // 4, 200)

    def on_line(line: str) -> None:
        nonlocal done
        if line.startswith("H-"):
            done += 1
            if done % step == 0:
                say(f"  {done} / {lines} sentences")

    return on_line
