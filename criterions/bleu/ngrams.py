"""The n-grams of a reference, and the probability that a hypothesis holds one at a position.

No list of distinct n-grams is made. Every position ``j`` of the reference stands for "occurrence
number ``rank[j] + 1`` of the n-gram that starts at ``j``", so a sum over distinct n-grams ``s`` and
over ``k = 1..r_s``, with ``r_s`` the count of ``s`` in the reference, is a sum over positions. All
shapes are static: no value is read by the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class ReferenceNgrams:
    """The n-grams of each reference by their first token, ``[orders, batch, ref_len]``.

    ``valid``: bool, the n-gram lies inside the reference.
    ``count``: int64, how often it stands in the reference (``r_s``), 0 where not valid.
    ``rank``: int64, how many equal n-grams precede this one.
    ``previous``, ``next``: int64, the nearest equal n-gram before and after this one; the n-gram
    itself where there is none.
    ``periods``: bool ``[distances, orders, batch, ref_len]``; ``periods[d - 1]`` tells whether the
    n-gram can overlap itself at distance ``d`` (``s[k] == s[k + d]`` for all k).
    """

    valid: Tensor
    count: Tensor
    rank: Tensor
    previous: Tensor
    next: Tensor
    periods: Tensor

    @property
    def first(self) -> Tensor:
        """One position for each distinct n-gram, bool."""
        return self.valid & (self.rank == 0)


@dataclass(frozen=True)
class HypothesisNgrams:
    """Probabilities of the reference's n-grams at the positions of a hypothesis.

    ``p_ref``: ``[batch, tgt_len, ref_len]``, probability of each reference token, 0 past the end.
    ``products``: ``[orders, batch, tgt_len, ref_len]``; element ``[n, b, i, j]`` is the
    probability that the tokens from position ``i`` on are the n-gram at reference token ``j``,
    given that the hypothesis has not ended before ``i``; 0 where an n-gram leaves the matrix.
    ``reference``: the reference's n-grams.
    ``continues``: ``[batch, tgt_len]``, ``1 - e_i`` with ``e_i`` the probability of ``</s>``; None
    where no position may end the hypothesis.
    ``survival``: ``[batch, tgt_len]``, ``S_i = prod_{j<i} (1 - e_j)``, the probability that no
    ``</s>`` stands before position ``i``.
    ``exists``: ``[batch, tgt_len]`` bool, positions before each hypothesis' ``lengths``.
    """

    p_ref: Tensor
    products: Tensor
    reference: ReferenceNgrams
    continues: Tensor | None
    survival: Tensor
    exists: Tensor

    @property
    def orders(self) -> range:
        """The n-gram orders, from 1 on."""
        return range(1, 1 + self.products.size(0))

    @property
    def probability(self) -> Tensor:
        """``products`` without the condition, ``q_i = S_i * product``."""
        return self.products * self.survival.unsqueeze(-1)

    def tail_products(self, distance: int) -> Tensor:
        """Probability of an n-gram's last tokens, ``distance`` positions after an equal n-gram.

        ``[orders, batch, tgt_len, ref_len]``; 0 where the two cannot overlap so.
        """
        last = self.products[distance - 1]
        tails = [shift(last, max(0, n - distance), max(0, n - distance)) for n in self.orders]
        return torch.stack(tails) * self.reference.periods[distance - 1].unsqueeze(2)

    def final_ngrams(self, eos_probabilities: Tensor, reference_lengths: Tensor) -> Tensor:
        """Probability that the hypothesis ends with the reference's last words and ``</s>``.

        An n-gram that ends in ``</s>`` occurs once at most, so this is its expected clipped count:
        ``sum_i S_{i-n+1} p[i-n+1, y_{R-n+2}] ... p[i-1, y_R] p[i, </s>]``.

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
                ending = ending * shift(word.masked_fill(column < 0, 0).squeeze(2), 0, -words)
            found.append((ending * shift(self.survival, 0, -words)).sum(1))
        return torch.stack(found, dim=1)


