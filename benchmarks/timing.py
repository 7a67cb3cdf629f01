"""Interleaved timing: A B C A B C ..., so that whatever slows the machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    """Time every function once a round, each round starting with another one.

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
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(-warmup_rounds, rounds):
        start = round_number % len(names)
        for name in names[start:] + names[:start]:
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
