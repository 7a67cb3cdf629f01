"""The target side of a fairseq sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairseq.data import Dictionary
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """A batch of target sentences, padding at the end whatever side the sample has it on.

    ``tokens``: ``[batch, tgt_len]``, with ``</s>``.
    ``lengths``: ``[batch]``, tokens before ``</s>``.
    ``rows``: ``[batch]``, tokens, ``</s>`` included: the rows of a teacher-forced pass.
    ``order``: ``[batch, tgt_len]``, the sample's column that each column was taken from.
    """

    tokens: Tensor
    lengths: Tensor
    rows: Tensor
    order: Tensor

    def without_prefix(self, size: int) -> Reference:
        """The sentences after their first ``size`` tokens (language tags and the like).

        At least one column stays, so that no shape is empty; the counts say what of it exists.
        """
        kept = prefix_columns(size, self.tokens.size(1))
        return Reference(
            self.tokens[:, kept:],
            (self.lengths - size).clamp(min=0),
            (self.rows - size).clamp(min=0),
            self.order[:, kept:],
        )


def prefix_columns(size: int, columns: int) -> int:
    """How many columns to cut off for a prefix of ``size`` tokens: all but one at most."""
    return min(size, columns - 1)


def reference_of(sample: dict[str, Any], dictionary: Dictionary) -> Reference:
    """The target side of a fairseq sample."""
    target = sample["target"]
    order = target.eq(dictionary.pad()).int().sort(dim=1, stable=True).indices
    tokens = target.gather(1, order)
    exists = tokens.ne(dictionary.pad())
    is_word = exists & tokens.ne(dictionary.eos()).cumprod(1).bool()
    return Reference(tokens, is_word.sum(1), exists.sum(1), order)
