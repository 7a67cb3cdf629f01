"""Cost of a training step with every --attention, relative to soft attention in the same run.

python -m benchmarks.stochastic_attention --output docs/results/stochastic_attention
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from fairseq import options, tasks, utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import build_optimizer
from rich.console import Console
from rich.table import Table

from benchmarks.loss_functions import Shape
from benchmarks.peak_memory import on_cpu
from benchmarks.report import environment, markdown_table, write_json, write_text
from benchmarks.timing import Timing, interleaved
from benchmarks.training_step import USER_DIR, Step, draw_sample
from fairseq_plugins.models.stochastic_attention.choice import KINDS
from fairseq_plugins.models.stochastic_attention.mixture import mixture_log_probabilities

LAYERS, UNITS, HEADS = 3, 256, 4

MODELS = {
    "lstm": ["--arch", "stochastic_attention_lstm_256"],
    "transformer": [
        *("--arch", "stochastic_attention_transformer"),
        *("--encoder-layers", str(LAYERS), "--decoder-layers", str(LAYERS)),
        *("--encoder-attention-heads", str(HEADS), "--decoder-attention-heads", str(HEADS)),
        *("--encoder-embed-dim", str(UNITS), "--encoder-ffn-embed-dim", str(4 * UNITS)),
    ],
}
ONE_HEAD = ["--attention-in-layers", str(LAYERS - 1), "--attention-in-heads", "0"]
"""Where exact attention may be in the transformer; the other kinds are in all heads."""

WITHOUT_MEMORY = ("hard", "gumbel", "gumbel_st", "greedy")
"""Kinds that compute what ``soft`` does, and weights by other means."""


def build_step(model: str, kind: str, shape: Shape) -> Step:
    """A step on the CPU, of ``--criterion stochastic_graph``.

    Args:
        model: of ``MODELS``.
        kind: of ``--attention``.
        shape: of the batch; the source is as long as the target.
    """
    where = ONE_HEAD if (model, kind) == ("transformer", "exact") else []
    with TemporaryDirectory() as folder:
        dictionary = Dictionary()
        for word in range(shape.vocab - len(dictionary)):
            dictionary.add_symbol(f"w{word}")
        for language in ("de", "en"):
            dictionary.save(str(Path(folder, f"dict.{language}.txt")))
        flags = [folder, "--cpu", "--user-dir", str(USER_DIR), "--dropout", "0.3"]
        flags += ["--task", "translation", "--source-lang", "de", "--target-lang", "en"]
        flags += ["--criterion", "stochastic_graph", "--optimizer", "adam", "--lr", "0.0001"]
        flags += [*MODELS[model], "--attention", kind, *where]
        parser = options.get_training_parser()
        parsed = options.parse_args_and_arch(parser, flags)
        configuration = convert_namespace_to_omegaconf(parsed)
        utils.import_user_module(configuration.common)
        task = tasks.setup_task(configuration.task)
    torch.manual_seed(0)
    built = task.build_model(configuration.model)
    criterion = task.build_criterion(configuration.criterion)
    optimizer = build_optimizer(configuration.optimizer, list(built.parameters()))
    return Step(task, built, criterion, optimizer, draw_sample(shape, torch.device("cpu")))


def mixture_of(at_once: bool, shape: Shape) -> Callable[[], None]:
    """Forward and backward of a mixture over the source's positions, and nothing else."""
    torch.manual_seed(0)
    rows = shape.batch * shape.tgt_len
    features = torch.randn(rows, shape.tgt_len, UNITS, requires_grad=True)
    scores = torch.randn(rows, shape.tgt_len, requires_grad=True)
    weight = torch.randn(shape.vocab, UNITS, requires_grad=True)

    def run() -> None:
        log_weights = scores.log_softmax(-1)
        if at_once:
            logits = torch.nn.functional.linear(features, weight).log_softmax(-1)
            mixed = (logits + log_weights.unsqueeze(-1)).logsumexp(1)
        else:
            mixed = mixture_log_probabilities(features, log_weights, weight, None)
        mixed[:, 0].sum().backward()

    return run


@dataclass(frozen=True)
class Row:
    """``peak_memory``: bytes by which the resident set grows in one call, in a fresh process.

    None where it is not measured.
    """

    timing: Timing
    peak_memory: int | None


