"""A true upper bound of the expected clipped count."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.overlap_values.windows import CandidateWindows


def upper_overlap(windows: CandidateWindows) -> Tensor:
    """``sum_s min(sum_i q_i, r_s)``: Jensen's inequality, ``min(., r)`` being concave.

    Returns:
        ``[orders, batch]``.
    """
    expected_count = windows.probability.sum(2)
    clipped = torch.minimum(expected_count, windows.reference.count.to(expected_count.dtype))
    return clipped.masked_fill(~windows.reference.first, 0).sum(-1)
