"""What every value of the expected overlap starts from: window probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from criterions.reference_ngrams import (
    ReferenceNgrams,
    length_mask,
    reference_ngrams,
    shift,
    window_products,
)
from criterions.sentence_end import SentenceEnd, sentence_end


@dataclass(frozen=True)
class CandidateWindows:
    """The windows of independent candidate rows against the windows of the reference.

    ``products``: ``[orders, batch, tgt_len, ref_len]``; element ``[n, b, i, j]`` is the
    probability that the tokens from row ``i`` on are the n-gram at reference token ``j``, given
    that the sentence has not ended before row ``i``; 0 where a window sticks out.
    ``probability``: the same without the condition, ``q_i = S_i * product``.
    ``reference``: the reference's n-grams.
    ``end``: the law of the candidates' end.
    """

    p_ref: Tensor
    products: Tensor
    probability: Tensor
    reference: ReferenceNgrams
    end: SentenceEnd

    @property
    def orders(self) -> range:
        """The n-gram orders, consecutive."""
        return self.reference.orders

    def tail_products(self, distance: int) -> Tensor:
        """Probability of a window's last tokens, where its n-gram may overlap itself.

        Args:
            distance: how many tokens two overlapping occurrences lie apart (``d``).

        Returns:
            ``[orders, batch, tgt_len, ref_len]``: product of the window's last ``d`` factors where
            ``d < n`` is a period of the n-gram, else 0.
        """
        last = window_products(self.p_ref, range(distance, distance + 1))[0]
        tails = [shift(last, max(0, n - distance), max(0, n - distance)) for n in self.orders]
        return torch.stack(tails).masked_fill(~self.self_overlap(distance), 0)

    def head_products(self, distance: int) -> Tensor:
        """As :meth:`tail_products`, for the window's first ``d`` factors."""
        first = window_products(self.p_ref, range(distance, distance + 1))
        return first.masked_fill(~self.self_overlap(distance), 0)

    def self_overlap(self, distance: int) -> Tensor:
        """``[orders, batch, 1, ref_len]`` bool: the n-gram may overlap itself at this distance."""
        return self.reference.periods[distance - 1].unsqueeze(2)


def candidate_windows(
    p_ref: Tensor,
    references: Tensor,
    orders: range,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
) -> CandidateWindows:
    """Window probabilities of independent rows; arguments as in ``expected_overlap``."""
    if p_ref.dtype in (torch.float16, torch.bfloat16):
        p_ref = p_ref.float()
    rows = length_mask(lengths, p_ref.size(1), like=p_ref).unsqueeze(2)
    columns = length_mask(reference_lengths, p_ref.size(2), like=p_ref).unsqueeze(1)
    p_ref = p_ref.masked_fill(~(rows & columns), 0)
    end = sentence_end(p_ref, lengths, eos_probabilities)
    products = window_products(p_ref, orders)
    probability = products
    if end.going_on is not None:
        probability = products * end.before.unsqueeze(-1)
    reference = reference_ngrams(references, orders, reference_lengths)
    return CandidateWindows(p_ref, products, probability, reference, end)