def hypothesis_ngrams(
    p_ref: Tensor,
    references: Tensor,
    max_order: int,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
) -> HypothesisNgrams:
    """Time and memory O(B T R) for each order; arguments of :func:`criterions.expected_overlap`."""
    if p_ref.dtype in (torch.float16, torch.bfloat16):
        p_ref = p_ref.float()
    exists = length_mask(lengths, p_ref.size(1), like=p_ref)
    columns = length_mask(reference_lengths, p_ref.size(2), like=p_ref)
    p_ref = p_ref.masked_fill(~(exists.unsqueeze(2) & columns.unsqueeze(1)), 0)
    continues, survival = None, p_ref.new_ones(p_ref.shape[:2])
    if eos_probabilities is not None:
        continues = (1 - eos_probabilities.to(p_ref.dtype)).masked_fill(~exists, 1)
        # cumprod's gradient looks for zeros on the host; here each step doubles the factors.
        survival, step = shift(continues, 0, -1, fill=1), 1
        while step < continues.size(1):
            survival = survival * shift(survival, 0, -step, fill=1)
            step *= 2
    products = ngram_products(p_ref, max_order)
    reference = reference_ngrams(references, max_order, reference_lengths)
    return HypothesisNgrams(p_ref, products, reference, continues, survival, exists)


@torch.no_grad()
def reference_ngrams(
    references: Tensor, max_order: int, reference_lengths: Tensor | None = None
) -> ReferenceNgrams:
    """Counts, ranks, neighbours and periods of all n-grams of orders 1 to N.

    Time and memory O(B R^2 N), and N^2 / 2 operations for the periods.
    """
    batch, ref_len = references.shape
    inside = length_mask(reference_lengths, ref_len, like=references)
    equal_tokens = references.unsqueeze(2) == references.unsqueeze(1)
    equal_tokens &= inside.unsqueeze(2) & inside.unsqueeze(1)
    # equal[n - 1, b, j, l]: the n-grams of order n at j and at l are the same.
    equal = ngram_products(equal_tokens, max_order)

    position = torch.arange(ref_len, device=references.device)
    earlier = equal & (position < position.unsqueeze(1))
    later = equal & (position > position.unsqueeze(1))
    own = position.expand(max_order, batch, ref_len)
    if ref_len:
        previous = position.masked_fill(~earlier, -1).amax(-1)
        following = position.masked_fill(~later, ref_len).amin(-1)
    else:
        previous, following = own - 1, own + ref_len
    valid = equal.diagonal(dim1=-2, dim2=-1)

    periods = valid.new_zeros(max_order - 1, *valid.shape)
    for order in range(2, max_order + 1):
        for distance in range(1, order):
            # s[k] == s[k + d] for all k: the n-grams of order n - d at j and j + d are equal.
            overlap = equal[order - distance - 1].diagonal(distance, dim1=-2, dim2=-1)
            periods[distance - 1, order - 1, :, : overlap.size(-1)] = overlap
            periods[distance - 1, order - 1] &= valid[order - 1]
    return ReferenceNgrams(
        valid=valid,
        count=equal.sum(-1),
        rank=earlier.sum(-1),
        previous=torch.where(previous < 0, own, previous),
        next=torch.where(following == ref_len, own, following),
        periods=periods,
    )


def ngram_products(pairs: Tensor, max_order: int) -> Tensor:
    """Products along the diagonals of ``[batch, m, n]`` probabilities, or booleans for equality.

    Element ``[n - 1, b, i, j]`` of ``[max_order, batch, m, n]`` is the product of
    ``pairs[b, i + k, j + k]`` over ``k < n``, zero where the n-gram leaves the matrix.
    """
    products = [pairs]
    for distance in range(1, max_order):
        products.append(products[-1] * shift(pairs, distance, distance))
    return torch.stack(products)


def length_mask(lengths: Tensor | None, size: int, like: Tensor) -> Tensor:
    """``[batch, size]`` bool: positions before each sentence's length (all, without lengths).

    Batch size and device are those of ``like``.
    """
    if lengths is None:
        return torch.ones(like.size(0), size, dtype=torch.bool, device=like.device)
    return torch.arange(size, device=like.device) < lengths.to(like.device).unsqueeze(1)


def shift(tensor: Tensor, down: int, left: int, fill: float = 0) -> Tensor:
    """Element ``[..., i, j]`` of the result is ``tensor[..., i + down, j + left]``, or ``fill``."""
    if tensor.numel() == 0:
        return tensor  # torch < 2 does not pad an empty side
    down = max(-tensor.size(-2), min(down, tensor.size(-2)))
    left = max(-tensor.size(-1), min(left, tensor.size(-1)))
    return functional.pad(tensor, (-left, left, -down, down), value=fill)
