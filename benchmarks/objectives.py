"""Cost of a training step with every --objective, relative to cross-entropy in the same run.

python -m benchmarks.objectives --output docs/results/objectives

``--only ROW`` measures rows that are new, and leaves the others in the files as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peak_memory
from benchmarks.loss_functions import END, PADDING, word_ids
from benchmarks.output_lengths import SPREAD, impose_lengths
from benchmarks.report import environment, markdown_table, write_json, write_text
from benchmarks.timing import Timing, interleaved
from benchmarks.training_step import LAYERS, UNITS, Shape, Step, training_steps
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES

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


def _graph(objective: str, *flags: str) -> list[str]:
    learned = OBJECTIVES[objective].flags.get("baseline") == "learned"
    needed = ["--baseline-state-dim", str(UNITS)] if learned else []
    if OBJECTIVES[objective].flags.get("emit") == "greedy":
        needed = ["--arch", "actor_transformer"]
    return ["--criterion", "stochastic_graph", "--objective", objective, *needed, *flags]


def criterions() -> dict[str, list[str]]:
    """Row -> flags of fairseq-train."""
    return {
        BASELINE: ["--criterion", BASELINE, "--label-smoothing", "0.1"],
        "--criterion expected_bleu": ["--criterion", "expected_bleu"],
        "--criterion expected_bleu --feed greedy": [
            *("--criterion", "expected_bleu", "--feed", "greedy")
        ],
        "--criterion expected_bleu --feed sample": [
            *("--criterion", "expected_bleu", "--feed", "sample")
        ],
        **{name: _graph(name) for name in OBJECTIVES},
        "reinforce --cross-entropy-weight 0.3": _graph(
            *("reinforce", "--cross-entropy-weight", "0.3")
        ),
        "soft_feeding --unroll two_pass": _graph("soft_feeding", "--unroll", "two_pass"),
        "gumbel --unroll two_pass": _graph("gumbel", "--unroll", "two_pass"),
    }


def draw_sample(batch: int, length: int, vocab: int) -> dict[str, Any]:
    """A batch as fairseq's collater makes it: of similar lengths, the longest first.

    Args:
        batch: sentences.
        length: tokens of the longest, ``</s>`` included; all have at least two thirds of it, and a
            source has as many as its target.
        vocab: words, which follow Zipf's law.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2 * length // 3, length + 1, (batch, 1), generator=generator)
    lengths[0] = length
    lengths = lengths.sort(dim=0, descending=True).values
    columns = torch.arange(length)
    source, target = (word_ids((batch, length), vocab, generator) for _ in range(2))
    source[:, -1] = END
    source = source.masked_fill(columns < length - lengths, PADDING)  # on the left
    target = target.masked_fill(columns == lengths - 1, END)
    fed = target.roll(1, dims=1)
    fed[:, 0] = END
    past_end = columns >= lengths
    return {
        "id": torch.arange(batch),
        "nsentences": batch,
        "ntokens": int(lengths.sum()),
        "net_input": {
            "src_tokens": source,
            "src_lengths": lengths.squeeze(1),
            "prev_output_tokens": fed.masked_fill(past_end, PADDING),
        },
        "target": target.masked_fill(past_end, PADDING),
    }


