"""Decoding inside a training step, beside fairseq's generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from fairseq.search import Sampling as FairseqSampling
from fairseq.sequence_generator import SequenceGenerator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.objectives import BASELINE, criterions
from benchmarks.report import TIMING, Section, Sizes, Table, timing_cells
from benchmarks.timing import interleaved
from benchmarks.training_step import END, PADDING, devices, impose_lengths, training_steps
from fairseq_plugins.decoding import Sampling, decode, decode_limits

SIZES = Sizes(batch=64, length=18, vocab=6_000, rounds=15)
SAMPLES = 5
GENERATOR, PRODUCTS = "fairseq SequenceGenerator", "matrix products of decode alone"
_WIDTH = 1024


def build_decoders(
    sizes: Sizes, samples: int, device: torch.device
) -> dict[str, Callable[[], int]]:
    """Name -> what decodes one batch and returns how many tokens it emitted.

    Both have one model, one batch and one limit of the length; with ``samples`` of 0 they decode
    greedily.
    """
    step = training_steps({BASELINE: criterions()[BASELINE]}, sizes, device)[BASELINE]
    model: Any = step.model.eval()
    impose_lengths(model, sizes.length)
    net_input = step.sample["net_input"]
    limits = decode_limits(net_input["src_lengths"], ratio=2.0, longest=200)
    limits = torch.full_like(limits, int(limits.max()))
    dictionary = step.task.target_dictionary
    generator = SequenceGenerator(
        [model],
        dictionary,
        beam_size=samples or 1,
        max_len_a=0,
        # fairseq's limit does not count </s>.
        max_len_b=int(limits.max()) - 1,
        search_strategy=FairseqSampling(dictionary) if samples else None,
    )

    def fairseq() -> int:
        hypotheses = generator.generate([model], step.sample)
        return sum(len(one["tokens"]) for several in hypotheses for one in several)

    def ours() -> int:
        decoded = decode(
            model,
            net_input,
            limits.repeat_interleave(samples or 1),
            eos=END,
            pad=PADDING,
            sampling=Sampling() if samples else None,
            samples=samples or 1,
        )
        return int(decoded.emitted.sum())

    return {GENERATOR: fairseq, "decode": ours}


TEXT = """\
fairseq's generator samples with `fairseq.search.Sampling` and a beam of as many, and is greedy
with a beam of one. Model and lengths are those of the table above; sources have {shortest} to
{longest} tokens, as in one of fairseq's batches, which hold sentences of similar length. Both
have the same limit of the length. **Tokens** are those of one call, `</s>` included.

The last row is the floor of `decode`: what its matrix products would take at the speed of one of
{width} x {width} numbers in the same run. Those of a step are narrower, and slower.
"""


def table(sizes: Sizes, samples: int, device: torch.device) -> Table:
    torch.manual_seed(0)
    decoders = build_decoders(sizes, samples, device)
    square = torch.randn(_WIDTH, _WIDTH, device=device)
    functions = {**decoders, PRODUCTS: lambda: square @ square}
    timings = interleaved(functions, baseline=GENERATOR, rounds=sizes.rounds, device=device)
    tokens = {name: decoder() for name, decoder in decoders.items()}
    with FlopCounterMode(display=False) as counter:
        tokens[PRODUCTS] = decoders["decode"]()
    times = counter.get_total_flops() / (2 * _WIDTH**3)
    timings[PRODUCTS] = timings[PRODUCTS].times(times)
    what = f"{samples} samples a source" if samples else "Greedy"
    return Table(
        f"{what}, {sizes.batch} sources, {device.type}",
        ["decoder", *TIMING, "tokens"],
        [[name, *timing_cells(timings[name]), f"{tokens[name]:,}"] for name in functions],
        {name: {**asdict(timings[name]), "tokens": tokens[name]} for name in functions},
    )


def measure(sizes: Sizes) -> Section:
    text = TEXT.format(shortest=2 * sizes.length // 3, longest=sizes.length, width=_WIDTH)
    tables = [table(sizes, samples, device) for device in devices() for samples in (SAMPLES, 0)]
    return Section("Decoding within a step", text, tables, sizes.rounds)
