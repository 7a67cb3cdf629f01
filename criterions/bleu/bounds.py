"""Bounds of the expected clipped count, and the published formula (arXiv 1712.04708).

Each function takes :class:`HypothesisNgrams` and returns ``[orders, batch]``, in O(B T R) time and
memory for each order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.bleu.ngrams import HypothesisNgrams, shift


def paper_overlap(ngrams: HypothesisNgrams) -> Tensor:
    """The published formula, ``sum_s sum_i q_i min(1, r_s / (1 + sum_{l != i} q_l))``.

    It is a lower bound of the expected clipped count when the n-gram stands once in the
    reference (``r_s = 1``), cannot overlap itself, and the hypothesis has a fixed length.
    Otherwise it can lie above it: for ``n = 1, r = 2, T = 3, p = 1/2`` it gives 1.5 where the
    expectation is 1.375; for the n-gram ``(a, a)``, ``T = 3, p = 1/2``, 0.4 for 0.375.
    """
    probability = ngrams.probability
    others = probability.sum(2, keepdim=True) - probability
    count = ngrams.reference.count.unsqueeze(2)
    clipped = (count / (1 + others)).clamp(max=1)
    return _over_types(ngrams, (probability * clipped).sum(2))


def upper_overlap(ngrams: HypothesisNgrams) -> Tensor:
    """An upper bound, ``sum_s min(sum_i q_i, r_s)``: Jensen's inequality for a concave minimum."""
    expected_count = ngrams.probability.sum(2)
    count = ngrams.reference.count.to(expected_count.dtype)
    return _over_types(ngrams, torch.minimum(expected_count, count))


def lower_overlap(ngrams: HypothesisNgrams) -> Tensor:
    """A lower bound, ``sum_s sum_i q_i g_r(mu_i)``: Jensen's inequality for a convex minorant.

    With ``B_i`` the event that the n-gram stands at position ``i`` and ``Z_i`` the number of its
    other occurrences, ``E[B_i min(1, r / (1 + Z_i))] >= q_i g_r(E[Z_i | B_i])`` for any convex
    ``g_r <= min(1, r / (1 + z))``. In the conditional mean, occurrences that share tokens with
    the one at ``i`` have their conditional probability.
    """
    mean = _conditional_mean_of_others(ngrams)
    minorant = _convex_minorant(mean, ngrams.reference.count.unsqueeze(2))
    return _over_types(ngrams, (ngrams.probability * minorant).sum(2))


def _over_types(ngrams: HypothesisNgrams, per_type: Tensor) -> Tensor:
    """Sum ``[orders, batch, ref_len]`` over the first occurrence of each n-gram."""
    return per_type.masked_fill(~ngrams.reference.first, 0).sum(-1)


def _convex_minorant(others: Tensor, count: Tensor) -> Tensor:
    """Largest convex function below ``min(1, r / (1 + z))`` on ``z >= 0``.

    The tangent from ``(0, 1)`` touches ``r / (1 + z)`` at ``z* = (r - 1) + sqrt(r (r - 1))``;
    before it the minorant is that line, from it on the hyperbola.
    """
    r = count.clamp(min=1).to(others.dtype)
    touching = (r - 1) + (r * (r - 1)).sqrt()
    line = 1 - r * others / (1 + touching) ** 2
    return torch.where(others <= touching, line, r / (1 + others))


def _conditional_mean_of_others(ngrams: HypothesisNgrams) -> Tensor:
    """``E[Z_i | B_i]``, ``[orders, batch, tgt_len, ref_len]``."""
    q = ngrams.probability
    # Later occurrences need the hypothesis to go on; earlier ones are known not to have ended it.
    # Where a survival probability vanishes, the mean is weighted with a q that vanishes faster.
    survival = ngrams.survival.clamp(min=torch.finfo(q.dtype).tiny).unsqueeze(-1)
    from_here_on = q.flip(2).cumsum(2).flip(2) / survival
    later, earlier = [], []
    for index, order in enumerate(ngrams.orders):
        later.append(shift(from_here_on[index], order, 0))
        reached = _survival_later(survival, order) if ngrams.continues is not None else 1
        earlier.append(shift((q[index] / reached).cumsum(1), -order, 0))
    mean = torch.stack(later) + torch.stack(earlier)
    for distance in range(1, len(ngrams.orders)):
        mean = mean + shift(ngrams.tail_products(distance), distance, 0)
        heads = ngrams.head_products(distance)
        if ngrams.continues is not None:
            heads = heads * ngrams.survival.unsqueeze(-1) / _survival_later(survival, distance)
        mean = mean + shift(heads, -distance, 0)
    return mean


def _survival_later(survival: Tensor, distance: int) -> Tensor:
    """``S_{i + distance}`` at position ``i``; 1 past the last position."""
    distance = min(distance, survival.size(1))
    return torch.cat([survival[:, distance:], torch.ones_like(survival[:, :distance])], dim=1)
