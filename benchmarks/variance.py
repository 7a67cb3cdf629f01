"""How much the gradient of sampled objectives varies, and what a draw of it costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.objectives import BASELINE, criterions, graph_flags
from benchmarks.report import Section, Sizes, Table
from benchmarks.training_step import PADDING, Step, draw_sample, training_steps

SIZES = Sizes(batch=16, length=14, vocab=200, rounds=60)
UPDATES = 400
LEARNING_RATE = 5e-4
TRANSLATED = 0.8
"""Probability that a word of the target is the one that the source's stands for."""

FIRST = "reinforce"
ROWS = {
    FIRST: graph_flags("reinforce"),
    "self_critical": graph_flags("self_critical"),
    "leave_one_out --samples 2": graph_flags("leave_one_out", "--samples", "2"),
    "leave_one_out": graph_flags("leave_one_out"),
    "reinforce --baseline expected": graph_flags("reinforce", "--baseline", "expected"),
}

TEXT = """\
A model ({updates} updates of cross-entropy; in the language each word has one translation, which
stands there with probability {translated}, else another word) is left as it is, and the gradient
of one batch of {batch} sentences is drawn {rounds} times for each objective. **Variance** is the
sum over all parameters of the gradient's variance over these draws, **time** processor time of a
draw, decoding included; both divided by those of `{first}`, whose baseline is a moving average.
With draws for the same time, what counts is their product, **variance x time**. **Squared mean**:
of the gradient itself, without the part that the draws' variance adds, in the same unit as the
variance; the estimates of all rows have the same mean.
"""


def batches(sizes: Sizes, sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Endlessly: the sample with other words, each target word drawn by its source's."""
    generator = torch.Generator().manual_seed(1)
    words = sizes.vocab - 4
    while True:
        target = sample["target"]
        is_word = target > 3
        drawn = 4 + torch.randint(words, target.shape, generator=generator)
        other = 4 + torch.randint(words, target.shape, generator=generator)
        kept = torch.rand(target.shape, generator=generator) < TRANSLATED
        source = target.masked_fill(is_word, 0) + drawn * is_word
        translation = torch.where(kept, 4 + (drawn + 7) % words, other)
        wanted = torch.where(is_word, translation, target)
        fed = torch.cat([sample["net_input"]["prev_output_tokens"][:, :1], wanted[:, :-1]], dim=1)
        fed = fed.masked_fill(wanted.eq(PADDING), PADDING)
        lengths = sample["net_input"]["src_lengths"]
        net_input = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": fed}
        yield {**sample, "net_input": net_input, "target": wanted}


def gradient(step: Step) -> Tensor:
    """Of all parameters, one after the other."""
    loss, sample_size, _ = step.criterion(step.model, step.sample)
    learning = [value for value in step.model.parameters() if value.requires_grad]
    found = torch.autograd.grad(loss / sample_size, learning, allow_unused=True)
    return torch.cat([part.flatten() for part in found if part is not None])


def measure(sizes: Sizes) -> Section:
    flags = {BASELINE: criterions()[BASELINE], **ROWS}
    steps = training_steps(flags, sizes, torch.device("cpu"))
    first = steps.pop(BASELINE)
    data = batches(sizes, draw_sample(sizes))
    first.optimizer.set_lr(LEARNING_RATE)
    for _ in range(UPDATES if sizes.vocab == SIZES.vocab and sizes.rounds > 4 else 2):
        replace(first, sample=next(data))()
    sample = next(data)
    rows, figures = [], {}
    for name, step in steps.items():
        step = replace(step, sample=sample)
        step.model.train()
        for _ in range(20 if name == FIRST else 1):  # its baseline begins at 0
            gradient(step)
        # Sums, so that memory does not grow with the draws.
        total: Tensor | float = 0.0
        squares, times = 0.0, []
        for _ in range(sizes.rounds):
            started = time.process_time()
            drawn = gradient(step)
            times.append(time.process_time() - started)
            total, squares = total + drawn, squares + float(drawn.square().sum())
        n = sizes.rounds
        mean_square = float((total / n).square().sum())
        variance = (squares / n - mean_square) * n / (n - 1)
        figures[name] = {
            "variance": variance,
            "squared_mean": mean_square - variance / n,
            "seconds": statistics.median(times),
        }
    least = figures[FIRST]
    for name, found in figures.items():
        found["ratio"] = found["variance"] / least["variance"]
        found["time_ratio"] = found["seconds"] / least["seconds"]
        rows.append(
            [
                *(name, f"{found['ratio']:.3f}", f"{found['time_ratio']:.2f}"),
                f"{found['ratio'] * found['time_ratio']:.3f}",
                f"{found['squared_mean'] / least['variance']:.4f}",
            ]
        )
    header = ["row", "variance", "time", "variance x time", "squared mean"]
    text = TEXT.format(**asdict(sizes), updates=UPDATES, translated=TRANSLATED, first=FIRST)
    return Section(
        "Variance of the gradient", text, [Table("Draws", header, rows, figures)], sizes.rounds
    )
