"""Speed and memory of expected BLEU, as ratios to cross-entropy in the same run.

python -m benchmarks.expected_bleu --output docs/results/expected_bleu
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import peak_memory
from benchmarks.loss_functions import BASELINE, OBJECTIVES, Shape, draw_batch, forward_backward
from benchmarks.report import environment, markdown_table, write_json, write_text
from benchmarks.timing import Timing, interleaved
from benchmarks.training_step import LAYERS, UNITS, training_steps

# What the objectives are meant to stay below.
OBJECTIVE_TARGETS = {
    f"expected_bleu {value}, {level}": target
    for value, target in (("paper", 1.3), ("exact", 1.6))
    for level in ("corpus", "sentence")
}
STEP_BASELINE = "label_smoothed_cross_entropy"
STEP_TARGET = 1.05
CRITERIONS = {
    STEP_BASELINE: ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"],
    **{
        f"expected_bleu {value}": ["--criterion", "expected_bleu", "--overlap", value]
        for value in ("paper", "exact")
    },
}


def build_objective(name: str, shape: Shape):
    """Top-level so that a fresh process can unpickle it."""
    # A first call on a small batch loads what is loaded on first use.
    forward_backward(name, draw_batch(Shape(2, 5, 50), torch.device("cpu")))()
    return forward_backward(name, draw_batch(shape, torch.device("cpu")))


def measure_memory(shape: Shape, device: torch.device) -> dict[str, float]:
    """Peak memory over the logits, in multiples of the logits' own size."""
    logits_bytes = 4 * shape.batch * shape.tgt_len * shape.vocab
    peaks = {}
    for name in OBJECTIVES:
        if device.type == "cpu":
            peak = peak_memory.on_cpu(partial(build_objective, name, shape))
        else:
            function = forward_backward(name, draw_batch(shape, device))
            function()
            peak = peak_memory.on_cuda(function)
        peaks[name] = peak / logits_bytes
    return peaks


def verdict(ratio: float, target: float | None) -> str:
    if target is None:
        return ""
    return f"{target:.2f} {'met' if ratio <= target else 'missed'}"


def timing_cells(timing: Timing) -> list[str]:
    return [
        f"{1000 * timing.seconds:.1f}",
        f"{timing.ratio:.2f}",
        f"{timing.lower_quartile:.2f} to {timing.upper_quartile:.2f}",
    ]


class Report:
    """Tables for the terminal, for Markdown and for JSON from one set of rows."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.parts: list[str] = []
        self.results: dict[str, object] = {}

    def add(self, title: str, header: list[str], rows: list[list[str]]) -> None:
        table = Table(title=title)
        for index, column in enumerate(header):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
        self.parts.append(f"## {title}\n\n{markdown_table(header, rows)}\n")


def benchmark_objectives(report: Report, shape: Shape, device: torch.device, rounds: int) -> None:
    batch = draw_batch(shape, device)
    functions = {name: forward_backward(name, batch) for name in OBJECTIVES}
    timings = interleaved(functions, baseline=BASELINE, rounds=rounds, device=device)
    peaks = measure_memory(shape, device)
    rows = [
        [
            name,
            *timing_cells(timing),
            verdict(timing.ratio, OBJECTIVE_TARGETS.get(name)),
            f"{peaks[name]:.2f}",
        ]
        for name, timing in timings.items()
    ]
    header = ["objective", "ms", "ratio", "quartiles", "target", "peak memory"]
    report.add(f"Forward and backward to logits {shape}, {device.type}", header, rows)
    report.results[f"objectives {device.type}"] = {
        name: {**asdict(timing), "peak_memory_in_logits": peaks[name]}
        for name, timing in timings.items()
    }


def benchmark_steps(report: Report, shape: Shape, device: torch.device, rounds: int) -> None:
    steps = training_steps(CRITERIONS, shape, device)
    timings = interleaved(steps, baseline=STEP_BASELINE, rounds=rounds, device=device)
    rows = [
        [
            name,
            *timing_cells(timing),
            verdict(timing.ratio, None if name == STEP_BASELINE else STEP_TARGET),
        ]
        for name, timing in timings.items()
    ]
    header = ["criterion", "ms", "ratio", "quartiles", "target"]
    report.add(f"Whole training step, {shape}, {device.type}", header, rows)
    report.results[f"steps {device.type}"] = {
        name: asdict(timing) for name, timing in timings.items()
    }


EXPLANATION = """\
# What expected BLEU costs

Written by `python -m benchmarks.expected_bleu`. In every round each row is run once, in random
order; a **ratio** is a row's time divided by the first row's in the same round, median over the
rounds ({rounds}, and {step_rounds} of whole steps), with its quartiles beside it. On a CPU times
are processor time of one thread. **Target** is what the row was meant to stay below. **Peak
memory** is what one call needs at most over the logits themselves, their gradient included, in
multiples of the logits' size: the growth of the resident set of a fresh process on a CPU,
PyTorch's own count on an accelerator. References follow Zipf's law and, with `</s>`, fill at
least two thirds of the rows. The model of the whole step is a transformer with
{layers} + {layers} layers of {units} units; a step is forward, backward, clipping and Adam.

Measured on: {environment}.

"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="sentences")
    parser.add_argument("--length", type=int, default=30, help="rows of a sentence, with </s>")
    parser.add_argument("--vocab", type=int, default=8_000, help="words")
    parser.add_argument("--rounds", type=int, default=60, help="timed rounds of the objectives")
    parser.add_argument("--step-rounds", type=int, default=20, help="timed rounds of whole steps")
    parser.add_argument("--output", type=Path, help="write this path plus .md and .json")
    parser.add_argument("--skip-steps", action="store_true", help="objectives only")
    parsed = parser.parse_args(arguments)
    smallest = {"batch": 1, "length": 5, "vocab": 10, "rounds": 4, "step_rounds": 4}
    for name, least in smallest.items():
        if getattr(parsed, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    chosen = parse_arguments(arguments)
    torch.set_num_threads(1)
    shape = Shape(chosen.batch, chosen.length, chosen.vocab)
    report = Report(Console())
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    for device in devices:
        benchmark_objectives(report, shape, device, chosen.rounds)
        if not chosen.skip_steps:
            benchmark_steps(report, shape, device, chosen.step_rounds)
    if chosen.output:
        facts = environment()
        text = EXPLANATION.format(
            rounds=chosen.rounds,
            step_rounds=chosen.step_rounds,
            layers=LAYERS,
            units=UNITS,
            environment=", ".join(f"{k} {v}" for k, v in facts.items()),
        )
        write_text(chosen.output.with_suffix(".md"), text + "\n".join(report.parts))
        write_json(
            chosen.output.with_suffix(".json"),
            {"shape": asdict(shape), "environment": facts, "results": report.results},
        )
        print(f"written: {chosen.output}.md, .json")


if __name__ == "__main__":
    main()
