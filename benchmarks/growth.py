"""How the cost of expected BLEU and of sampled objectives grows with the sizes of a batch."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from benchmarks.loss import BASELINE, draw_batch, forward_backward, peak_in_logits
from benchmarks.objectives import BASELINE as STEP_BASELINE
from benchmarks.objectives import criterions, graph_flags
from benchmarks.report import TIMING, Section, Sizes, Table, timing_cells
from benchmarks.timing import interleaved
from benchmarks.training_step import impose_lengths, training_steps

SIZES = Sizes(batch=32, length=30, vocab=8_000, rounds=10)
OBJECTIVE = "expected_bleu exact, corpus"
SAMPLES = (2, 4, 8, 16)

TEXT = """\
The first tables have expected BLEU (exact counts) from logits to their gradient, beside `torch
cross_entropy` on the same logits: one size doubles, the others are {batch} sentences, {length}
positions and {vocab:,} words. The softmax over the words is in both; what expected BLEU adds
grows with positions times tokens of the reference, so its ratio may grow with the length, and not
with vocabulary or sentences. **Peak memory** is in multiples of the logits' size.

The last table has a step of `leave_one_out` with `--samples`, beside one of cross-entropy.
"""


def loss_table(sizes: Sizes, what: str, factors: tuple[float, ...]) -> Table:
    """One size multiplied by each of the factors."""
    cpu = torch.device("cpu")
    rows, figures = [], {}
    for factor in factors:
        value = round(factor * getattr(sizes, what))
        grown = replace(sizes, **{what: value})
        batch = draw_batch(grown, cpu)
        functions = {name: forward_backward(name, batch) for name in (BASELINE, OBJECTIVE)}
        timings = interleaved(functions, baseline=BASELINE, rounds=sizes.rounds, device=cpu)
        timing = timings[OBJECTIVE]
        peak = peak_in_logits(OBJECTIVE, grown, cpu)
        rows.append([f"{value:,}", *timing_cells(timing), f"{peak:.2f}"])
        figures[str(value)] = {**asdict(timing), "memory": peak}
    return Table(f"Loss by {what}", [what, *TIMING, "peak memory"], rows, figures)


def samples_table(sizes: Sizes) -> Table:
    sizes = replace(sizes, length=min(sizes.length, 20))
    rows = {f"--samples {k}": graph_flags("leave_one_out", "--samples", str(k)) for k in SAMPLES}
    cpu = torch.device("cpu")
    steps = training_steps({STEP_BASELINE: criterions()[STEP_BASELINE], **rows}, sizes, cpu)
    impose_lengths(steps[STEP_BASELINE].model, sizes.length)
    rounds = max(4, sizes.rounds // 2)
    timings = interleaved(steps, baseline=STEP_BASELINE, rounds=rounds, device=cpu)
    return Table(
        "Step by samples",
        ["row", *TIMING],
        [[name, *timing_cells(timing)] for name, timing in timings.items()],
        {name: asdict(timing) for name, timing in timings.items()},
    )


def measure(sizes: Sizes) -> Section:
    text = TEXT.format(batch=sizes.batch, length=sizes.length, vocab=sizes.vocab)
    tables = [
        loss_table(sizes, "length", (1, 2, 4, 8)),
        loss_table(sizes, "vocab", (1, 2, 4, 8)),
        loss_table(sizes, "batch", (0.25, 1, 4, 8)),
        samples_table(sizes),
    ]
    return Section("Growth with the sizes of a batch", text, tables, sizes.rounds)
