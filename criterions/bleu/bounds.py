"""Bounds of the expected clipped count, and the published formula (arXiv 1712.04708).

Each function takes :class:`HypothesisNgrams` and returns ``[orders, batch]``, in O(B T R) time and
memory for each order; the lower bound with a factor of log T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.bleu.ngrams import HypothesisNgrams, ngram_products, shift


def paper_overlap(ngrams: HypothesisNgrams) -> Tensor:
    """The published formula, ``sum_s sum_i q_i min(1, r_s / (1 + sum_{l != i} q_l))``.

    It is a lower bound of the expected clipped count when the n-gram stands once in the
    reference (``r_s = 1``), cannot overlap itself, and the hypothesis has a fixed length.
    Otherwise it can lie above it: for ``n = 1, r = 2, T = 3, p = 1/2`` it gives 1.5 for 1.375.
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
    # Later occurrences: F_i = c_i + (1 - e_i) F_{i + 1} is how many start from position i on,
    # given that the hypothesis reaches it. Each step doubles the positions that are summed.
    later, step = ngrams.products, 1
    given, reaches = ngrams.p_ref, torch.ones_like(later[0, :, :, :1])
    if ngrams.continues is not None:
        reaches = ngrams.continues.unsqueeze(-1)
        # Earlier occurrences are known not to have ended the hypothesis. Where rounding leaves
        # less probability to all words than to one of them, that one is certain.
        at_least = torch.finfo(given.dtype).tiny
        given = given / torch.maximum(reaches, given).clamp(min=at_least)
    while step < later.size(2):
        later = later + reaches * shift(later, step, 0)
        reaches = reaches * shift(reaches, step, 0)
        step *= 2
    heads = ngram_products(given, len(ngrams.orders))
    earlier = heads.cumsum(2)
    mean = torch.stack(
        [shift(later[n - 1], n, 0) + shift(earlier[n - 1], -n, 0) for n in ngrams.orders]
    )
    # Occurrences that share tokens with the one at i.
    for distance in range(1, len(ngrams.orders)):
        head = heads[distance - 1] * ngrams.reference.periods[distance - 1].unsqueeze(2)
        mean = mean + shift(ngrams.tail_products(distance), distance, 0)
        mean = mean + shift(head, -distance, 0)
    return mean