def measure(
    builders: Mapping[str, Callable[[], Callable[[], object]]], baseline: str, rounds: int
) -> dict[str, Row]:
    """Time all of them, interleaved, on one thread of a CPU; then measure each one's memory."""
    functions = {name: build() for name, build in builders.items()}
    timings = interleaved(
        functions, baseline=baseline, rounds=rounds, device=torch.device("cpu"), warmup_rounds=1
    )
    functions.clear()
    return {
        name: Row(timings[name], None if name in WITHOUT_MEMORY else on_cpu(build))
        for name, build in builders.items()
    }


HEADER = ["row", "ms", "ratio", "quartiles", "peak MB"]

EXPLANATION = """\
# What a step of every kind of attention costs

Written by `python -m benchmarks.stochastic_attention`. A step is forward, backward, clipping and
Adam, with `--criterion stochastic_graph` and the estimators that the kinds have by default. In
every round each row is run once, in random order; **ratio** is a row's time divided by that of
`{baseline}` in the same round, median over {rounds} rounds, with its quartiles beside it. Times are
processor time of one thread. **Peak MB** is what a process's memory grows by in its first step
(not measured for the kinds that compute what `soft` does with other weights).

* **Batch**: {batch} sentences of {length} tokens on both sides, and {vocab:,} words.
* **lstm**: `--arch stochastic_attention_lstm_256`. **transformer**: {layers} + {layers} layers of
  {units} units with {heads} heads; every head of every layer is of the kind, but `exact` is one
  head of the last layer.
* **mixture**: the output of `exact` alone, forward and backward, from {units} features for each
  position of the source: as the models compute it, and with the logits of all positions at once.

Measured on: {environment}.
"""


def table_rows(rows: Mapping[str, Row]) -> list[list[str]]:
    return [
        [
            name,
            f"{1000 * row.timing.seconds:.0f}",
            f"{row.timing.ratio:.2f}",
            f"{row.timing.lower_quartile:.2f} to {row.timing.upper_quartile:.2f}",
            "" if row.peak_memory is None else f"{row.peak_memory / 1e6:.0f}",
        ]
        for name, row in rows.items()
    ]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16, help="sentences")
    parser.add_argument("--length", type=int, default=16, help="tokens of source and target")
    parser.add_argument("--vocab", type=int, default=6_000, help="words")
    parser.add_argument("--rounds", type=int, default=8, help="timed rounds, at least 4")
    parser.add_argument("--output", type=Path, help="write this path plus .md and .json")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and 4 rounds, to try the program"
    )
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.batch, chosen.length, chosen.vocab, chosen.rounds = 4, 8, 200, 4
    for name, least in {"batch": 1, "length": 2, "vocab": 50, "rounds": 4}.items():
        if getattr(chosen, name) < least:
            parser.error(f"--{name} must be at least {least}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse_arguments(arguments)
    torch.set_num_threads(1)
    shape = Shape(batch=chosen.batch, tgt_len=chosen.length, vocab=chosen.vocab)
    groups = {
        model: ("soft", {kind: partial(build_step, model, kind, shape) for kind in KINDS})
        for model in MODELS
    }
    groups["mixture"] = (
        "one position after the other",
        {
            "one position after the other": partial(mixture_of, False, shape),
            "all positions at once": partial(mixture_of, True, shape),
        },
    )
    results = {
        group: measure(builders, baseline, chosen.rounds)
        for group, (baseline, builders) in groups.items()
    }
    text = EXPLANATION.format(
        baseline="soft",
        rounds=chosen.rounds,
        batch=chosen.batch,
        length=chosen.length,
        vocab=chosen.vocab,
        layers=LAYERS,
        units=UNITS,
        heads=HEADS,
        environment=", ".join(f"{fact} {value}" for fact, value in environment().items()),
    )
    for group, rows in results.items():
        cells = table_rows(rows)
        table = Table(title=group)
        for column in HEADER:
            table.add_column(column, overflow="fold")
        for row in cells:
            table.add_row(*row)
        Console().print(table)
        text += f"\n## {group}\n\n{markdown_table(HEADER, cells)}\n"
    if chosen.output is None:
        return
    write_text(chosen.output.with_suffix(".md"), text)
    content = {
        "environment": environment(),
        "batch": chosen.batch,
        "length": chosen.length,
        "vocabulary": chosen.vocab,
        "rounds": chosen.rounds,
        "groups": {
            group: {name: asdict(row) for name, row in rows.items()}
            for group, rows in results.items()
        },
    }
    write_json(chosen.output.with_suffix(".json"), content)
    print(f"written: {chosen.output}.md, .json")


if __name__ == "__main__":
    main()
