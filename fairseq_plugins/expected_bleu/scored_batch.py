"""What a model's output distribution gives the objective, summed over data-parallel workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
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
    """Expected statistics of a batch, and the losses that are added.

    ``statistics``: one row for each sentence, with gradient.
    ``added``: as many for every batch of a run.
    ``logged``: sums in nats and, as ``NAME_count``, how many were summed where that is not the
    number of tokens.
    """

    statistics: BleuStatistics
    added: Sequence[AddedLoss]
    logged: dict[str, Tensor | int] = field(default_factory=dict)


def check_prefix(size: int, columns: int) -> None:
    """Raise ``ValueError`` where ``--ignore-prefix-size`` leaves nothing of a batch to train on.

    Args:
        size: the flag's value.
        columns: tokens of the longest target, ``</s>`` included.
    """
    if size >= columns:
        raise ValueError(
            f"--ignore-prefix-size {size} leaves nothing of a batch whose longest target has "
            f"{columns} tokens, </s> included: take a smaller number"
        )


MOST_ADDED = 8
"""Losses added to expected BLEU: cross-entropy, or those of a non-autoregressive model's heads."""


@dataclass(frozen=True)
class BatchSums:
    """Sums over the whole batch: scalar tensors, and BLEU's statistics with gradient."""

    statistics: BleuStatistics
    sample_size: Tensor
    sentences: Tensor
    added_counts: list[Tensor]

    @staticmethod
    def size(max_order: int) -> int:
        """How many numbers are summed: of BLEU, sizes, and counts of the added losses."""
        return 2 * max_order + 2 + 2 + MOST_ADDED

    @classmethod
    def of(
        cls, scored: ScoredBatch, sample_size: int, sum_over_workers: Callable[[Tensor], Tensor]
    ) -> BatchSums:
        """Sum over the sentences and over all workers, in one reduction.

        Args:
            scored: this worker's batch.
            sample_size: its size.
            sum_over_workers: of a vector of :meth:`size` numbers at most.

        Raises:
            ValueError: more losses are added than are summed.
        """
        if len(scored.added) > MOST_ADDED:
            raise ValueError(
                f"the model's heads give {len(scored.added)} losses beside expected BLEU; at most "
                f"{MOST_ADDED} are summed"
            )
        corpus = scored.statistics.over_corpus()
        sizes = [sample_size, scored.statistics.matches.size(0)]
        # Filled on the device: a tensor made of a list would be copied from the host.
        filled = [
            size.to(corpus.matches).reshape(1)
            if isinstance(size, Tensor)
            else corpus.matches.new_full((1,), size)
            for size in (*sizes, *(loss.count for loss in scored.added))
        ]
        sums = sum_over_workers(torch.cat([*(item.flatten() for item in corpus), *filled]))
        orders = corpus.matches.size(0)
        matches, totals, rest = sums.split([orders, orders, sums.numel() - 2 * orders])
        hypothesis_length, reference_length, size, sentences, *counts = rest
        statistics = BleuStatistics(matches, totals, hypothesis_length, reference_length)
        return cls(statistics, size, sentences, counts)
