"""BLEU's statistics of every prefix of the candidates, for credit to single tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.bleu_statistics import SMOOTHINGS, BleuStatistics, bleu_from_statistics
from criterions.checks import check_choice, check_order
from criterions.counted_bleu import matching_tokens
from criterions.gleu import gleu_from_statistics
from criterions.reference_ngrams import reference_ngrams, window_products


def prefix_statistics(
    hypotheses: Tensor,
    references: Tensor,
    *,
    orders: range = range(1, 5),
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
) -> BleuStatistics:
    """Sufficient statistics of BLEU of all prefixes of each hypothesis: int64.

    Column ``t`` is what :func:`criterions.counted_statistics` gives for the first ``t + 1`` tokens
    against the whole reference.  From the end of a hypothesis on, columns repeat its last one.
    Takes memory in the order of ``[batch, length, ref_len]`` per n-gram order.

    Args:
        hypotheses: ``[batch, length]`` token ids.
        references: ``[batch, ref_len]`` token ids.
        orders: consecutive n-gram orders.
        lengths: ``[batch]``, tokens that count in each hypothesis (default: all).
        reference_lengths: ``[batch]``, tokens that count in each reference (default: all).

    Returns:
        matches and totals ``[batch, length, orders]``, both lengths ``[batch, length]``.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    equal, inside, in_reference = matching_tokens(
        hypotheses, references, lengths, reference_lengths
    )
    reference = reference_ngrams(references, orders, reference_lengths)

    matches = []
    for index, same in enumerate(window_products(equal, orders)):
        # A window is a match unless the reference's occurrences are used up by earlier ones.
        occurrence = same.cumsum(1, dtype=torch.int32)
        is_match = same & reference.first[index].unsqueeze(1)
        is_match &= occurrence <= reference.count[index].unsqueeze(1)
        matches.append(_at_last_token(is_match.any(2), orders[index]).cumsum(1))
    tokens = inside.cumsum(1)
    return BleuStatistics(
        matches=torch.stack(matches, dim=-1),
        totals=torch.stack([(tokens - order + 1).clamp(min=0) for order in orders], dim=-1),
        hypothesis_length=tokens,
        reference_length=in_reference.sum(1).unsqueeze(1).expand_as(tokens),
    )


def _at_last_token(at_first_token: Tensor, order: int) -> Tensor:
    """Move what stands at each window's first token, ``[batch, length]``, to its last token."""
    length = at_first_token.size(1)
    before = min(order - 1, length)
    nothing = torch.zeros_like(at_first_token[:, :before])
    return torch.cat([nothing, at_first_token[:, : length - before]], dim=1)


def prefix_bleu(
    hypotheses: Tensor,
    references: Tensor,
    *,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    max_order: int = 4,
    smoothing: str = "add-k",
) -> Tensor:
    """Sentence BLEU of every prefix, its brevity penalty against the whole reference.

    Args:
        hypotheses: ``[batch, length]`` token ids.
        references: ``[batch, ref_len]`` token ids.
        lengths: ``[batch]``, tokens that count in each hypothesis (default: all).
        reference_lengths: ``[batch]``, tokens that count in each reference (default: all).
        max_order: highest n-gram order.
        smoothing: ``none``, ``add-k`` or ``add-k-all``.

    Returns:
        ``[batch, length]``, float32 (torch's default dtype), 0 to 1; past the end of a hypothesis
        its whole score, which is that of :func:`criterions.bleu` at sentence level.

    Raises:
        ValueError: shapes, dtypes, the order or the smoothing do not fit.
    """
    check_order("max_order", max_order)
    check_choice("smoothing", smoothing, SMOOTHINGS)
    statistics = prefix_statistics(
        hypotheses,
        references,
        orders=range(1, max_order + 1),
        lengths=lengths,
        reference_lengths=reference_lengths,
    )
    return bleu_from_statistics(*statistics, smoothing=smoothing)


def prefix_gleu(
    hypotheses: Tensor,
    references: Tensor,
    *,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    max_order: int = 4,
) -> Tensor:
    """GLEU of every prefix; arguments, result and errors as :func:`prefix_bleu`'s."""
    check_order("max_order", max_order)
    return gleu_from_statistics(
        prefix_statistics(
            hypotheses,
            references,
            orders=range(1, max_order + 1),
            lengths=lengths,
            reference_lengths=reference_lengths,
        )
    )


def increments(prefix_scores: Tensor) -> Tensor:
    """What each token adds to the score: differences of the scores of successive prefixes.

    Their cumulative sum is the score of the prefix, their whole sum that of the whole output, and
    the sum from token ``t`` on is the part of the reward that token ``t`` can still influence.
    The empty prefix has score 0 (as in :func:`prefix_bleu` and :func:`prefix_gleu`).

    Args:
        prefix_scores: ``[batch, length]``, floating.

    Returns:
        ``[batch, length]``; zero where successive prefixes score the same.

    Raises:
        ValueError: ``prefix_scores`` is not a floating matrix.
    """
    if prefix_scores.dim() != 2 or not prefix_scores.is_floating_point():
        raise ValueError(
            "prefix_scores must be a floating tensor [batch, length]; "
            f"got {prefix_scores.dtype} of shape {list(prefix_scores.shape)}"
        )
    return torch.cat([prefix_scores[:, :1], prefix_scores[:, 1:] - prefix_scores[:, :-1]], dim=1)
