"""Interleaved timing: all functions in every round, so that what slows the machine slows all."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """One function against the baseline of the same run.

    ``seconds``: median of a call. ``ratio``: median over the rounds of its time divided by the
    baseline's in the same round, and the quartiles of that.
    """

    seconds: float
    ratio: float
    lower_quartile: float
    upper_quartile: float

    def times(self, number: float) -> Timing:
        """Of so many calls in place of one."""
        return Timing(*(number * value for value in astuple(self)))


def clock(device: torch.device) -> Callable[[], float]:
    """Processor time on a CPU (it stands still while others run), wall time on an accelerator."""
    if device.type == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    rounds: int,
    device: torch.device,
    warmup_rounds: int = 2,
) -> dict[str, Timing]:
    """Time every function once a round, in an order shuffled anew.

    What ran before leaves its mark on a call (caches, freed memory to take over), so no function
    should always follow the same one.

    Args:
        functions: name -> what to time; return values are dropped.
        baseline: the name that ratios are taken to.
        rounds: timed rounds, at least 4.
        device: where the functions compute; decides on the clock.
        warmup_rounds: rounds that are not counted.

    Raises:
        ValueError: ``baseline`` is not among the functions, or fewer than 4 rounds.
    """
    if baseline not in functions:
        raise ValueError(f"baseline {baseline!r} is not one of {', '.join(functions)}")
    if rounds < 4:
        raise ValueError(f"rounds must be at least 4 for quartiles; got {rounds}")
    now = clock(device)
    names = list(functions)
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(-warmup_rounds, rounds):
        for name in order.sample(names, len(names)):
            started = now()
            functions[name]()
            elapsed = now() - started
            if round_number >= 0:
                times[name].append(elapsed)
    timings = {}
    for name in names:
        ratios = [a / b for a, b in zip(times[name], times[baseline], strict=True)]
        lower, _, upper = statistics.quantiles(ratios, n=4)
        timings[name] = Timing(
            statistics.median(times[name]), statistics.median(ratios), lower, upper
        )
    return timings
