"""Rewards of detokenised text: sacrebleu's metrics of single sentences."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence

import torch
from sacrebleu.metrics import BLEU, CHRF, TER
from torch import Tensor

from criterions import BleuStatistics, bleu_from_statistics, gleu_from_statistics
from fairseq_plugins.rewards.base import REWARDS, Reward, RewardOptions
from fairseq_plugins.rewards.outputs import Outputs
from fairseq_plugins.rewards.texts import Texts
from fairseq_plugins.rewards.worker_pool import Measure, WorkerPool


@functools.cache
def _bleu(max_order: int, tokenizer: str) -> BLEU:
    # Smoothing would change the counts; the effective order matters to the score alone, but
    # without it sacrebleu warns at every sentence.
    return BLEU(
        smooth_method="none", effective_order=True, max_ngram_order=max_order, tokenize=tokenizer
    )


def bleu_statistics(
    hypothesis: str, reference: str, *, max_order: int, tokenizer: str
) -> Sequence[float]:
    """sacrebleu's counts and totals of each order, and the two lengths."""
    score = _bleu(max_order, tokenizer).sentence_score(hypothesis, [reference])
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


_chrf = functools.cache(CHRF)
_ter = functools.cache(TER)


def chrf(hypothesis: str, reference: str) -> Sequence[float]:
    """chrF2 (Popovic 2015), 0 to 1."""
    return [_chrf().sentence_score(hypothesis, [reference]).score / 100]


def ter(hypothesis: str, reference: str) -> Sequence[float]:
    """1 - TER (Snover et al. 2006): 1 at most, and negative for more edits than words."""
    return [1 - _ter().sentence_score(hypothesis, [reference]).score / 100]


class TextReward(Reward):
    """Turns ids into text, measures the pairs (in workers, if asked to), and scores them."""

    def __init__(self, options: RewardOptions) -> None:
        super().__init__(options)
        self._texts = Texts(options)
        self._pool = WorkerPool(self.measure(), options.workers, f"--reward {options.name}")

    def __call__(self, outputs: Outputs) -> Tensor:
        measured = self._pool(self._texts.hypotheses(outputs), self._texts.references(outputs))
        scores = self.scores(torch.tensor(measured, dtype=torch.float64))
        return scores.to(outputs.tokens.device, torch.float32)

    @abstractmethod
    def measure(self) -> Measure:
        """What is measured of each pair."""

    @abstractmethod
    def scores(self, measured: Tensor) -> Tensor:
        """``[rows, numbers]``, what was measured, to ``[rows]``."""


class NgramReward(TextReward):
    """A function of BLEU's statistics, in sacrebleu's tokenisation."""

    def __init__(self, options: RewardOptions) -> None:
        if options.sacrebleu_tokenizer not in BLEU.TOKENIZERS:
            raise ValueError(
                f"--reward-sacrebleu-tokenizer must be one of {', '.join(BLEU.TOKENIZERS)}; "
                f"got {options.sacrebleu_tokenizer!r}"
            )
        super().__init__(options)

    def measure(self) -> Measure:
        return functools.partial(
            bleu_statistics,
            max_order=self.options.max_order,
            tokenizer=self.options.sacrebleu_tokenizer,
        )

    def statistics(self, measured: Tensor) -> BleuStatistics:
        orders = self.options.max_order
        matches, totals, lengths = measured.split([orders, orders, 2], dim=1)
        return BleuStatistics(matches, totals, lengths[:, 0], lengths[:, 1])


@REWARDS["text"].register("sentence_bleu")
class TextSentenceBleu(NgramReward):
    """Sentence BLEU, smoothed; with ``add-k`` it is sacrebleu's with k = 1."""

    def scores(self, measured: Tensor) -> Tensor:
        statistics = self.statistics(measured)
        return bleu_from_statistics(*statistics, smoothing=self.options.smoothing)


@REWARDS["text"].register("gleu")
class TextGleu(NgramReward):
    """GLEU (arXiv 1609.08144) of sacrebleu's tokens."""

    def scores(self, measured: Tensor) -> Tensor:
        return gleu_from_statistics(self.statistics(measured))


@REWARDS["text"].register("chrf")
class Chrf(TextReward):
    """chrF2."""

    def measure(self) -> Measure:
        return chrf

    def scores(self, measured: Tensor) -> Tensor:
        return measured[:, 0]


@REWARDS["text"].register("ter")
class OneMinusTer(TextReward):
    """1 - TER."""

    def measure(self) -> Measure:
        return ter

    def scores(self, measured: Tensor) -> Tensor:
        return measured[:, 0]
