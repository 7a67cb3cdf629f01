"""Probabilities that a hypothesis holds an n-gram of the reference at a position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from criterions.bleu.reference_ngrams import (
    ReferenceNgrams,
    length_mask,
    reference_ngrams,
    shift,
    window_products,
)


@dataclass(frozen=True)
class CandidateWindows:
    """The hypothesis' n-grams, position by position, against the n-grams of the reference.

    Time and memory are O(B T R) for each order.

    ``p_ref``: ``[batch, tgt_len, ref_len]``, probability of each reference token, 0 past the end.
    ``products``: ``[orders, batch, tgt_len, ref_len]``; element ``[n, b, i, j]`` is the
    probability that the tokens from position ``i`` on are the n-gram at reference token ``j``,
    given that the hypothesis has not ended before ``i``; 0 where an n-gram leaves the matrix.
    ``probability``: the same without the condition, ``q_i = S_i * product``.
    ``reference``: the reference's n-grams.
    ``continues``: ``[batch, tgt_len]``, ``1 - e_i`` with ``e_i`` the probability of ``</s>``; None
    where no position may end the hypothesis.
    ``survival``: ``[batch, tgt_len]``, ``S_i = prod_{j<i} (1 - e_j)``, the probability that no
    ``</s>`` stands before position ``i``.
    ``exists``: ``[batch, tgt_len]`` bool, positions before each hypothesis' ``lengths``.
    """

    p_ref: Tensor
    products: Tensor
    probability: Tensor
    reference: ReferenceNgrams
    continues: Tensor | None
    survival: Tensor
    exists: Tensor

    @property
    def orders(self) -> range:
        """The n-gram orders, from 1 on."""
        return range(1, 1 + self.products.size(0))

    def tail_products(self, distance: int) -> Tensor:
        """Probability of an n-gram's last tokens, where it may overlap an equal one before it.

        Args:
            distance: ``d``, how many positions the two occurrences lie apart.

        Returns:
            ``[orders, batch, tgt_len, ref_len]``: product of the last ``d`` factors where
            ``d < n`` is a period of the n-gram, else 0.
        """
        last = window_products(self.p_ref, distance)[-1]
        tails = [shift(last, max(0, n - distance), max(0, n - distance)) for n in self.orders]
        return torch.stack(tails).masked_fill(~self._has_period(distance), 0)

    def head_products(self, distance: int) -> Tensor:
        """As :meth:`tail_products`, for the first ``d`` factors."""
        first = window_products(self.p_ref, distance)[-1]
        return first.masked_fill(~self._has_period(distance), 0)

    def _has_period(self, distance: int) -> Tensor:
        return self.reference.periods[distance - 1].unsqueeze(2)

    def token_probabilities(self, *, count_eos: bool) -> Tensor:
        """``[batch, tgt_len]``: probability that the hypothesis has a token at each position.

        Their sum is the expected length. Without ``count_eos``, ``</s>`` is not a token.
        """
        if count_eos or self.continues is None:
            return self.survival * self.exists
        return self.survival * self.continues * self.exists

    def final_ngrams(self, eos_probabilities: Tensor, reference_lengths: Tensor) -> Tensor:
        """Probability that the hypothesis ends with the reference's last words and ``</s>``.

        An n-gram that ends in ``</s>`` occurs once at most, so this is its expected clipped count:
        ``sum_i S_{i-n+1} p[i-n+1, y_{R-n+2}] ... p[i-1, y_R] p[i, </s>]``.

        Args:
            eos_probabilities: ``[batch, tgt_len]``.
            reference_lengths: ``[batch]``, int64, words of each reference.

        Returns:
            ``[batch, orders]``; 0 for orders above the reference's length with ``</s>``.
        """
        tgt_len, ref_len = self.p_ref.shape[1:]
        ending = eos_probabilities.to(self.p_ref.dtype).masked_fill(~self.exists, 0)
        found = []
        for words in range(len(self.orders)):
            if words > ref_len:
                ending = torch.zeros_like(ending)
            elif words:
                column = (reference_lengths - words).view(-1, 1, 1)
                word = self.p_ref.gather(2, column.clamp(min=0).expand(-1, tgt_len, 1))
                ending = ending * _later(word.masked_fill(column < 0, 0).squeeze(2), words)
            found.append((ending * _later(self.survival, words)).sum(1))
        return torch.stack(found, dim=1)


def candidate_windows(
    p_ref: Tensor,
    references: Tensor,
    max_order: int,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
) -> CandidateWindows:
    """Arguments as those of :func:`criterions.expected_overlap`."""
    if p_ref.dtype in (torch.float16, torch.bfloat16):
        p_ref = p_ref.float()
    exists = length_mask(lengths, p_ref.size(1), like=p_ref)
    columns = length_mask(reference_lengths, p_ref.size(2), like=p_ref)
    p_ref = p_ref.masked_fill(~(exists.unsqueeze(2) & columns.unsqueeze(1)), 0)
    probability = products = window_products(p_ref, max_order)
    continues, survival = None, p_ref.new_ones(p_ref.shape[:2])
    if eos_probabilities is not None:
        continues = (1 - eos_probabilities.to(p_ref.dtype)).masked_fill(~exists, 1)
        survival = _later(_RunningProduct.apply(continues), 1, 1)
        probability = products * survival.unsqueeze(-1)
    reference = reference_ngrams(references, max_order, reference_lengths)
    return CandidateWindows(p_ref, products, probability, reference, continues, survival, exists)


def _later(values: Tensor, positions: int, fill: float = 0) -> Tensor:
    """``[batch, tgt_len]`` values, moved to later positions."""
    if values.size(1) == 0:
        return values
    positions = min(positions, values.size(1))
    return torch.nn.functional.pad(values, (positions, -positions), value=fill)


class _RunningProduct(torch.autograd.Function):
    """``cumprod`` over ``[batch, length]`` whose gradient does not look for zeros on the host."""

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
