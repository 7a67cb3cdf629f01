"""Rewards that are functions of n-gram counts: of token ids, on their device, or of text."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from criterions import (
    BleuStatistics,
    bleu_from_statistics,
    counted_statistics,
    gleu_from_statistics,
    increments,
    prefix_statistics,
)
from fairseq_plugins.batch import columns_of, is_special
from fairseq_plugins.rewards.reward import REWARDS, Outputs, Reward, RewardOptions
from fairseq_plugins.rewards.text_rewards import TextStatistics


class NgramReward(Reward):
    """A score of n-gram counts.

    Of ids, special symbols, ``<unk>`` among them, never match.  With ``--sentence-end ngram``,
    ``</s>`` is one more token of a reference, and of an output that reached it: an output that is
    too short or too long loses the n-grams that end in ``</s>``.  Of text, sacrebleu counts.
    """

    flags: ClassVar[frozenset[str]] = frozenset(
        {"max_order", "sentence_end", "reward_sacrebleu_tokenizer"}
    )

    def __init__(self, options: RewardOptions) -> None:
        super().__init__(options)
        self.per_token = options.reward_level == "tokens"
        self._of_text = None if self.per_token else TextStatistics(options)

    @abstractmethod
    def score(self, statistics: BleuStatistics) -> Tensor:
        """``[...]``, of statistics ``[..., orders]``."""

    def __call__(self, outputs: Outputs) -> Tensor:
        if self._of_text is None:
            return self.score(counted_statistics(**self._ids(outputs))).float()
        return self.score(self._of_text(outputs)).to(outputs.tokens.device, torch.float32)

    def increments(self, outputs: Outputs) -> Tensor:
        if not self.per_token:
            return super().increments(outputs)
        return increments(self.score(prefix_statistics(**self._ids(outputs))).float())

    def _ids(self, outputs: Outputs) -> dict[str, Any]:
        """Arguments of :func:`criterions.counted_statistics`."""
        tokens, lengths = outputs.tokens, outputs.lengths
        references, reference_lengths = outputs.references, outputs.reference_lengths
        dictionary = self.options.task.target_dictionary
        special = is_special(tokens, dictionary)
        if self.options.sentence_end == "ngram":
            end, reference_end = (
                ids.eq(dictionary.eos()) & (columns_of(ids) == sizes.unsqueeze(1))
                for ids, sizes in ((tokens, lengths), (references, reference_lengths))
            )
            special &= ~end
            lengths = lengths + end.any(1)
            reference_lengths = reference_lengths + reference_end.any(1)
        return {
            "hypotheses": tokens.masked_fill(special, len(dictionary)),  # in no reference
            "references": references.repeat_interleave(outputs.samples, dim=0),
            "lengths": lengths,
            "reference_lengths": reference_lengths.repeat_interleave(outputs.samples),
            "max_order": self.options.max_order,
        }


@REWARDS["tokens"].register("sentence_bleu")
@REWARDS["text"].register("sentence_bleu")
class SentenceBleu(NgramReward):
    """Smoothed sentence BLEU."""

    flags = NgramReward.flags | {"smoothing"}

    def score(self, statistics: BleuStatistics) -> Tensor:
        return bleu_from_statistics(*statistics, smoothing=self.options.smoothing)


@REWARDS["tokens"].register("gleu")
@REWARDS["text"].register("gleu")
class Gleu(NgramReward):
    """Minimum of n-gram precision and recall (arXiv 1609.08144)."""

    def score(self, statistics: BleuStatistics) -> Tensor:
        return gleu_from_statistics(statistics)


@REWARDS["tokens"].register("constant")
@REWARDS["text"].register("constant")
class Constant(Reward):
    """1 for every output, as a control."""

    per_token = True
    flags = SentenceBleu.flags  # so that a control differs in --reward alone

    def __call__(self, outputs: Outputs) -> Tensor:
        return torch.ones_like(outputs.lengths, dtype=torch.float32)

    def increments(self, outputs: Outputs) -> Tensor:
        """All of it at the first step, which empty outputs have as well (their ``</s>``)."""
        added = torch.zeros_like(outputs.tokens, dtype=torch.float32)
        added[:, :1] = 1
        return added
