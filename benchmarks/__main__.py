"""Speed and memory, as ratios to something named in the same run.

python -m benchmarks                    # writes docs/performance.md and .json
python -m benchmarks decoding growth    # some sections; the others stay as they are
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import attention, decoding, growth, loss, objectives, variance
from benchmarks.report import Sizes, read_sections, write_sections

SECTIONS = {
    "objectives": objectives,
    "decoding": decoding,
    "variance": variance,
    "loss": loss,
    "growth": growth,
    "attention": attention,
}
QUICK = Sizes(batch=4, length=8, vocab=200, rounds=4)

INTRODUCTION = """\
# Performance

Written by `python -m benchmarks`. In every round each row of a table is run once, in random
order; **ratio** is a row's time divided by that of the table's first row in the same round,
median over the rounds, with its quartiles beside it. Times are processor time of one thread on a
CPU, wall time on an accelerator.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all if not given"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/performance"),
        help="write this path plus .md and .json (%(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the program")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(unknown)}; sections: {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    for name in chosen.sections or SECTIONS:
        module = SECTIONS[name]
        section = module.measure(QUICK if chosen.quick else module.SIZES)
        print(section.markdown(), flush=True)
        # Written after each section: they take minutes.
        held = {**read_sections(chosen.output.with_suffix(".json")), name: section}
        ordered = {name: held[name] for name in SECTIONS if name in held}
        write_sections(ordered, chosen.output, INTRODUCTION)
    print(f"written: {chosen.output}.md, .json")


if __name__ == "__main__":
    main()
