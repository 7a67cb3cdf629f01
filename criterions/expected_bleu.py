"""BLEU of expected statistics: a differentiable objective of a decoder's rows."""

from __future__ import annotations

from torch import Tensor

from criterions.bleu_statistics import LEVELS, SMOOTHINGS, BleuStatistics, bleu_of
from criterions.checks import check_choice, check_order, check_rows
from criterions.expected_overlap import OVERLAP_VALUES
from criterions.overlap_values.windows import candidate_windows
from criterions.reference_ngrams import length_mask


def expected_statistics(
    p_ref: Tensor,
    references: Tensor,
    *,
    value: str = "exact",
    max_order: int = 4,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
) -> BleuStatistics:
    """Expected sufficient statistics of BLEU, one row per sentence.

    Sum them over sentences, and over data-parallel workers, before taking the score: the
    plug-in error of the geometric mean falls with the number of sentences.

    Args:
        p_ref, references, value, lengths, reference_lengths, eos_probabilities: as in
            :func:`criterions.expected_overlap`.
        max_order: highest n-gram order; BLEU's is 4.

    Returns:
        matches and totals ``[batch, max_order]``, hypothesis and reference length ``[batch]``.

    Raises:
        ValueError: as :func:`criterions.expected_overlap`.
    """
    check_choice("value", value, list(OVERLAP_VALUES))
    check_order("max_order", max_order)
    check_rows(p_ref, references, lengths, reference_lengths, eos_probabilities)
    windows = candidate_windows(
        p_ref,
        references,
        range(1, max_order + 1),
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities,
    )
    matches = OVERLAP_VALUES[value](windows)
    reference_tokens = length_mask(reference_lengths, references.size(1), like=references)
    return BleuStatistics(
        matches=matches.t(),
        totals=windows.end.expected_totals(windows.orders),
        hypothesis_length=windows.end.expected_length,
        reference_length=reference_tokens.sum(1).to(matches.dtype),
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
) -> Tensor:
    """BLEU of the expected clipped counts, totals and lengths (arXiv 1712.04708).

    The score of expected statistics is not the expected score: with exact overlaps and a fixed
    length it is an upper bound of one sentence's expected BLEU (the geometric mean is concave;
    with a random length the brevity penalty is not), and the more sentences the statistics are
    summed over, the nearer it is to the expected corpus BLEU.

    Args:
        p_ref, references, value, lengths, reference_lengths, eos_probabilities: as in
            :func:`criterions.expected_overlap`. With ``eos_probabilities`` the candidate's length
            and the brevity penalty are expected values and carry gradient; without them the
            candidates have ``lengths`` tokens.
        max_order: highest n-gram order.
        level: ``corpus``, one score of the whole batch, or ``sentence``.
        smoothing: ``none``, ``add-k`` or ``add-k-all``; see
            :func:`criterions.bleu_from_statistics`.

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
    )
    return bleu_of(statistics, level, smoothing)
