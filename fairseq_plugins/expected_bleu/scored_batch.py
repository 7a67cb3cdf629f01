"""What either kind of model hands to the objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from criterions import BleuStatistics


@dataclass(frozen=True)
class AddedLoss:
    """A loss that is added to ``1 - BLEU``: ``weight * total / count``, over all workers.

    ``total``: scalar with gradient, summed over what is predicted in the batch (tokens,
    sentences).
    ``count``: how many were summed, a number or a scalar on the device.
    ``weight``: of the mean.
    """

    total: Tensor
    count: Tensor | int
    weight: float


@dataclass(frozen=True)
class ScoredBatch:
    """Statistics of a batch, and the losses beside them.

    ``statistics``: a row for each candidate, with gradient.
    ``added``: as many for every batch of a run.
    ``logged``: sums in nats and, as ``NAME_count``, how many were summed where that is not the
    number of tokens.
    """

    statistics: BleuStatistics
    added: Sequence[AddedLoss]
    logged: dict[str, Tensor | int] = field(default_factory=dict)
