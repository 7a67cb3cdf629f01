"""What either kind of model hands to the objective."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from criterions import BleuStatistics


@dataclass(frozen=True)
class ScoredBatch:
    """Statistics of a batch, and the losses that are added to ``1 - BLEU``.

    ``statistics``: a row for each candidate, with gradient.
    ``added_loss``: scalar, summed over the batch's tokens, weights included; None for nothing.
    ``logged``: scalars summed over the batch's tokens, in nats.
    """

    statistics: BleuStatistics
    added_loss: Tensor | None
    logged: dict[str, Tensor] = field(default_factory=dict)
