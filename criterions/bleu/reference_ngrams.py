"""What an overlap needs to know of the reference's n-grams, without a list of n-grams.

The n-gram types of a reference are never listed.  Every reference window ``j`` (the
n-gram that starts at token ``j``) stands for "occurrence number ``rank[j] + 1`` of its
type", so a sum over types ``s`` and over ``k = 1..r_s`` is a sum over the windows.  All
shapes are static: no value has to be looked at, whatever the references hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class ReferenceNgrams:
    """The reference's n-grams by their positions; every tensor's first axis is the order.

    ``valid``: ``[orders, batch, ref_len]`` bool, the window lies inside the reference.
    ``count``: ``[orders, batch, ref_len]`` int64, how often the window's n-gram stands in the
    reference (``r_s``), 0 where not valid.
    ``rank``: ``[orders, batch, ref_len]`` int64, how many equal windows precede this one.
    ``previous``, ``next``: ``[orders, batch, ref_len]`` int64, the nearest equal window before
    and after this one; the window itself where there is none.
    ``periods``: ``[distances, orders, batch, ref_len]`` bool; ``periods[d - 1]`` tells whether
    the n-gram can overlap itself at distance ``d`` (``s[k] == s[k + d]`` for all k).
    """

    valid: Tensor
    count: Tensor
    rank: Tensor
    previous: Tensor
    next: Tensor
    periods: Tensor

    @property
    def first(self) -> Tensor:
        """``[orders, batch, ref_len]`` bool: the first window of each n-gram type."""
        return self.valid & (self.rank == 0)


def length_mask(lengths: Tensor | None, size: int, like: Tensor) -> Tensor:
    """``[batch, size]`` bool: positions before each sentence's length (all, without lengths).

    Args:
        lengths: ``[batch]`` integers or None.
        size: number of positions.
        like: a tensor ``[batch, ...]`` that tells batch size and device.
    """
    positions = torch.arange(size, device=like.device)
    if lengths is None:
        return torch.ones(like.size(0), size, dtype=torch.bool, device=like.device)
    return positions < lengths.to(like.device).unsqueeze(1)


def shift(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """Element ``[..., i, j]`` of the result is ``tensor[..., i + rows, j + columns]``, or zero."""
    if tensor.numel() == 0:
        return tensor  # torch < 2 does not pad an empty side
    rows = max(-tensor.size(-2), min(rows, tensor.size(-2)))
    columns = max(-tensor.size(-1), min(columns, tensor.size(-1)))
    return functional.pad(tensor, (-columns, columns, -rows, rows))


def window_products(pairs: Tensor, max_order: int) -> Tensor:
    """Products along the diagonals: one factor per token of an n-gram.

    Args:
        pairs: ``[batch, rows, columns]``; probabilities, or booleans for equality.
        max_order: highest n-gram order.

    Returns:
        ``[max_order, batch, rows, columns]``; element ``[n, b, i, j]`` is the product of
        ``pairs[b, i + k, j + k]`` over ``k < n``, zero where the window leaves the matrix.
    """
    products = [pairs]
    for distance in range(1, max_order):
        products.append(products[-1] * shift(pairs, distance, distance))
    return torch.stack(products)


@torch.no_grad()
def reference_ngrams(
    references: Tensor, max_order: int, reference_lengths: Tensor | None = None
) -> ReferenceNgrams:
    """Find counts, ranks, neighbours and periods of all reference windows.

    Args:
        references: ``[batch, ref_len]`` integer ids.
        max_order: highest n-gram order.
        reference_lengths: ``[batch]``, tokens that count in each reference (default: all).
    """
    batch, ref_len = references.shape
    inside = length_mask(reference_lengths, ref_len, like=references)
    equal_tokens = references.unsqueeze(2) == references.unsqueeze(1)
    equal_tokens &= inside.unsqueeze(2) & inside.unsqueeze(1)
    # equal[n - 1, b, j, l]: the windows of order n at j and at l hold the same n-gram.
    equal = window_products(equal_tokens, max_order)

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

    periods = torch.zeros(max_order - 1, *valid.shape, dtype=torch.bool, device=references.device)
    for index, order in enumerate(range(1, max_order + 1)):
        for distance in range(1, order):
            # s[k] == s[k + d] for all k: the windows of order n - d at j and j + d are equal.
            overlap = equal[order - distance - 1].diagonal(distance, dim1=-2, dim2=-1)
            periods[distance - 1, index, :, : overlap.size(-1)] = overlap
            periods[distance - 1, index] &= valid[index]
    return ReferenceNgrams(
        valid=valid,
        count=equal.sum(-1),
        rank=earlier.sum(-1),
        previous=torch.where(previous < 0, own, previous),
        next=torch.where(following == ref_len, own, following),
        periods=periods,
    )
