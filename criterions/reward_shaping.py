"""Normalisation and clipping of rewards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from criterions.checks import check_choice

NORMALIZATIONS = ("none", "batch", "group")
"""Over which samples rewards are standardised: none, all of the batch, or those of a source."""


def normalize_rewards(
    rewards: Tensor,
    mode: str,
    sum_over_workers: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Tensor:
    """``(reward - mean) / standard deviation``, over the batch or over each source's samples.

    The standard deviation is the population's (sum of squares divided by the count).  Where it
    is zero, to the resolution of float32, all rewards are equal and the result is 0.

    The result is **not** an unbiased advantage.  The mean contains the sample's own reward, which
    shrinks the expected gradient by ``(count - 1) / count``; and dividing by a standard deviation
    that depends on the samples changes its direction as well.  A leave-one-out baseline does
    neither.

    Args:
        rewards: ``[batch, samples]``.
        mode: ``none``, ``batch``, or ``group`` (the samples of one source: the advantage of
            group-relative policy optimisation, arXiv 2402.03300).
        sum_over_workers: with ``batch``, gets a float64 tensor of count, sum and sum of squares
            of this worker's rewards, ``[3]``, and returns their sums over all data-parallel
            workers.  It is called once, and in no other mode.

    Returns:
        ``[batch, samples]`` in the rewards' dtype.

    Raises:
        ValueError: unknown mode, or the rewards are not floating ``[batch, samples]``.
    """
    check_choice("mode", mode, NORMALIZATIONS)
    if rewards.dim() != 2 or not rewards.is_floating_point():
        raise ValueError(
            "rewards must be a floating tensor [batch, samples]; "
            f"got {rewards.dtype} of shape {list(rewards.shape)}"
        )
    if mode == "none":
        return rewards

    wide = rewards.double()
    terms = torch.stack([torch.ones_like(wide), wide, wide.square()])
    sums = sum_over_workers(terms.sum((1, 2))) if mode == "batch" else terms.sum(2, keepdim=True)
    count, total, squares = sums.unbind()
    mean, square = total / count, squares / count
    variance = square - mean.square()
    # Differences that float32 cannot hold are rounding errors.
    constant = variance <= square * torch.finfo(torch.float32).eps ** 2
    scale = variance.masked_fill(constant, 1).sqrt()
    normalized = ((wide - mean) / scale).masked_fill(constant, 0)
    return normalized.to(rewards.dtype)


def clip_rewards(rewards: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Rewards, or normalised rewards, brought into ``low .. high``.

    Args:
        rewards: any shape.
        low: smallest value, or None for no bound.
        high: largest value, or None for no bound.

    Returns:
        the same shape and dtype.

    Raises:
        ValueError: ``low`` is above ``high``, or a bound is NaN.
    """
    lowest = -float("inf") if low is None else low
    highest = float("inf") if high is None else high
    if not lowest <= highest:
        raise ValueError(f"low must not be above high; got low={low}, high={high}")
    return rewards.clamp(lowest, highest)
