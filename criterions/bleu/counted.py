"""BLEU and GLEU of token ids, and of all prefixes, batched, on the device of the ids.

Every function takes ``[batch, length]`` hypotheses and ``[batch, ref_len]`` references of integer
ids, ``lengths`` and ``reference_lengths`` ``[batch]``, the tokens that count in each (default:
all), and the highest n-gram order; it raises ``ValueError`` where shapes, dtypes, the order or a
name do not fit. Time and memory are in the order of ``(length + ref_len) * ref_len`` for each
sentence and n-gram order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.bleu.ngrams import length_mask, ngram_products, reference_ngrams, shift
from criterions.bleu.statistics import BleuStatistics, bleu_of, checked_dtype
from criterions.checks import check_order, check_shape, check_token_ids


def counted_statistics(
    hypotheses: Tensor,
    references: Tensor,
    *,
    max_order: int = 4,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
) -> BleuStatistics:
    """Sufficient statistics of BLEU of each sentence, counted.

    Returns:
        int64: matches and totals ``[batch, max_order]``, both lengths ``[batch]``.
    """
    check_order("max_order", max_order)
    equal, inside, in_reference = matching_tokens(
        hypotheses, references, lengths, reference_lengths
    )
    reference = reference_ngrams(references, max_order, reference_lengths)
    counts = ngram_products(equal, max_order).sum(2)
    clipped = torch.minimum(counts, reference.count)
    return _statistics(
        clipped.masked_fill(~reference.first, 0).sum(-1).t(), inside.sum(1), in_reference.sum(1)
    )


def prefix_statistics(
    hypotheses: Tensor,
    references: Tensor,
    *,
    max_order: int = 4,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
) -> BleuStatistics:
    """Sufficient statistics of BLEU of all prefixes of each hypothesis.

    Column ``t`` is what :func:`criterions.counted_statistics` gives for the first ``t + 1`` tokens
    against the whole reference.  From the end of a hypothesis on, columns repeat its last one.

    Returns:
        int64: matches and totals ``[batch, length, max_order]``, both lengths ``[batch, length]``.
    """
    check_order("max_order", max_order)
    equal, inside, in_reference = matching_tokens(
        hypotheses, references, lengths, reference_lengths
    )
    reference = reference_ngrams(references, max_order, reference_lengths)
    matches = []
    for index, same in enumerate(ngram_products(equal, max_order)):
        # A window is a match unless the reference's occurrences are used up by earlier ones.
        occurrence = same.cumsum(1, dtype=torch.int32)
        is_match = same & reference.first[index].unsqueeze(1)
        is_match &= occurrence <= reference.count[index].unsqueeze(1)
        # From each window's first token to its last.
        matches.append(shift(is_match.any(2), 0, -index).cumsum(1))
    tokens = inside.cumsum(1)
    words = in_reference.sum(1).unsqueeze(1).expand_as(tokens)
    return _statistics(torch.stack(matches, dim=-1), tokens, words)


def matching_tokens(
    hypotheses: Tensor,
    references: Tensor,
    lengths: Tensor | None,
    reference_lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where both tokens count and are equal, ``[batch, length, ref_len]``; where each counts."""
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


def _statistics(matches: Tensor, tokens: Tensor, reference_length: Tensor) -> BleuStatistics:
    """With the n-grams of candidates of so many tokens."""
    totals = [(tokens - shorter).clamp(min=0) for shorter in range(matches.size(-1))]
    return BleuStatistics(matches, torch.stack(totals, dim=-1), tokens, reference_length)


def clipped_overlap(
    hypotheses: Tensor,
    references: Tensor,
    order: int,
    *,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
) -> Tensor:
    """Clipped n-gram count of BLEU's modified precision (Papineni et al. 2002), int64 ``[batch]``.

    ``order`` is the length of the n-grams, at least 1.
    """
    check_order("order", order)
    statistics = counted_statistics(
        hypotheses,
        references,
        max_order=order,
        lengths=lengths,
        reference_lengths=reference_lengths,
    )
    return statistics.matches[:, -1]


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
    """BLEU of token ids.

    On the same tokens it is sacrebleu's score divided by 100, with ``effective_order=False`` (its
    default for a corpus, not for ``sentence_bleu``) and, but for ``add-k-all``, which sacrebleu
    does not have, the smoothing of the same name with k = 1.

    Args:
        level: ``corpus`` or ``sentence``.
        smoothing: ``none``, ``add-k`` or ``add-k-all``.
        hypotheses, references, lengths, reference_lengths, max_order: see the module.

    Returns:
        Scalar (``corpus``) or ``[batch]`` (``sentence``), float32 (torch's default dtype), 0 to 1.
    """
    statistics = counted_statistics(
        hypotheses,
        references,
        max_order=max_order,
        lengths=lengths,
        reference_lengths=reference_lengths,
    )
    return bleu_of(statistics, level, smoothing)


def gleu_from_statistics(statistics: BleuStatistics) -> Tensor:
    """``sum_n matches_n / max(sum_n totals_n, sum_n reference n-grams)`` (arXiv 1609.08144, 5).

    That is the smaller of precision and recall of all n-grams of orders 1 to N together.  A
    reference of ``l`` tokens has ``max(l - n + 1, 0)`` n-grams of order n.  Without any n-gram on
    either side the score is 0, as that of every empty candidate.

    Args:
        statistics: of n-grams of order 1, 2, ..., N; ``[..., N]`` and ``[...]``, counted or
            expected (then the result is differentiable in matches and totals).

    Returns:
        ``[...]``, 0 to 1, float32 (float64 for float64 statistics).

    Raises:
        ValueError: shapes do not fit together.
    """
    dtype = checked_dtype(statistics)
    matches, totals, _, reference_length = statistics
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

    Returns:
        ``[batch]``, float32 (torch's default dtype), 0 to 1; 0 where either side is empty.
    """
    return gleu_from_statistics(
        counted_statistics(
            hypotheses,
            references,
            max_order=max_order,
            lengths=lengths,
            reference_lengths=reference_lengths,
        )
    )


def increments(prefix_scores: Tensor) -> Tensor:
    """What each token adds to the score: differences of the scores of successive prefixes.

    Their cumulative sum is the score of the prefix, their whole sum that of the whole output, and
    the sum from token ``t`` on is the part of the reward that token ``t`` can still influence.
    The empty prefix has score 0, as with BLEU and GLEU.

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
