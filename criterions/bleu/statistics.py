"""BLEU from its sufficient statistics, counted or expected alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from criterions.checks import check_choice, check_shape

SMOOTHINGS = ("none", "add-k", "add-k-all")
"""``none``; ``add-k``: 1 added to matches and totals of the orders above the unigram (Lin & Och
2004; sacrebleu's ``add-k`` with k = 1); ``add-k-all``: 1 added for all orders (published code of
arXiv 1712.04708)."""

LEVELS = ("corpus", "sentence")
"""Whether statistics are added up over the batch before the score is taken."""


class BleuStatistics(NamedTuple):
    """What BLEU is a function of; numbers of tokens and n-grams, expected or counted."""

    matches: Tensor
    """``[..., orders]``: clipped counts of n-grams of order 1, 2, ..."""
    totals: Tensor
    """``[..., orders]``: n-grams of the candidate."""
    hypothesis_length: Tensor
    """``[...]``: tokens of the candidate."""
    reference_length: Tensor
    """``[...]``: tokens of the reference."""

    def over_corpus(self) -> BleuStatistics:
        """The statistics of a whole batch: sums over the first axis."""
        return BleuStatistics(*(statistic.sum(0) for statistic in self))


def bleu_from_statistics(
    matches: Tensor,
    totals: Tensor,
    hypothesis_length: Tensor,
    reference_length: Tensor,
    smoothing: str = "add-k",
) -> Tensor:
    """BLEU = BP * exp(mean_n log p_n) (Papineni et al. 2002), differentiable in all statistics.

    ``p_n = (a_n + matches_n) / (a_n + totals_n)`` with ``a_n`` the smoothing's addition, and
    ``BP = exp(min(0, 1 - reference_length / hypothesis_length))``.  As in sacrebleu, a precision
    of zero, or an empty candidate, makes the score zero; its gradient is then zero as well.

    Args:
        matches, totals, hypothesis_length, reference_length: of :class:`BleuStatistics`.
        smoothing: ``none``, ``add-k`` or ``add-k-all``; see :data:`SMOOTHINGS`.

    Returns:
        ``[...]``, 0 to 1, float32 (float64 for float64 statistics).

    Raises:
        ValueError: unknown smoothing, or shapes that do not fit together.
    """
    check_choice("smoothing", smoothing, SMOOTHINGS)
    dtype = checked_dtype(BleuStatistics(matches, totals, hypothesis_length, reference_length))
    added = torch.zeros(matches.size(-1), dtype=dtype, device=matches.device)
    if smoothing != "none":
        added[(1 if smoothing == "add-k" else 0) :] = 1
    numerator = matches.to(dtype) + added
    denominator = totals.to(dtype) + added
    length = hypothesis_length.to(dtype)

    # The replaced values keep log and division finite, and so their gradients.
    scored = (numerator > 0).all(-1) & (denominator > 0).all(-1) & (length > 0)
    unscored = ~scored
    numerator = numerator.masked_fill(unscored.unsqueeze(-1), 1)
    denominator = denominator.masked_fill(unscored.unsqueeze(-1), 1)
    length = length.masked_fill(unscored, 1)
    log_precision = (numerator.log() - denominator.log()).mean(-1)
    log_brevity = (1 - reference_length.to(dtype) / length).clamp(max=0)
    return (log_precision + log_brevity).exp().masked_fill(unscored, 0)


def checked_dtype(statistics: BleuStatistics) -> torch.dtype:
    """What a score is computed in; ``ValueError`` where the shapes do not fit together."""
    matches, totals, hypothesis_length, reference_length = statistics
    if matches.dim() < 1:
        raise ValueError("matches must be [..., orders]; got a scalar")
    check_shape("totals", totals, matches.shape)
    check_shape("hypothesis_length", hypothesis_length, matches.shape[:-1])
    check_shape("reference_length", reference_length, matches.shape[:-1])
    # Lengths of a corpus are infinite in float16.
    own = matches.dtype if matches.is_floating_point() else torch.get_default_dtype()
    return torch.promote_types(own, torch.float32)


def bleu_of(statistics: BleuStatistics, level: str, smoothing: str) -> Tensor:
    """Score ``[batch]`` statistics at ``corpus`` (scalar) or ``sentence`` level (``[batch]``)."""
    check_choice("level", level, LEVELS)
    if level == "corpus":
        statistics = statistics.over_corpus()
    return bleu_from_statistics(*statistics, smoothing=smoothing)
