"""The published formula (arXiv 1712.04708), literally."""

from __future__ import annotations

from torch import Tensor

from criterions.overlap_values.windows import CandidateWindows


def paper_overlap(windows: CandidateWindows) -> Tensor:
    """``sum_s sum_i q_i min(1, r_s / (1 + sum_{l != i} q_l))``, arXiv 1712.04708.

    It is a lower bound of the expected clipped count when the n-gram stands once in the
    reference (``r_s = 1``), cannot overlap itself, and the candidate's length is fixed.
    Otherwise it can lie above it: for ``n = 1, r = 2, T = 3, p = 1/2`` it gives 1.5 where the
    truth is 1.375; for the n-gram ``(a, a)``, ``T = 3, p = 1/2``, 0.4 where the truth is 0.375;
    and where ``</s>`` may end the sentence, the windows depend on each other even for one word.

    Returns:
        ``[orders, batch]``.
    """
    probability = windows.probability
    others = probability.sum(2, keepdim=True) - probability
    count = windows.reference.count.unsqueeze(2)
    clipped = (count / (1 + others)).clamp(max=1)
    per_type = (probability * clipped).sum(2)
    return per_type.masked_fill(~windows.reference.first, 0).sum(-1)
