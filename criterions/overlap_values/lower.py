"""A true lower bound of the expected clipped count, whatever the n-grams."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.overlap_values.windows import CandidateWindows
from criterions.reference_ngrams import shift


def lower_overlap(windows: CandidateWindows) -> Tensor:
    """``sum_s sum_i q_i g_r(mu_i)``: Jensen's inequality on a convex minorant.

    With ``B_i`` the event that window ``i`` holds the n-gram and ``Z_i`` the number of its other
    occurrences, ``E[B_i min(1, r / (1 + Z_i))] >= q_i g_r(E[Z_i | B_i])`` for any convex
    ``g_r <= min(1, r / (1 + z))``.  The conditional mean takes the windows that share tokens
    with window ``i`` at their true conditional probability.

    Returns:
        ``[orders, batch]``.
    """
    per_window = windows.probability * _convex_minorant(
        _conditional_mean_of_others(windows), windows.reference.count.unsqueeze(2)
    )
    return per_window.sum(2).masked_fill(~windows.reference.first, 0).sum(-1)


def _convex_minorant(others: Tensor, count: Tensor) -> Tensor:
    """Largest convex function below ``min(1, r / (1 + z))`` on ``z >= 0``.

    The tangent from ``(0, 1)`` touches ``r / (1 + z)`` at ``z* = (r - 1) + sqrt(r (r - 1))``;
    before it the minorant is that line, from it on the hyperbola.
    """
    r = count.clamp(min=1).to(others.dtype)
    touching = (r - 1) + (r * (r - 1)).sqrt()
    line = 1 - r * others / (1 + touching) ** 2
    return torch.where(others <= touching, line, r / (1 + others))


def _conditional_mean_of_others(windows: CandidateWindows) -> Tensor:
    """``E[Z_i | B_i]``, ``[orders, batch, tgt_len, ref_len]``."""
    q = windows.probability
    # Later windows only need the sentence to go on; earlier ones are known not to have ended it.
    # Where a survival probability vanishes, the mean is weighted with a q that vanishes faster.
    tiny = torch.finfo(q.dtype).tiny
    before = windows.end.before.clamp(min=tiny).unsqueeze(-1)
    from_here_on = q.flip(2).cumsum(2).flip(2) / before
    later, earlier = [], []
    for index, order in enumerate(windows.orders):
        later.append(shift(from_here_on[index], order, 0))
        reached = _later_rows(before, order) if windows.end.going_on is not None else 1
        until_here = (q[index] / reached).cumsum(1)
        earlier.append(_delay(until_here, order))
    mean = torch.stack(later) + torch.stack(earlier)
    for distance in range(1, windows.orders.stop - 1):
        mean = mean + shift(windows.tail_products(distance), distance, 0)
        heads = windows.head_products(distance)
        if windows.end.going_on is not None:
            heads = heads * windows.end.before.unsqueeze(-1) / _later_rows(before, distance)
        mean = mean + _delay(heads, distance)
    return mean


def _later_rows(before: Tensor, distance: int) -> Tensor:
    """``S_{i + distance}`` at row ``i``; 1 where no window of that reach exists."""
    rows = before.size(1)
    kept = before[:, min(distance, rows) :]
    return torch.cat([kept, torch.ones_like(before[:, : min(distance, rows)])], dim=1)


def _delay(tensor: Tensor, distance: int) -> Tensor:
    """Element ``[..., i, j]`` of the result is ``tensor[..., i - distance, j]``, or zero."""
    if tensor.numel() == 0:
        return tensor
    distance = min(distance, tensor.size(-2))
    return torch.nn.functional.pad(tensor, (0, 0, distance, -distance))
