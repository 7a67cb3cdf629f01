"""How much of the whole batch's loss a worker's sums are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shares:
    """Factors that make sums a worker's share of the whole batch's mean times sample size.

    fairseq adds the workers' gradients and divides by the sum of their sample sizes.

    ``per_sentence``: of sums over sentences.
    ``per_token``: of sums over tokens that are added to other terms.
    ``alone``: of a sum over tokens that is the whole loss, as fairseq's own criterions have it.
    """

    per_sentence: Tensor
    per_token: Tensor | float
    alone: float = 1.0

    @classmethod
    def of(
        cls,
        sample_size: int,
        sentences: int,
        tokens: int,
        *,
        sentence_avg: bool,
        device: torch.device,
        sum_over_workers: Callable[[Tensor], Tensor],
    ) -> Shares:
        """From the sizes of this worker's batch.

        Args:
            sample_size, sentences, tokens: of the batch.
            sentence_avg: whether the sample size counts sentences.
            device: of the model.
            sum_over_workers: for the sizes of the whole batch.
        """
        # Filled on the device: a tensor made of a list would be copied from the host.
        sizes = [
            torch.full((1,), float(size), device=device)
            for size in (sample_size, sentences, tokens)
        ]
        whole, all_sentences, all_tokens = sum_over_workers(torch.cat(sizes))
        return cls(
            per_sentence=whole / all_sentences.clamp(min=1),
            per_token=whole / all_tokens.clamp(min=1) if sentence_avg else 1.0,
        )
