"""The end of the sentence as a random event: survival, expected length, expected totals.

With ``e_i`` the probability of ``</s>`` in row ``i``, the rows independent, a sentence is
still going on before row ``i`` with probability ``S_i = prod_{j<i} (1 - e_j)``.  Then
``P(L >= m) = S_{m+1}``, which gives the expected length and the expected number of n-gram
windows with their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from criterions.reference_ngrams import length_mask


@dataclass(frozen=True)
class SentenceEnd:
    """When the candidate of each sentence ends.

    ``going_on``: ``[batch, tgt_len]``, ``1 - e_i``; None where ``</s>`` plays no part.
    ``before``: ``[batch, tgt_len]``, ``S_i``, the probability that no ``</s>`` stands before row i.
    ``after``: ``[batch, tgt_len]``, ``S_{i+1}`` for rows that exist and 0 beyond them, which is
    the probability that the sentence has at least ``i + 1`` tokens (rows counted from 0).
    """

    going_on: Tensor | None
    before: Tensor
    after: Tensor

    @property
    def expected_length(self) -> Tensor:
        """``[batch]``: ``E[L]`` in tokens, ``</s>`` not counted."""
        return self.after.sum(-1)

    def expected_totals(self, orders: range) -> Tensor:
        """``[batch, orders]``: expected number of n-gram windows, ``E[max(L - n + 1, 0)]``."""
        return torch.stack([self.after[:, order - 1 :].sum(-1) for order in orders], dim=-1)


def sentence_end(
    rows: Tensor, lengths: Tensor | None = None, eos_probabilities: Tensor | None = None
) -> SentenceEnd:
    """Survival probabilities of a batch of candidates.

    Args:
        rows: ``[batch, tgt_len, ...]``; tells shape, dtype and device.
        lengths: ``[batch]``, rows that exist in each sentence (default: all).
        eos_probabilities: ``[batch, tgt_len]`` or None for candidates of fixed length.
    """
    exists = length_mask(lengths, rows.size(1), like=rows)
    if eos_probabilities is None:
        certain = torch.ones(rows.shape[:2], dtype=rows.dtype, device=rows.device)
        return SentenceEnd(None, before=certain, after=certain * exists)
    going_on = (1 - eos_probabilities.to(rows.dtype)).masked_fill(~exists, 1)
    survival = _RunningProduct.apply(going_on)
    before = torch.cat([torch.ones_like(survival[:, :1]), survival[:, :-1]], dim=1)
    return SentenceEnd(going_on, before=before, after=survival * exists)


class _RunningProduct(torch.autograd.Function):
    """``cumprod`` over ``[batch, length]`` whose gradient never asks which factors are zero.

    torch's own backward looks for zeros on the host; ``1 - e_i`` is exactly 0 in a saturated row.
    """

    @staticmethod
    def forward(ctx: Any, factors: Tensor) -> Tensor:
        products = factors.cumprod(1)
        ctx.save_for_backward(factors, products)
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        factors, products = ctx.saved_tensors
        # h_i = grad_i + factor_{i+1} h_{i+1}; the gradient of factor i is product_{i-1} h_i.
        carried = grad.clone()
        for i in range(factors.size(1) - 2, -1, -1):
            carried[:, i].addcmul_(factors[:, i + 1], carried[:, i + 1])
        carried[:, 1:] *= products[:, :-1]
        return carried
