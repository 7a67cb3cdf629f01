"""Tokens that were decided on before the pass with gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_plugins.rows import Reference


@dataclass(frozen=True)
class Plan:
    """What the decoder is fed, and what it emits.

    ``fed``: ``[rows, length]``, the decoder's input.
    ``emitted``: ``[rows, length]``, the token that each row of the pass emits; then padding.
    ``free``: ``[rows, length]`` bool, where that token exists and is the model's own choice.
    ``number``: ``[rows]``, tokens emitted, ``</s>`` included.
    ``lengths``: ``[rows]``, tokens before ``</s>``.
    """

    fed: Tensor
    emitted: Tensor
    free: Tensor
    number: Tensor
    lengths: Tensor

    @property
    def exists(self) -> Tensor:
        """``[rows, length]``: which columns hold an emitted token."""
        return columns_of(self.emitted) < self.number.unsqueeze(1)

    def with_references(self, reference: Reference, fed: Tensor, pad: int) -> Plan:
        """One more row for each source, after its others: the reference.

        Args:
            reference: ``[batch, tgt_len]``.
            fed: ``[batch, tgt_len]``, its ``prev_output_tokens``.
            pad: index of padding.
        """
        batch = fed.size(0)
        length = max(self.fed.size(1), fed.size(1))

        def joined(candidates: Tensor, references: Tensor, filling: int = 0) -> Tensor:
            groups = candidates.reshape(batch, -1, *candidates.shape[1:]), references.unsqueeze(1)
            if candidates.dim() == 2:
                groups = tuple(
                    torch.cat([group, group.new_full((*group.shape[:2], missing), filling)], dim=2)
                    if (missing := length - group.size(2))
                    else group
                    for group in groups
                )
            return torch.cat(groups, dim=1).flatten(0, 1)

        exists = columns_of(fed) < reference.rows.unsqueeze(1)
        return Plan(
            joined(self.fed, fed, pad),
            joined(self.emitted, reference.tokens, pad),
            joined(self.free, exists),
            joined(self.number, reference.rows),
            joined(self.lengths, reference.lengths),
        )


def columns_of(tokens: Tensor) -> Tensor:
    """``[length]``: the columns' numbers of ``[rows, length]``."""
    return torch.arange(tokens.size(1), device=tokens.device)
