"""A fairseq sample as the objectives see it: targets padded on the right."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """Target sentences, padding at the end.

    ``tokens``: ``[batch, tgt_len]``, with ``</s>``.
    ``lengths``: ``[batch]``, tokens before ``</s>``.
    ``num_tokens``: ``[batch]``, tokens, ``</s>`` included.
    """

    tokens: Tensor
    lengths: Tensor
    num_tokens: Tensor

    @classmethod
    def of(cls, target: Tensor, dictionary: Dictionary) -> tuple[Reference, Tensor]:
        """From ``[batch, tgt_len]`` with padding on either side.

        Returns:
            the reference, and ``[batch, tgt_len]``, the column that each column was taken from.
        """
        order = target.eq(dictionary.pad()).int().sort(dim=1, stable=True).indices
        tokens = target.gather(1, order)
        exists = tokens.ne(dictionary.pad())
        is_word = exists & tokens.ne(dictionary.eos()).cumprod(1).bool()
        return cls(tokens, is_word.sum(1), exists.sum(1)), order

    def without_prefix(self, size: int) -> Reference:
        """The sentences after their first ``size`` tokens (language tags and the like).

        At least one column stays, so that no shape is empty; the counts say what of it exists.
        """
        return Reference(
            self.tokens[:, prefix_columns(size, self.tokens.size(1)) :],
            (self.lengths - size).clamp(min=0),
            (self.num_tokens - size).clamp(min=0),
        )


@dataclass(frozen=True)
class Batch:
    """Sources ``[batch, ...]`` and their references ``[rows, ...]``.

    ``rows`` is ``batch * samples``, the samples of a source side by side.

    ``net_input``: the model's input, one row for each source.
    ``reference``: the whole target with ``</s>``, ``[rows, tgt_len]``.
    ``prev_output_tokens``: ``[rows, tgt_len]``, the decoder's input in teacher forcing.
    ``prefix_size``: of ``--ignore-prefix-size``: tokens at the start of every output that are the
    reference's, and count nowhere.
    ``samples``: rows for each source.
    """

    net_input: dict[str, Any]
    reference: Reference
    prev_output_tokens: Tensor
    prefix_size: int = 0
    samples: int = 1

    @classmethod
    def of(cls, sample: dict[str, Any], dictionary: Dictionary, prefix_size: int = 0) -> Batch:
        """One row for each source of a fairseq sample."""
        reference, order = Reference.of(sample["target"], dictionary)
        fed = sample["net_input"]["prev_output_tokens"].gather(1, order)
        net_input = {**sample["net_input"], "prev_output_tokens": fed}
        return cls(net_input, reference, fed, prefix_size)

    def repeated(self, samples: int) -> Batch:
        """``samples`` rows for each source in place of one."""
        if samples == self.samples:
            return self
        assert self.samples == 1
        names = [known.name for known in fields(Reference)]
        tensors = [self.prev_output_tokens, *(getattr(self.reference, name) for name in names)]
        fed, *target = (tensor.repeat_interleave(samples, dim=0) for tensor in tensors)
        reference = Reference(*target)
        return replace(self, reference=reference, prev_output_tokens=fed, samples=samples)

    def fed_for(self, tokens: Tensor) -> Tensor:
        """The decoder's input ``[rows, length]`` where it emits ``tokens``, of that shape."""
        return torch.cat([self.prev_output_tokens[:, :1], tokens[:, :-1]], dim=1)

    @property
    def exists(self) -> Tensor:
        """``[rows, tgt_len]`` bool: which columns hold a token of the reference."""
        return columns_of(self.reference.tokens) < self.reference.num_tokens.unsqueeze(1)

    def first_tokens(self, number: int) -> Tensor:
        """``[rows, tgt_len]`` bool: the first ``number`` tokens of each reference."""
        return self.exists & (columns_of(self.reference.tokens) < number)

    @property
    def counts(self) -> Tensor:
        """``[rows, tgt_len]`` bool: which tokens of the reference a cost counts."""
        return self.exists & (columns_of(self.reference.tokens) >= self.prefix_size)

    @property
    def scored(self) -> Reference:
        """The reference without the ignored prefix."""
        return self.reference.without_prefix(self.prefix_size)

    def after_prefix(self, columns: Tensor) -> Tensor:
        """``[rows, length, ...]`` without the columns of the ignored prefix; at least one stays."""
        return columns[:, prefix_columns(self.prefix_size, columns.size(1)) :]

    def size_after_prefix(self, sizes: Tensor) -> Tensor:
        """``[rows]``: so many tokens less the ignored prefix."""
        return (sizes - self.prefix_size).clamp(min=0)


def prefix_columns(size: int, columns: int) -> int:
    """How many columns to cut off for a prefix of ``size`` tokens: all but one at most."""
    return min(size, columns - 1)


def columns_of(tokens: Tensor) -> Tensor:
    """``[length]``: the columns' numbers of ``[rows, length]``."""
    return torch.arange(tokens.size(1), device=tokens.device)


def is_special(tokens: Tensor, dictionary: Dictionary) -> Tensor:
    """Bool, the shape of ``tokens``: symbols, ``<unk>`` among them, that never match another."""
    special = torch.zeros_like(tokens, dtype=torch.bool)
    for symbol in (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()):
        special |= tokens.eq(symbol)
    return special
