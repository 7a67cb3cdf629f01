"""GLEU of token ids: the sentence-level score that Google's translation system was tuned on."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.bleu_statistics import BleuStatistics
from criterions.checks import check_order, check_shape
from criterions.counted_bleu import counted_statistics


def gleu_from_statistics(statistics: BleuStatistics) -> Tensor:
    """``sum_n matches_n / max(sum_n totals_n, sum_n reference n-grams)`` (arXiv 1609.08144, 5).

    That is the smaller of precision and recall of all n-grams of orders 1 to N together.  A
    reference of ``l`` tokens has ``max(l - n + 1, 0)`` n-grams of order n.  Without any n-gram on
    either side the score is 0, as that of every empty candidate.

    Args:
        statistics: of n-grams of order 1, 2, ..., N; ``[..., N]`` and ``[...]``, counted or
            expected (then the result is differentiable in matches and totals).

    Returns:
        ``[...]``, 0 to 1, in the floating dtype of the statistics (float32 for integers).

    Raises:
        ValueError: shapes do not fit together.
    """
    matches, totals, hypothesis_length, reference_length = statistics
    if matches.dim() < 1:
        raise ValueError("matches must be [..., orders]; got a scalar")
    check_shape("totals", totals, matches.shape)
    check_shape("hypothesis_length", hypothesis_length, matches.shape[:-1])
    check_shape("reference_length", reference_length, matches.shape[:-1])
    dtype = torch.get_default_dtype()
    if matches.is_floating_point():
        dtype = matches.dtype
    shorter = torch.arange(matches.size(-1), device=matches.device)
    in_reference = (reference_length.unsqueeze(-1) - shorter).clamp(min=0).sum(-1).to(dtype)
    most = torch.maximum(totals.to(dtype).sum(-1), in_reference)
    nothing = most == 0
    return (matches.to(dtype).sum(-1) / most.masked_fill(nothing, 1)).masked_fill(nothing, 0)


def gleu(
    hypotheses: Tensor,
    references: Tensor,
    *,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    max_order: int = 4,
) -> Tensor:
    """GLEU of each sentence (Wu et al. 2016, arXiv 1609.08144, section 5).

    Args:
        hypotheses: ``[batch, length]`` token ids.
        references: ``[batch, ref_len]`` token ids.
        lengths: ``[batch]``, tokens that count in each hypothesis (default: all).
        reference_lengths: ``[batch]``, tokens that count in each reference (default: all).
        max_order: highest n-gram order.

    Returns:
        ``[batch]``, float32 (torch's default dtype), 0 to 1; 0 where either side is empty.

    Raises:
        ValueError: shapes, dtypes or the order do not fit.
    """
    check_order("max_order", max_order)
    return gleu_from_statistics(
        counted_statistics(
            hypotheses,
            references,
            orders=range(1, max_order + 1),
            lengths=lengths,
            reference_lengths=reference_lengths,
        )
    )
