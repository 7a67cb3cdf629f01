"""Rewards of token ids: computed on the ids' device, for the whole batch at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from criterions import bleu, gleu, increments, prefix_bleu, prefix_gleu
from fairseq_plugins.batch import columns_of, is_special
from fairseq_plugins.rewards.reward import REWARDS, Outputs, Reward, RewardOptions


class TokenReward(Reward):
    """Compares n-grams of ids; special symbols, ``<unk>`` among them, never match.

    With ``--sentence-end ngram``, ``</s>`` is one more token of a reference, and of an output that
    reached it: an output that is too short or too long loses the n-grams that end in ``</s>``.
    """

    per_token: ClassVar[bool] = True

    def __init__(self, options: RewardOptions) -> None:
        super().__init__(options)
        self._dictionary = options.task.target_dictionary

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.score(**self._arguments(outputs)).float()

    def increments(self, outputs: Outputs) -> Tensor:
        return increments(self.prefix_scores(**self._arguments(outputs)).float())

    @abstractmethod
    def score(self, **arguments: Any) -> Tensor:
        """``[batch * samples]``; arguments as of :func:`criterions.counted_statistics`."""

    @abstractmethod
    def prefix_scores(self, **arguments: Any) -> Tensor:
        """``[batch * samples, length]``; arguments as of :meth:`score`."""

    def _arguments(self, outputs: Outputs) -> dict[str, Any]:
        tokens, lengths = outputs.tokens, outputs.lengths
        references, reference_lengths = outputs.references, outputs.reference_lengths
        special = is_special(tokens, self._dictionary)
        if self.options.sentence_end == "ngram":
            end = self._end(tokens, lengths)
            reference_end = self._end(references, reference_lengths)
            special &= ~end
            lengths = lengths + end.any(1)
            reference_lengths = reference_lengths + reference_end.any(1)
        return {
            "hypotheses": tokens.masked_fill(special, len(self._dictionary)),  # in no reference
            "references": references.repeat_interleave(outputs.samples, dim=0),
            "lengths": lengths,
            "reference_lengths": reference_lengths.repeat_interleave(outputs.samples),
            "max_order": self.options.max_order,
        }

    def _end(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Bool, the shape of ``tokens``: an ``</s>`` that follows the words."""
        return tokens.eq(self._dictionary.eos()) & (columns_of(tokens) == lengths.unsqueeze(1))


@REWARDS["tokens"].register("sentence_bleu")
class TokenSentenceBleu(TokenReward):
    """Smoothed sentence BLEU."""

    def score(self, **arguments: Any) -> Tensor:
        return bleu(**arguments, level="sentence", smoothing=self.options.smoothing)

    def prefix_scores(self, **arguments: Any) -> Tensor:
        return prefix_bleu(**arguments, smoothing=self.options.smoothing)


@REWARDS["tokens"].register("gleu")
class TokenGleu(TokenReward):
    """Minimum of n-gram precision and recall (arXiv 1609.08144)."""

    def score(self, **arguments: Any) -> Tensor:
        return gleu(**arguments)

    def prefix_scores(self, **arguments: Any) -> Tensor:
        return prefix_gleu(**arguments)


@REWARDS["tokens"].register("constant")
@REWARDS["text"].register("constant")
class Constant(Reward):
    """1 for every output, as a control."""

    per_token: ClassVar[bool] = True

    def __call__(self, outputs: Outputs) -> Tensor:
        return torch.ones_like(outputs.lengths, dtype=torch.float32)

    def increments(self, outputs: Outputs) -> Tensor:
        """All of it at the first step, which empty outputs have as well (their ``</s>``)."""
        added = torch.zeros_like(outputs.tokens, dtype=torch.float32)
        added[:, :1] = 1
        return added
