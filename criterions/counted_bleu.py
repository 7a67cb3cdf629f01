"""Clipped counts and BLEU of token ids, batched, on the ids' device."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.bleu_statistics import LEVELS, SMOOTHINGS, BleuStatistics, bleu_of
from criterions.checks import check_choice, check_order, check_shape, check_token_ids
from criterions.reference_ngrams import length_mask, reference_ngrams, window_products


def matching_tokens(
    hypotheses: Tensor,
    references: Tensor,
    lengths: Tensor | None,
    reference_lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens of a hypothesis equal which of its reference; arguments as everywhere here.

    Returns:
        bool, True where both tokens count and are equal: ``[batch, length, ref_len]``; where a
        token counts: ``[batch, length]`` and ``[batch, ref_len]``.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_token_ids("hypotheses", hypotheses)
    check_token_ids("references", references)
    check_shape("references", references, [hypotheses.size(0), references.size(1)])
    check_shape("lengths", lengths, [hypotheses.size(0)])
    check_shape("reference_lengths", reference_lengths, [hypotheses.size(0)])
    inside = length_mask(lengths, hypotheses.size(1), like=hypotheses)
    in_reference = length_mask(reference_lengths, references.size(1), like=references)
    equal = hypotheses.unsqueeze(2) == references.unsqueeze(1)
    equal &= inside.unsqueeze(2) & in_reference.unsqueeze(1)
    return equal, inside, in_reference


def counted_statistics(
    hypotheses: Tensor,
    references: Tensor,
    *,
    orders: range = range(1, 5),
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
) -> BleuStatistics:
    """Sufficient statistics of BLEU, counted: int64, one row per sentence.

    Args:
        hypotheses: ``[batch, length]`` token ids.
        references: ``[batch, ref_len]`` token ids.
        orders: consecutive n-gram orders.
        lengths: ``[batch]``, tokens that count in each hypothesis (default: all).
        reference_lengths: ``[batch]``, tokens that count in each reference (default: all).

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    equal, inside, in_reference = matching_tokens(
        hypotheses, references, lengths, reference_lengths
    )
    reference = reference_ngrams(references, orders, reference_lengths)
    counts = window_products(equal, orders).sum(2)
    clipped = torch.minimum(counts, reference.count)
    tokens = inside.sum(1)
    return BleuStatistics(
        matches=clipped.masked_fill(~reference.first, 0).sum(-1).t(),
        totals=torch.stack([(tokens - order + 1).clamp(min=0) for order in orders], dim=-1),
        hypothesis_length=tokens,
        reference_length=in_reference.sum(1),
    )


def clipped_overlap(
    hypotheses: Tensor,
    references: Tensor,
    order: int,
    *,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
) -> Tensor:
    """Clipped n-gram count of BLEU's modified precision (Papineni et al. 2002).

    Args:
        hypotheses: ``[batch, length]`` token ids.
        references: ``[batch, ref_len]`` token ids.
        order: the length of the n-grams, at least 1.
        lengths: ``[batch]``, tokens that count in each hypothesis (default: all).
        reference_lengths: ``[batch]``, tokens that count in each reference (default: all).

    Returns:
        ``[batch]``, int64.

    Raises:
        ValueError: shapes, dtypes or the order do not fit.
    """
    check_order("order", order)
    statistics = counted_statistics(
        hypotheses,
        references,
        orders=range(order, order + 1),
        lengths=lengths,
        reference_lengths=reference_lengths,
    )
    return statistics.matches[:, 0]


def bleu(
    hypotheses: Tensor,
    references: Tensor,
    *,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    max_order: int = 4,
    level: str = "corpus",
    smoothing: str = "add-k",
) -> Tensor:
    """BLEU of token ids; on the same tokens, sacrebleu's score divided by 100.

    Args:
        hypotheses: ``[batch, length]`` token ids.
        references: ``[batch, ref_len]`` token ids.
        lengths: ``[batch]``, tokens that count in each hypothesis (default: all).
        reference_lengths: ``[batch]``, tokens that count in each reference (default: all).
        max_order: highest n-gram order.
        level: ``corpus`` or ``sentence``.
        smoothing: ``none``, ``add-k`` or ``add-k-all``.

    Returns:
        Scalar (``corpus``) or ``[batch]`` (``sentence``), float32 (torch's default dtype), 0 to 1.

    Raises:
        ValueError: shapes, dtypes, the order or a name do not fit.
    """
    check_order("max_order", max_order)
    check_choice("level", level, LEVELS)
    check_choice("smoothing", smoothing, SMOOTHINGS)
    statistics = counted_statistics(
        hypotheses,
        references,
        orders=range(1, max_order + 1),
        lengths=lengths,
        reference_lengths=reference_lengths,
    )
    return bleu_of(statistics, level, smoothing)
