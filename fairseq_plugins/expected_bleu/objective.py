"""``1 - BLEU`` of a batch that may be spread over data-parallel workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from criterions import BleuStatistics, bleu_from_statistics
from fairseq_plugins.expected_bleu.config import Settings
from fairseq_plugins.expected_bleu.scored_batch import AddedLoss, ScoredBatch
from fairseq_plugins.workers import sum_over_workers


@dataclass(frozen=True)
class WholeBatch:
    """Sums over a batch: BLEU's statistics with gradient, and scalar tensors of its size.

    ``counts``: of each loss that is added, what it is a mean over.
    """

    statistics: BleuStatistics
    sample_size: Tensor
    candidates: Tensor
    counts: list[Tensor]


def whole_batch(
    scored: ScoredBatch, corpus: BleuStatistics, sample_size: int, worker_weight: float | None
) -> WholeBatch:
    """Sums over all workers.

    Args:
        scored: this worker's batch.
        corpus: its statistics, summed.
        sample_size: its size.
        worker_weight: 1, or 0 where this worker's batch will be thrown away; None to leave the
            other workers out, as in validation.
    """
    sizes = (sample_size, scored.statistics.matches.size(0), *(loss.count for loss in scored.added))
    # Filled on the device: a tensor made of a list would be copied from the host.
    filled = [
        size.to(corpus.matches).reshape(1)
        if isinstance(size, Tensor)
        else corpus.matches.new_full((1,), size)
        for size in sizes
    ]
    sums = torch.cat([*(item.flatten() for item in corpus), *filled])
    if worker_weight is not None:
        sums = sum_over_workers(sums * worker_weight)
    orders = corpus.matches.size(0)
    matches, totals, rest = sums.split([orders, orders, sums.numel() - 2 * orders])
    hypothesis_length, reference_length, all_sample_sizes, candidates, *counts = rest
    return WholeBatch(
        BleuStatistics(matches, totals, hypothesis_length, reference_length),
        all_sample_sizes,
        candidates,
        counts,
    )


def added_losses(added: Sequence[AddedLoss], batch: WholeBatch) -> Tensor | int:
    """The weighted means as this worker's share, in the sense of :func:`bleu_loss`."""
    return sum(
        loss.weight * loss.total * (batch.sample_size / count.clamp(min=1))
        for loss, count in zip(added, batch.counts, strict=True)
    )


def bleu_loss(
    statistics: BleuStatistics, batch: WholeBatch, sample_size: int, settings: Settings
) -> tuple[Tensor, Tensor]:
    """``1 - BLEU`` as this worker's share: with the gradient, and as it is logged.

    fairseq adds the workers' gradients and divides by the sum of their sample sizes.  The
    first value, so treated, gives the gradient of the objective of the whole batch; the
    second, so treated, gives its value.

    Args:
        statistics: a row for each candidate of this worker.
        batch: the sums over all workers.
        sample_size: of this worker's batch.
        settings: level and smoothing of BLEU.
    """
    if settings.bleu_level == "corpus":
        loss = 1 - bleu_from_statistics(*batch.statistics, smoothing=settings.smoothing)
        return loss * batch.sample_size, loss * sample_size
    per_sentence = 1 - bleu_from_statistics(*statistics, smoothing=settings.smoothing)
    share = per_sentence.sum() * batch.sample_size / batch.candidates.clamp(min=1)
    return share, share
