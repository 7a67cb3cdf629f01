"""A training step of every ``--attention``, beside soft attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

import torch

from benchmarks import peak_memory
from benchmarks.report import TIMING, Section, Sizes, Table, timing_cells
from benchmarks.timing import interleaved
from benchmarks.training_step import HEADS, LAYERS, SIZE, UNITS, Step, training_steps
from fairseq_plugins.models.stochastic_attention.choice import KINDS
from fairseq_plugins.models.stochastic_attention.mixture import mixture_log_probabilities

SIZES = Sizes(batch=16, length=16, vocab=6_000, rounds=8)
MODELS = {
    "lstm": ["--arch", "stochastic_attention_lstm_256"],
    "transformer": ["--arch", "stochastic_attention_transformer", *SIZE],
}
ONE_HEAD = ["--attention-in-layers", str(LAYERS - 1), "--attention-in-heads", "0"]
"""Where exact attention may be in the transformer; the other kinds are in all heads."""

WITHOUT_MEMORY = ("hard", "gumbel", "gumbel_st", "greedy")
"""Kinds that compute what ``soft`` does, and weights by other means."""


def build_step(model: str, kind: str, sizes: Sizes) -> Step:
    """A step on the CPU, of ``--criterion stochastic_graph``.

    Args:
        model: of ``MODELS``.
        kind: of ``--attention``.
        sizes: of the batch.
    """
    where = ONE_HEAD if (model, kind) == ("transformer", "exact") else []
    flags = {kind: ["--criterion", "stochastic_graph", "--attention", kind, *where]}
    return training_steps(flags, sizes, torch.device("cpu"), MODELS[model])[kind]


def mixture_of(at_once: bool, sizes: Sizes) -> Callable[[], None]:
    """Forward and backward of a mixture over the source's positions, and nothing else."""
    torch.manual_seed(0)
    rows = sizes.batch * sizes.length
    features = torch.randn(rows, sizes.length, UNITS, requires_grad=True)
    scores = torch.randn(rows, sizes.length, requires_grad=True)
    weight = torch.randn(sizes.vocab, UNITS, requires_grad=True)

    def run() -> None:
        log_weights = scores.log_softmax(-1)
        if at_once:
            logits = torch.nn.functional.linear(features, weight).log_softmax(-1)
            mixed = (logits + log_weights.unsqueeze(-1)).logsumexp(1)
        else:
            mixed = mixture_log_probabilities(features, log_weights, weight, None)
        mixed[:, 0].sum().backward()

    return run


TEXT = """\
With `--criterion stochastic_graph` and the estimators that the kinds have by default. **Peak MB**
is what a process's memory grows by in its first step (not measured for the kinds that compute
what `soft` does with other weights). {batch} sentences of at most {length} tokens on both sides,
{vocab:,} words.

* **lstm**: `--arch stochastic_attention_lstm_256`. **transformer**: {layers} + {layers} layers of
  {units} units with {heads} heads; every head of every layer is of the kind, but `exact` is one
  head of the last layer.
* **mixture**: the output of `exact` alone, forward and backward, from {units} features for each
  position of the source: as the models compute it, and with the logits of all positions at once.
"""


def table(
    title: str, builders: Mapping[str, Callable[[], Callable[[], None]]], rounds: int
) -> Table:
    """Time all of them, interleaved, on one thread of a CPU; then measure each one's memory."""
    functions = {name: build() for name, build in builders.items()}
    timings = interleaved(
        functions,
        baseline=next(iter(functions)),
        rounds=rounds,
        device=torch.device("cpu"),
        warmup_rounds=1,
    )
    functions.clear()
    measured = {name: build for name, build in builders.items() if name not in WITHOUT_MEMORY}
    peaks = {name: peak_memory.on_cpu(build) for name, build in measured.items()}
    megabytes = {name: f"{peak / 1e6:.0f}" for name, peak in peaks.items()}
    return Table(
        title,
        ["row", *TIMING, "peak MB"],
        [[name, *timing_cells(timings[name]), megabytes.get(name, "")] for name in builders],
        {name: {**asdict(timings[name]), "peak_memory": peaks.get(name)} for name in builders},
    )


def measure(sizes: Sizes) -> Section:
    kinds = sorted(KINDS, key=lambda kind: kind != "soft")  # the baseline first
    tables = []
    for model in MODELS:
        steps = {kind: partial(build_step, model, kind, sizes) for kind in kinds}
        tables.append(table(model, steps, sizes.rounds))
    mixtures = {
        "one position after the other": partial(mixture_of, False, sizes),
        "all positions at once": partial(mixture_of, True, sizes),
    }
    tables.append(table("mixture", mixtures, sizes.rounds))
    text = TEXT.format(
        batch=sizes.batch,
        length=sizes.length,
        vocab=sizes.vocab,
        layers=LAYERS,
        units=UNITS,
        heads=HEADS,
    )
    return Section("A step of every kind of attention", text, tables, sizes.rounds)
