"""The law that decoders in a training step draw tokens from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn from the model's distribution.

    ``temperature``: logits are divided by it.
    ``topk``: draw from the most probable ``topk`` tokens only; 0 means from all.
    ``topp``: draw from the fewest most probable tokens that together have this probability
    (nucleus sampling, Holtzman et al. 2020); 1 means from all.  After ``topk``, if both are given.

    Raises:
        ValueError: a value is out of its range.
    """

    temperature: float = 1.0
    topk: int = 0
    topp: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"--sample-temperature must be above 0; got {self.temperature}")
        if self.topk < 0:
            raise ValueError(
                f"--sample-topk must be at least 1, or 0 for all tokens; got {self.topk}"
            )
        if not 0 < self.topp <= 1:
            raise ValueError(
                f"--sample-topp must be above 0, and 1 (all tokens) at most; got {self.topp}"
            )


def policy_logits(
    logits: Tensor, *, eos: int, pad: int, min_length: int = 1, temperature: float = 1.0
) -> Tensor:
    """Logits of the law that ``decode`` samples from, of a whole pass over its samples.

    Their log-softmax at the sampled tokens gives the samples' log-probabilities.  Top-k and
    top-p, which leave probabilities of 0, are not part of it.

    Args:
        logits: ``[rows, tgt_len, vocab]``, of a pass that was fed the sentences from their start.
        eos: index of ``</s>``; excluded in the first ``min_length`` columns.
        pad: index of padding; excluded everywhere.
        min_length: tokens before which ``</s>`` is not allowed.
        temperature: logits are divided by it.

    Returns:
        ``[rows, tgt_len, vocab]`` float32 (float64 for float64 logits), ``-inf`` where a token is
        excluded; differentiable.
    """
    copy = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    return to_policy_(copy, 0, eos=eos, pad=pad, min_length=min_length, temperature=temperature)


def to_policy_(
    logits: Tensor, first_step: int, *, eos: int, pad: int, min_length: int, temperature: float
) -> Tensor:
    """:func:`policy_logits` in place, for ``[rows, steps, vocab]`` from ``first_step`` on."""
    if temperature != 1:
        logits /= temperature
    logits[:, :, pad] = -torch.inf
    if first_step < min_length:
        logits[:, : min_length - first_step, eos] = -torch.inf
    return logits


def draw(logits: Tensor, sampling: Sampling) -> Tensor:
    """``[rows]``: a token for each row of ``logits`` ``[rows, vocab]``."""
    candidates = None
    if 0 < sampling.topk < logits.size(1):
        logits, candidates = logits.topk(sampling.topk, dim=1)
    elif sampling.topp < 1:
        logits, candidates = logits.sort(dim=1, descending=True)
    probabilities = logits.softmax(dim=1)
    if sampling.topp < 1:
        # A token stays while those before it do not have the mass yet; so the first always does.
        before = probabilities.cumsum(dim=1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.topp, 0)
    drawn = _multinomial(probabilities)
    return (drawn if candidates is None else candidates.gather(1, drawn)).squeeze(1)


def _multinomial(weights: Tensor) -> Tensor:
    """``[rows, 1]``: an index into each row of ``weights`` ``[rows, size]``, not negative.

    On a CPU ``torch.multinomial`` draws a variate for every weight, which takes longer than all
    of a small decoder's step.  Here two for a row do: one chooses a block of the weights by the
    blocks' sums, the other a weight of the block.
    """
    if weights.device.type != "cpu":
        return torch.multinomial(weights, 1)
    size = weights.size(1)
    width = math.isqrt(size)
    whole = size - size % width
    blocks = weights[:, :whole].reshape(weights.size(0), -1, width).sum(dim=2)
    blocks = torch.cat([blocks, weights[:, whole:].sum(dim=1, keepdim=True)], dim=1)
    within = _inverse_cumulative(blocks) * width + torch.arange(width)
    # The last block, of what is left over, may be narrower, or empty.
    block = weights.gather(1, within.clamp(max=size - 1)).masked_fill(within >= size, 0)
    return within.gather(1, _inverse_cumulative(block))


def _inverse_cumulative(weights: Tensor) -> Tensor:
    """``[rows, 1]``: an index drawn by the inverse of the cumulative distribution."""
    cumulative = weights.cumsum(dim=1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if not bool(total.isfinite().all()):
        raise FloatingPointError("cannot sample: the model's logits are not finite")
    # Above 0, so that no weight of 0 is the first to reach it.
    threshold = (1 - torch.rand_like(total)) * total
    return torch.searchsorted(cumulative, threshold)
