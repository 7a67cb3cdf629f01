"""Expected clipped n-gram overlap between independent rows and a reference."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from criterions.checks import check_choice, check_order, check_rows
from criterions.overlap_values.exact import exact_overlap
from criterions.overlap_values.lower import lower_overlap
from criterions.overlap_values.paper import paper_overlap
from criterions.overlap_values.upper import upper_overlap
from criterions.overlap_values.windows import CandidateWindows, candidate_windows

OVERLAP_VALUES: dict[str, Callable[[CandidateWindows], Tensor]] = {
    "exact": exact_overlap,
    "paper": paper_overlap,
    "lower": lower_overlap,
    "upper": upper_overlap,
}
"""Name of a value -> function from windows to ``[orders, batch]``."""


def expected_overlap(
    p_ref: Tensor,
    references: Tensor,
    order: int,
    *,
    value: str = "exact",
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
) -> Tensor:
    """``E[O_n]``: expected clipped count of the reference's n-grams in the candidate.

    The candidate's tokens are independent, ``x_i ~ p[i]``; ``O_n = sum_s min(C_s, r_s)`` over the
    n-gram types ``s`` of the reference is the numerator of BLEU's precision (arXiv 1712.04708).

    Args:
        p_ref: ``[batch, tgt_len, ref_len]``; ``p_ref[b, i, j]`` is the probability of token
            ``references[b, j]`` at row ``i``. float32 or float64 (16-bit rows are computed in
            float32).
        references: ``[batch, ref_len]``, token ids without ``</s>``.
        order: the length of the n-grams, at least 1.
        value: ``exact`` (the expectation), ``paper`` (the published formula, which is not always a
            bound), ``lower`` and ``upper`` (bounds, always).
        lengths: ``[batch]``, rows that exist (default: ``tgt_len``); rows beyond never count.
        reference_lengths: ``[batch]``, tokens of each reference (default: ``ref_len``).
        eos_probabilities: ``[batch, tgt_len]``, probability of ``</s>`` in each row. With it, the
            tokens after the first ``</s>`` do not count.

    Returns:
        ``[batch]``, between 0 and the number of reference windows.

    Raises:
        ValueError: a shape, the order or the value's name does not fit.
    """
    check_choice("value", value, list(OVERLAP_VALUES))
    check_order("order", order)
    check_rows(p_ref, references, lengths, reference_lengths, eos_probabilities)
    windows = candidate_windows(
        p_ref,
        references,
        range(order, order + 1),
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities,
    )
    return OVERLAP_VALUES[value](windows)[0]
