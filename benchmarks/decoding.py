"""Speed of decoding inside a training step, as a ratio to fairseq's generator in the same run.

python -m benchmarks.decoding --output docs/results/decoding
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

import torch
from fairseq.search import Sampling as FairseqSampling
from fairseq.sequence_generator import SequenceGenerator
from rich.console import Console

from benchmarks.expected_bleu import Report
from benchmarks.loss_functions import END, PADDING
from benchmarks.output_lengths import SPREAD
from benchmarks.report import environment, write_json, write_text
from benchmarks.synthetic_translator import (
    LAYERS,
    UNITS,
    build_model,
    dictionary_of,
    draw_sources,
)
from benchmarks.timing import Timing, interleaved
from fairseq_plugins.decoding import Sampling, decode, decode_limits

TARGET = 3.0
"""Times fairseq's speed that sampling was meant to reach."""


@dataclass
class Counted:
    """A decoder, and how many tokens each of its calls emitted."""

    call: Callable[[], int]
    tokens: list[int] = field(default_factory=list)

    def __call__(self) -> None:
        self.tokens.append(self.call())


def build_decoders(chosen: argparse.Namespace, samples: int, device: torch.device):
    """Name -> what decodes one batch; fairseq's generator first.

    Both have one model, one batch and one limit of the length; with ``samples`` of 0 they decode
    greedily.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(
        chosen.shortest, chosen.longest + 1, (chosen.batch,), generator=generator
    )
    dictionary = dictionary_of(chosen.vocab)
    model = build_model(dictionary, chosen.longest).to(device)
    sample = draw_sources(lengths.tolist(), chosen.vocab)
    sample["net_input"] = {name: value.to(device) for name, value in sample["net_input"].items()}
    limits = decode_limits(sample["net_input"]["src_lengths"], ratio=2.0, longest=200)
    limits = torch.full_like(limits, int(limits.max()))
    fairseq_generator = SequenceGenerator(
        [model],
        dictionary,
        beam_size=samples or 1,
        max_len_a=0,
        # fairseq's limit does not count </s>.
        max_len_b=int(limits.max()) - 1,
        search_strategy=FairseqSampling(dictionary) if samples else None,
    )

    def fairseq() -> int:
        hypotheses = fairseq_generator.generate([model], sample)
        return sum(len(one["tokens"]) for several in hypotheses for one in several)

    def ours() -> int:
        decoded = decode(
            model,
            sample["net_input"],
            limits.repeat_interleave(samples or 1),
            eos=END,
            pad=PADDING,
            sampling=Sampling() if samples else None,
            samples=samples or 1,
        )
        return int(decoded.emitted.sum())

    return {"fairseq SequenceGenerator": Counted(fairseq), "decode": Counted(ours)}


def cells(timing: Timing, counted: Counted, outputs: int, target: float | None) -> list[str]:
    return [
        f"{1000 * timing.seconds:.0f}",
        f"{outputs / timing.seconds:.0f}",
        f"{mean(counted.tokens):,.0f}",
        f"{speedup(timing):.2f}",
        f"{1 / timing.upper_quartile:.2f} to {1 / timing.lower_quartile:.2f}",
        ""
        if target is None
        else f"{target:.1f} {'met' if speedup(timing) >= target else 'missed'}",
    ]


def speedup(timing: Timing) -> float:
    return 1 / timing.ratio


def benchmark(report: Report, chosen: argparse.Namespace, samples: int, device: torch.device):
    torch.manual_seed(0)
    decoders = build_decoders(chosen, samples, device)
    baseline = next(iter(decoders))
    timings = interleaved(decoders, baseline=baseline, rounds=chosen.rounds, device=device)
    outputs = chosen.batch * max(samples, 1)
    target = TARGET if samples else None
    rows = [
        [name, *cells(timing, decoders[name], outputs, None if name == baseline else target)]
        for name, timing in timings.items()
    ]
    header = ["decoder", "ms", "outputs a second", "tokens", "speed-up", "quartiles", "target"]
    what = f"{samples} samples a source" if samples else "Greedy"
    report.add(f"{what}, {chosen.batch} sources, {device.type}", header, rows)
    report.results[f"{samples or 'greedy'} {device.type}"] = {
        name: {
            **asdict(timing),
            "speedup": speedup(timing),
            "outputs_per_second": outputs / timing.seconds,
            "tokens": mean(decoders[name].tokens),
        }
        for name, timing in timings.items()
    }


EXPLANATION = """\
# How fast a training step decodes

Written by `python -m benchmarks.decoding`. The first row of each table is fairseq's own
generator: for samples with `fairseq.search.Sampling` and a beam of as many, otherwise with a beam
of one. In every round each row is run once, in random order; the **speed-up** is fairseq's time
divided by the row's in the same round, median over {rounds} rounds, with its quartiles beside it.
On a CPU times are processor time of one thread. **Tokens** are those emitted in a call, on
average, `</s>` included; **target** is the speed-up that was aimed at.

The model has the architecture of the Multi30K recipe, {layers} + {layers} layers of {units} units
and {vocab:,} words, and random weights; only the probability of `</s>` is set such that the length
of an output is normal around that of its source, with a standard deviation of {spread} times that
length. Sources have {shortest} to {longest} tokens, as in one of fairseq's batches, which hold
sentences of similar length. Both decoders have the same limit of the length.

Measured on: {environment}.

"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="sources (%(default)s)")
    parser.add_argument("--samples", type=int, default=5, help="of each source (%(default)s)")
    parser.add_argument("--shortest", type=int, default=12, help="tokens of a source, at least")
    parser.add_argument("--longest", type=int, default=18, help="tokens of a source, at most")
    parser.add_argument("--vocab", type=int, default=6_000, help="words (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (%(default)s)")
    parser.add_argument("--output", type=Path, help="write this path plus .md and .json")
    parsed = parser.parse_args(arguments)
    smallest = {"batch": 1, "samples": 1, "shortest": 2, "vocab": 10, "rounds": 4}
    smallest["longest"] = parsed.shortest
    for name, least in smallest.items():
        if getattr(parsed, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    chosen = parse_arguments(arguments)
    torch.set_num_threads(1)
    report = Report(Console())
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    for device in devices:
        for samples in (chosen.samples, 0):
            benchmark(report, chosen, samples, device)
    if chosen.output:
        facts = environment()
        settings = {
            name: getattr(chosen, name)
            for name in ("batch", "samples", "shortest", "longest", "vocab", "rounds")
        }
        text = EXPLANATION.format(
            **settings,
            layers=LAYERS,
            units=UNITS,
            spread=SPREAD,
            environment=", ".join(f"{k} {v}" for k, v in facts.items()),
        )
        write_text(chosen.output.with_suffix(".md"), text + "\n".join(report.parts))
        write_json(
            chosen.output.with_suffix(".json"),
            {"settings": settings, "environment": facts, "results": report.results},
        )
        print(f"written: {chosen.output}.md, .json")


if __name__ == "__main__":
    main()
