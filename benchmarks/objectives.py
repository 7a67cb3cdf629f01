"""A training step of every objective, beside one of cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peak_memory
from benchmarks.report import TIMING, Section, Sizes, Table, timing_cells
from benchmarks.timing import interleaved
from benchmarks.training_step import (
    HEADS,
    LAYERS,
    SPREAD,
    UNITS,
    Step,
    draw_sample,
    impose_lengths,
    training_steps,
)
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES

SIZES = Sizes(batch=32, length=20, vocab=6_000, rounds=8)
BASELINE = "label_smoothed_cross_entropy"
UPDATE = 5_000
"""Half-way through the schedules of the presets."""

_SAMPLES_MEASURED = 3
"""Untimed passes over which the mean length of what was sampled is taken."""

_MEMORY_ROWS = (
    *(BASELINE, "--criterion expected_bleu", "--criterion expected_bleu --feed sample"),
    *("reinforce", "leave_one_out", "minimum_risk"),
)
"""Rows of which the peak memory is measured, each in a process of its own."""


def graph_flags(objective: str, *flags: str) -> list[str]:
    needed = []
    if OBJECTIVES[objective].flags.get("emit") == "greedy":
        needed = ["--arch", "actor_transformer"]
    return ["--criterion", "stochastic_graph", "--objective", objective, *needed, *flags]


def criterions() -> dict[str, list[str]]:
    """Row -> flags of fairseq-train."""
    bleu = ["--criterion", "expected_bleu"]
    return {
        BASELINE: ["--criterion", BASELINE, "--label-smoothing", "0.1"],
        "--criterion expected_bleu": bleu,
        "--criterion expected_bleu --overlap paper": [*bleu, "--overlap", "paper"],
        "--criterion expected_bleu --feed greedy": [*bleu, "--feed", "greedy"],
        "--criterion expected_bleu --feed sample": [*bleu, "--feed", "sample"],
        **{name: graph_flags(name) for name in OBJECTIVES},
        "reinforce --baseline expected": graph_flags("reinforce", "--baseline", "expected"),
        "reinforce --cross-entropy-weight 0.3": graph_flags(
            *("reinforce", "--cross-entropy-weight", "0.3")
        ),
        "soft_feeding --unroll two_pass": graph_flags("soft_feeding", "--unroll", "two_pass"),
        "gumbel --unroll two_pass": graph_flags("gumbel", "--unroll", "two_pass"),
    }


def build_steps(sizes: Sizes, names: Iterable[str] | None = None) -> dict[str, Step]:
    """A step for each row, all on one model and one batch."""
    rows = criterions()
    chosen = {name: rows[name] for name in names or rows}
    steps = training_steps(chosen, sizes, torch.device("cpu"), update=UPDATE)
    for model in {id(step.model): step.model for step in steps.values()}.values():
        impose_lengths(model, sizes.length)
    return steps


def step_alone(sizes: Sizes, name: str) -> Step:
    """A row's step, run before with a small batch, so that the optimiser has its state."""
    step = build_steps(sizes, [name])[name]
    for _ in range(2):
        replace(step, sample=draw_sample(replace(sizes, batch=2, length=5)))()
    return step


def sampled(step: Step) -> tuple[int | None, float | None]:
    """Outputs for each source, and their mean length; None where no outputs are rewarded."""
    settings = getattr(step.criterion, "settings", None)
    if getattr(settings, "cost", None) != "reward":
        return None, None
    total = 0.0
    for _ in range(_SAMPLES_MEASURED):
        logged = step.criterion(step.model, step.sample)[2]
        total += float(logged["per_sentence/sample_length"]) / logged["nsentences"]
    return settings.samples, total / _SAMPLES_MEASURED


def products(step: Step) -> float:
    """Operations of a step's matrix products."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


TEXT = """\
A step is forward, backward, clipping and Adam; what is decoded is decoded within it. Rows without
`--criterion` are `--criterion stochastic_graph --objective ROW`.

* **Model**: a transformer of {layers} + {layers} layers of {units} units with {heads} heads and
  {vocab:,} words, the size of the Multi30k recipe, with dropout 0.3. The weights are random. Such
  a model would hardly ever emit `</s>`; so its probability is imposed in decoding, and lengths
  are normal around the source's with a standard deviation of {spread} times that.
  `trainable_greedy` has an actor as well (`--arch actor_transformer`), which is all that learns.
* **Batch**: {batch} sentences, {tokens:.1f} target tokens each on average and {length} at most,
  `</s>` included. Words follow Zipf's law; a source has as many as its target.
* **Schedules** stand where they are at update {update:,}, half-way through those of the presets.
  **Rewards** are sentence BLEU of token ids.
* **Products**: operations of the step's matrix products, divided by the baseline's: the floor,
  what the ratio would be if all else were free.
* **Memory**: what the step takes at most over what was held before it (weights, optimiser),
  divided by the baseline's; each in a process of its own. Empty where it was not measured.
* **Outputs a source**, **their mean length**: what was sampled and rewarded, `</s>` not counted.
  The references have {reference:.1f}. Empty where nothing is rewarded; tokens that are only fed
  are as many as the reference's.
"""


def measure(sizes: Sizes) -> Section:
    steps = build_steps(sizes)
    cpu = torch.device("cpu")
    timings = interleaved(steps, baseline=BASELINE, rounds=sizes.rounds, device=cpu)
    memory = {
        name: peak_memory.on_cpu(partial(step_alone, sizes, name))
        for name in _MEMORY_ROWS
        if name in steps
    }
    least = products(steps[BASELINE])
    rows, figures = [], {}
    for name, step in steps.items():
        outputs, mean_length = sampled(step)
        found = {
            **asdict(timings[name]),
            "products": products(step) / least,
            "memory": memory[name] / memory[BASELINE] if name in memory else None,
            "outputs": outputs,
            "mean_length": mean_length,
        }
        figures[name] = found
        rows.append(
            [
                *(name, *timing_cells(timings[name]), f"{found['products']:.2f}"),
                "" if found["memory"] is None else f"{found['memory']:.2f}",
                "" if outputs is None else str(outputs),
                "" if mean_length is None else f"{mean_length:.1f}",
            ]
        )
    sample = steps[BASELINE].sample
    tokens = sample["ntokens"] / sample["nsentences"]
    text = TEXT.format(
        layers=LAYERS,
        units=UNITS,
        heads=HEADS,
        spread=SPREAD,
        update=UPDATE,
        vocab=sizes.vocab,
        batch=sizes.batch,
        length=sizes.length,
        tokens=tokens,
        reference=tokens - 1,
    )
    header = ["row", *TIMING, "products", "memory", "outputs a source", "their mean length"]
    return Section(
        "A step of every objective",
        text,
        [Table("Steps, cpu", header, rows, figures)],
        sizes.rounds,
    )
