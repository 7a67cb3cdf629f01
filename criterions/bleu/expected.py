"""Expected BLEU of a decoder's output distribution, with gradient (arXiv 1712.04708)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from criterions.bleu.bounds import lower_overlap, paper_overlap, upper_overlap
from criterions.bleu.exact import exact_overlap
from criterions.bleu.ngrams import HypothesisNgrams, hypothesis_ngrams, length_mask
from criterions.bleu.statistics import LEVELS, SMOOTHINGS, BleuStatistics, bleu_of
from criterions.checks import check_choice, check_order, check_positions, check_shape

OVERLAPS: dict[str, Callable[[HypothesisNgrams], Tensor]] = {
    "exact": exact_overlap,
    "paper": paper_overlap,
    "lower": lower_overlap,
    "upper": upper_overlap,
}
"""How the expected clipped counts are computed: name -> function to ``[orders, batch]``."""


def expected_overlap(
    p_ref: Tensor,
    references: Tensor,
    order: int,
    *,
    value: str = "exact",
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    count_eos: bool | Tensor = False,
) -> Tensor:
    """Expected clipped count of the reference's n-grams in the hypothesis, ``E[O_n]``.

    The hypothesis' tokens are independent, ``x_i ~ p[i]``; ``O_n = sum_s min(C_s, r_s)`` over the
    distinct n-grams ``s`` of the reference is the numerator of BLEU's precision. Time and memory
    O(B (T + R) R) for each order; ``exact`` has T steps of the host.

    Args:
        p_ref: ``[batch, tgt_len, ref_len]``; ``p_ref[b, i, j]`` is the probability of token
            ``references[b, j]`` at position ``i``. float32 or float64 (16-bit probabilities are
            computed in float32).
        references: ``[batch, ref_len]``, integer token ids without ``</s>``.
        order: the length of the n-grams, at least 1.
        value: ``exact`` (the expectation), ``paper`` (the published formula, which is not always a
            bound), ``lower`` and ``upper`` (bounds, always).
        lengths: ``[batch]``, positions that exist (default: ``tgt_len``).
        reference_lengths: ``[batch]``, tokens of each reference (default: ``ref_len``).
        eos_probabilities: ``[batch, tgt_len]``, probability of ``</s>`` at each position. With it,
            the tokens after the first ``</s>`` do not count.
        count_eos: ``</s>`` is a token of hypothesis and reference, so that n-grams that end in it
            count; or ``[batch]`` bool, False for references that have none, such as those that
            were cut off. Needs ``eos_probabilities``.

    Returns:
        ``[batch]``, between 0 and the number of n-grams in the reference.

    Raises:
        ValueError: a shape, the order or the value's name does not fit.
    """
    check_order("order", order)
    return expected_statistics(
        p_ref,
        references,
        value=value,
        max_order=order,
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities,
        count_eos=count_eos,
    ).matches[:, -1]


def expected_statistics(
    p_ref: Tensor,
    references: Tensor,
    *,
    value: str = "exact",
    max_order: int = 4,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    count_eos: bool | Tensor = False,
) -> BleuStatistics:
    """Expected clipped counts, n-gram totals and lengths of each sentence, with gradient.

    Arguments, errors and complexity as of :func:`criterions.expected_overlap`, for the orders 1 to
    ``max_order``. Returns matches and totals ``[batch, max_order]``, hypothesis and reference
    length ``[batch]``, in tokens, ``</s>`` among them with ``count_eos``. Sum them over sentences,
    and over data-parallel workers, before taking the score.
    """
    check_order("max_order", max_order)
    check_choice("value", value, list(OVERLAPS))
    check_positions(p_ref, references, lengths, reference_lengths, eos_probabilities)
    ngrams = hypothesis_ngrams(
        p_ref, references, max_order, lengths, reference_lengths, eos_probabilities
    )
    matches = OVERLAPS[value](ngrams).t()
    words = length_mask(reference_lengths, references.size(1), like=references).sum(1)
    is_token = ngrams.survival * ngrams.exists
    if count_eos is False:
        if ngrams.continues is not None:
            is_token = is_token * ngrams.continues
    elif eos_probabilities is None:
        raise ValueError("count_eos needs eos_probabilities")
    else:
        has_eos = count_eos if isinstance(count_eos, Tensor) else torch.ones_like(words).bool()
        check_shape("count_eos", has_eos, words.shape)
        final = ngrams.final_ngrams(eos_probabilities, words)
        matches = matches + final.masked_fill(~has_eos.unsqueeze(1), 0)
        words = words + has_eos
    return BleuStatistics(
        matches=matches,
        totals=torch.stack([is_token[:, order - 1 :].sum(1) for order in ngrams.orders], dim=1),
        hypothesis_length=is_token.sum(1),
        reference_length=words.to(matches.dtype),
    )


def expected_bleu(
    p_ref: Tensor,
    references: Tensor,
    *,
    value: str = "exact",
    max_order: int = 4,
    level: str = "corpus",
    smoothing: str = "add-k",
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    count_eos: bool | Tensor = False,
) -> Tensor:
    """BLEU of the expected clipped counts, totals and lengths (arXiv 1712.04708).

    BLEU of expected statistics is not the expected BLEU: with exact counts and a fixed length it
    is an upper bound of one sentence's expected BLEU (the geometric mean is concave; with a random
    length the brevity penalty is not). The more sentences the statistics are summed over, the
    nearer it is to the expected corpus BLEU. With ``eos_probabilities`` length and brevity penalty
    are expected values and carry gradient.

    Args:
        p_ref, references, value, lengths, reference_lengths, eos_probabilities, count_eos: as in
            :func:`criterions.expected_overlap`.
        max_order: highest n-gram order.
        level: ``corpus``, one score of the whole batch, or ``sentence``.
        smoothing: as in :func:`criterions.bleu_from_statistics`.

    Returns:
        Scalar (``corpus``) or ``[batch]`` (``sentence``), 0 to 1.

    Raises:
        ValueError: a shape, an order or a name does not fit.
    """
    check_choice("level", level, LEVELS)
    check_choice("smoothing", smoothing, SMOOTHINGS)
    statistics = expected_statistics(
        p_ref,
        references,
        value=value,
        max_order=max_order,
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities,
        count_eos=count_eos,
    )
    return bleu_of(statistics, level, smoothing)
