"""``1 - BLEU`` of a batch that may be spread over data-parallel workers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from criterions import BleuStatistics, bleu_from_statistics
from fairseq_plugins.expected_bleu.config import Settings
from fairseq_plugins.workers import sum_over_workers


@dataclass(frozen=True)
class WholeBatch:
    """Sums over a batch: BLEU's statistics with gradient, and scalar tensors of its size."""

    statistics: BleuStatistics
    sample_size: Tensor
    candidates: Tensor
    ntokens: Tensor


def whole_batch(
    corpus: BleuStatistics,
    sample_size: int,
    candidates: int,
    ntokens: int,
    worker_weight: float | None,
) -> WholeBatch:
    """Sums over all workers.

    Args:
        corpus: the statistics of this worker's batch, summed.
        sample_size, candidates, ntokens: of this worker's batch.
        worker_weight: 1, or 0 where this worker's batch will be thrown away; None to leave the
            other workers out, as in validation.
    """
    sizes = (sample_size, candidates, ntokens)
    # Filled on the device: a tensor made of a list would be copied from the host.
    filled = [corpus.matches.new_full((1,), size) for size in sizes]
    sums = torch.cat([*(item.flatten() for item in corpus), *filled])
    if worker_weight is not None:
        sums = sum_over_workers(sums * worker_weight)
    orders = corpus.matches.size(0)
    matches, totals, rest = sums.split([orders, orders, sums.numel() - 2 * orders])
    hypothesis_length, reference_length, *counts = rest
    return WholeBatch(BleuStatistics(matches, totals, hypothesis_length, reference_length), *counts)


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
