"""A fairseq sample as the objectives see it: padded on the right, a row for each sample drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_plugins.reference import Reference, prefix_columns, reference_of


@dataclass(frozen=True)
class Batch:
    """Sources ``[batch, ...]`` and their references ``[rows, ...]``.

    ``rows`` is ``batch * samples``, the samples of a source side by side.

    ``net_input``: the model's input, one row for each source.
    ``reference``: the whole target with ``</s>``, padding at the end, ``[rows, tgt_len]``.
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
        reference = reference_of(sample, dictionary)
        # Padded on the right whatever side the sample has its padding on.
        fed = sample["net_input"]["prev_output_tokens"].gather(1, reference.order)
        net_input = {**sample["net_input"], "prev_output_tokens": fed}
        columns = torch.arange(fed.size(1), device=fed.device)
        reference = replace(reference, order=columns.expand_as(fed))
        return cls(net_input, reference, fed, prefix_size)

    def repeated(self, samples: int) -> Batch:
        """``samples`` rows for each source in place of one."""
        if samples == self.samples:
            return self
        assert self.samples == 1
        names = self.reference.__annotations__
        tensors = [self.prev_output_tokens, *(getattr(self.reference, name) for name in names)]
        fed, *target = (tensor.repeat_interleave(samples, dim=0) for tensor in tensors)
        reference = Reference(*target)
        return replace(self, reference=reference, prev_output_tokens=fed, samples=samples)

    @property
    def exists(self) -> Tensor:
        """``[rows, tgt_len]`` bool: which columns hold a token of the reference."""
        tokens = self.reference.tokens
        return columns_of(tokens) < self.reference.rows.unsqueeze(1)

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


def columns_of(tokens: Tensor) -> Tensor:
    """``[length]``: the columns' numbers of ``[rows, length]``."""
    return torch.arange(tokens.size(1), device=tokens.device)