def load_sample(data: Path, batch: int) -> tuple[dict[str, Any], int]:
    """The batch of median length of a binarised corpus, and the size of its vocabulary.

    Args:
        data: a folder of fairseq-preprocess, with a joined dictionary.
        batch: sentences.
    """
    flags = [str(data), "--task", "translation", "--arch", "transformer"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), flags)
    task = tasks.setup_task(convert_namespace_to_omegaconf(parsed).task)
    task.load_dataset("train")
    corpus = task.dataset("train")
    batches = task.get_batch_iterator(corpus, max_sentences=batch).frozen_batches
    by_length = sorted(batches, key=lambda rows: max(corpus.num_tokens(row) for row in rows))
    sample = corpus.collater([corpus[row] for row in by_length[len(by_length) // 2]])
    return sample, len(task.target_dictionary)


def load_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Weights of a model of the Multi30k recipe.

    Raises:
        SystemExit: the checkpoint's model has another architecture or vocabulary.
    """
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise SystemExit(
            f"--checkpoint {checkpoint} does not fit: it must be a model of "
            f"recipes/configs/multi30k-de-en.yaml, trained on --data ({error})"
        ) from None


@dataclass(frozen=True)
class Row:
    """A timing, with what was sampled in the step.

    ``samples``: outputs for each source; ``sample_length``: their mean length in tokens, without
    ``</s>``; both None where no outputs are rewarded.
    ``products``: operations of the step's matrix products, in units of 1e9.
    ``memory``: bytes that the step takes at most, over what was held before.  Both are None where
    they were not measured.
    """

    timing: Timing
    samples: int | None
    sample_length: float | None
    products: float | None = None
    memory: int | None = None


def sampled(step: Step) -> tuple[int | None, float | None]:
    """Outputs for each source, and their mean length."""
    settings = getattr(step.criterion, "settings", None)
    if getattr(settings, "cost", None) != "reward":
        return None, None
    total = 0.0
    for _ in range(_SAMPLES_MEASURED):
        logged = step.criterion(step.model, step.sample)[2]
        total += float(logged["per_sentence/sample_length"]) / logged["nsentences"]
    return settings.samples, total / _SAMPLES_MEASURED


def measure(steps: Mapping[str, Step], rounds: int) -> dict[str, Row]:
    """Time all steps, interleaved, on one thread of a CPU."""
    cpu = torch.device("cpu")
    timings = interleaved(steps, baseline=BASELINE, rounds=rounds, device=cpu)
    return {
        name: Row(timings[name], *sampled(step), products(step)) for name, step in steps.items()
    }


def products(step: Step) -> float:
    """Operations of a step's matrix products, in units of 1e9."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def step_alone(chosen: argparse.Namespace, name: str) -> Step:
    """A row's step, run before with a small batch, so that the optimiser has its state."""
    step = build_steps(argparse.Namespace(**{**vars(chosen), "only": [name]}))[name]
    vocab = len(step.task.target_dictionary)
    for _ in range(2):
        replace(step, sample=draw_sample(2, 5, vocab))()
    return step


def build_steps(chosen: argparse.Namespace) -> dict[str, Step]:
    """A step for each row, all on one model and one batch."""
    if chosen.data is None:
        sample, vocab = draw_sample(chosen.batch, chosen.length, chosen.vocab), chosen.vocab
    else:
        sample, vocab = load_sample(chosen.data, chosen.batch)
    flags = criterions()
    if chosen.only:
        flags = {name: flags[name] for name in dict.fromkeys((BASELINE, *chosen.only))}
    steps = training_steps(flags, Shape(vocab=vocab), torch.device("cpu"))
    steps = {name: replace(step, sample=sample, update=UPDATE) for name, step in steps.items()}
    for step in {id(step.model): step for step in steps.values()}.values():
        if chosen.checkpoint is None:
            impose_lengths(step.model, sample["net_input"]["src_tokens"].size(1))
        else:
            load_weights(step.model, chosen.checkpoint)
        # Adam does the same work; but all objectives, in all rounds, meet the same model.
        step.optimizer.set_lr(0.0)
    return steps


def table_rows(rows: Mapping[str, Row]) -> list[list[str]]:
    cells = []
    least = rows[BASELINE]
    for name, row in rows.items():
        timing = row.timing
        cells.append(
            [
                name,
                f"{1000 * timing.seconds:.0f}",
                f"{timing.ratio:.2f}",
                f"{timing.lower_quartile:.2f} to {timing.upper_quartile:.2f}",
                f"{row.products / least.products:.2f}" if row.products and least.products else "",
                f"{row.memory / least.memory:.2f}" if row.memory and least.memory else "",
                "" if row.samples is None else str(row.samples),
                "" if row.sample_length is None else f"{row.sample_length:.1f}",
            ]
        )
    return cells


HEADER = [
    *("row", "ms", "ratio", "quartiles", "products", "memory"),
    *("outputs a source", "their mean length"),
]

EXPLANATION = """\
# What a step of every objective costs

Written by `python -m benchmarks.objectives`. A step is forward, backward, clipping and Adam; what
is decoded is decoded within it. In every round each row is run once, in random order; **ratio** is
a row's time divided by that of `{baseline}` in the same round, median over
{rounds} rounds, with its quartiles beside it. Times are processor time of one thread. Rows without
`--criterion` are `--criterion stochastic_graph --objective ROW`.

* **Model**: a transformer of {layers} + {layers} layers of {units} units and {vocab:,} words, the
  size of the Multi30k recipe, with dropout 0.3. {weights}
  That of `trainable_greedy` has an actor as well (`--arch actor_transformer`), which is all that
  learns.
* **Batch**: {batch} sentences, {tokens:.1f} target tokens each on average and {longest} at most,
  `</s>` included. {data}
* **Schedules** stand where they are at update {update:,}, half-way through those of the presets.
* **Rewards** are sentence BLEU of token ids.
* **Products**: operations of the step's matrix products, divided by the baseline's: what the ratio
  would be if all else were free.
* **Memory**: what the step takes at most over what was held before it (weights, optimiser), divided
  by the baseline's; each in a process of its own. Empty where it was not measured.
* **Outputs a source**, **their mean length**: what was sampled and rewarded, `</s>` not counted
  (mean of {measured} steps). The references have {reference:.1f}. Empty where nothing is rewarded;
  tokens that are only fed are as many as the reference's.
* The learning rate is 0: Adam does its work, but all rows meet the same weights in all rounds.
{alone}
Measured on: {environment}.

"""

ALONE = """\
* Measured with `--only`, in the same setting but in a run of their own beside the baseline:
  {names}.
"""

RANDOM_WEIGHTS = """The weights are random.
  Such a model would hardly ever emit `</s>`; so its probability is imposed in decoding, and lengths
  are normal around the source's with a standard deviation of {spread} times that. Passes with
  gradient are left alone."""


def explanation(
    chosen: argparse.Namespace, sample: dict[str, Any], vocab: int, alone: Sequence[str]
) -> str:
    target = sample["target"]
    tokens = sample["ntokens"] / sample["nsentences"]
    weights = RANDOM_WEIGHTS.format(spread=SPREAD)
    if chosen.checkpoint is not None:
        weights = "The weights are those of a trained checkpoint."
    data = "Words follow Zipf's law; a source has as many as its target."
    if chosen.data is not None:
        data = "It is the batch of median length of a corpus."
    return EXPLANATION.format(
        baseline=BASELINE,
        rounds=chosen.rounds,
        layers=LAYERS,
        units=UNITS,
        vocab=vocab,
        weights=weights,
        batch=sample["nsentences"],
        tokens=tokens,
        longest=target.size(1),
        data=data,
        update=UPDATE,
        measured=_SAMPLES_MEASURED,
        reference=tokens - 1,
        alone=ALONE.format(names=", ".join(f"`{name}`" for name in alone)) if alone else "",
        environment=", ".join(f"{fact} {value}" for fact, value in environment().items()),
    )


def with_others(
    rows: dict[str, Row], alone: Sequence[str], setting: Mapping[str, Any], path: Path
) -> tuple[dict[str, Row], list[str]]:
    """Rows measured now among those that a file holds, and which were measured without the others.

    Args:
        rows: measured now, the baseline among them.
        alone: their names, without the baseline.
        setting: of the measurement now.
        path: of the JSON file.

    Raises:
        SystemExit: the file's rows were measured in another setting.
    """
    before = json.loads(path.read_text(encoding="utf-8"))
    if different := [name for name, value in setting.items() if before.get(name) != value]:
        raise SystemExit(f"--only: {path} differs in {', '.join(different)}: measure all rows")
    held = {
        name: Row(**{**row, "timing": Timing(**row["timing"])})
        for name, row in before["rows"].items()
    }
    merged = {**held, **{name: rows[name] for name in alone}}
    ordered = {name: merged[name] for name in criterions() if name in merged}
    return ordered, sorted({*before.get("measured_alone", []), *alone})


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="sentences")
    parser.add_argument("--length", type=int, default=20, help="tokens of the longest, with </s>")
    parser.add_argument("--vocab", type=int, default=6_000, help="words")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds, at least 4")
    parser.add_argument(
        "--data",
        type=Path,
        help="binarised corpus to take the batch from, in place of random words",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="weights of a model of the Multi30k recipe; needs --data"
    )
    parser.add_argument("--output", type=Path, help="write this path plus .md and .json")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="ROW",
        help="measure these beside the baseline; the other rows of --output stay as they are",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and 4 rounds, to try the program"
    )
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.batch, chosen.length, chosen.vocab, chosen.rounds = 4, 8, 200, 4
    for name, least in {"batch": 2, "length": 5, "vocab": 50, "rounds": 4}.items():
        if getattr(chosen, name) < least:
            parser.error(f"--{name} must be at least {least}")
    if unknown := set(chosen.only) - set(criterions()) | {BASELINE} & set(chosen.only):
        parser.error(f"--only: {sorted(unknown)} can not be measured; see the table for rows")
    if chosen.only and not (chosen.output and chosen.output.with_suffix(".json").exists()):
        parser.error("--only needs an --output that holds the other rows")
    if chosen.checkpoint is not None and chosen.data is None:
        parser.error("--checkpoint needs --data, the corpus that it was trained on")
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse_arguments(arguments)
    torch.set_num_threads(1)
    steps = build_steps(chosen)
    first = steps[BASELINE]
    vocab = len(first.task.target_dictionary)
    setting = {
        "environment": environment(),
        "sentences": first.sample["nsentences"],
        "target_tokens": first.sample["ntokens"],
        "vocabulary": vocab,
        "rounds": chosen.rounds,
        "update": UPDATE,
    }
    rows = measure(steps, chosen.rounds)
    for name in set(rows).intersection(_MEMORY_ROWS):
        memory = peak_memory.on_cpu(partial(step_alone, chosen, name))
        rows[name] = replace(rows[name], memory=memory)
    alone: list[str] = []
    if chosen.only:
        held = chosen.output.with_suffix(".json")
        rows, alone = with_others(rows, chosen.only, setting, held)
    cells = table_rows(rows)
    table = Table()
    for column in HEADER:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console().print(table)
    if chosen.output is None:
        return
    text = explanation(chosen, first.sample, vocab, alone) + markdown_table(HEADER, cells) + "\n"
    write_text(chosen.output.with_suffix(".md"), text)
    write_json(
        chosen.output.with_suffix(".json"),
        {
            **setting,
            "measured_alone": alone,
            "rows": {name: asdict(row) for name, row in rows.items()},
        },
    )
    print(f"written: {chosen.output}.md, .json")


if __name__ == "__main__":
    main()
