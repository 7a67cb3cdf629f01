"""What a reward judges."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from criterions.checks import check_shape, check_token_ids


@dataclass(frozen=True)
class Outputs:
    """What was emitted, and for what; ``rows = batch * samples``, samples of a source adjacent.

    ``tokens``: ``[rows, length]``, padding at the end.
    ``lengths``: ``[rows]``, tokens before ``</s>``.
    ``references``: ``[batch, ref_len]``, without a start symbol; ``</s>`` and padding at the end.
    ``reference_lengths``: ``[batch]``, tokens before ``</s>``.
    ``sources``: ``[batch, src_len]``, with ``</s>``, padding on either side.
    ``samples``: outputs for each source.
    """

    tokens: Tensor
    lengths: Tensor
    references: Tensor
    reference_lengths: Tensor
    sources: Tensor
    samples: int = 1

    def __post_init__(self) -> None:
        for name in ("tokens", "references", "sources"):
            check_token_ids(name, getattr(self, name))
        batch = self.references.size(0)
        if self.tokens.size(0) != batch * self.samples:
            raise ValueError(
                f"tokens has {self.tokens.size(0)} rows, but references has {batch}, each of which "
                f"has samples={self.samples}"
            )
        check_shape("lengths", self.lengths, [batch * self.samples])
        check_shape("reference_lengths", self.reference_lengths, [batch])
        check_shape("sources", self.sources, [batch, self.sources.size(1)])
