"""``--cost expected_bleu``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from criterions import bleu_from_statistics
from fairseq_plugins.batch import Batch
from fairseq_plugins.expected_bleu.autoregressive import (
    PositionLogProbs,
    autoregressive_statistics,
)
from fairseq_plugins.stochastic_graph.costs.cost import COSTS, Cost, Logs
from fairseq_plugins.stochastic_graph.node_estimators import FED
from fairseq_plugins.stochastic_graph.rollout import Rollout
from fairseq_plugins.stochastic_graph.scored_pass import ScoredPass


@COSTS.register("expected_bleu")
class ExpectedBleu(Cost):
    """``1 - BLEU`` of the decoder's distributions; see :func:`criterions.expected_bleu`.

    Exact expected counts, expected length, positions taken as independent.
    """

    def record(self, done: ScoredPass, rollout: Rollout, greedy: Rollout | None) -> Logs:
        if self.settings.records_tokens:
            # The last token, too: whether it is </s> decides on how many positions there are.
            done.record_tokens(FED, rollout.tokens, rollout.action_mask)
        bleu = self.sentence_bleu(done.logits, rollout.batch, rollout.num_tokens)
        done.graph.cost("expected_bleu", 1 - bleu)
        return {}

    def validate(
        self, sources: Batch, logits: Tensor, greedy: Callable[[], Rollout]
    ) -> tuple[Tensor, Logs]:
        bleu = self.sentence_bleu(logits, sources, sources.reference.num_tokens)
        return 1 - bleu, {"expected_bleu": bleu.sum()}

    def sentence_bleu(self, logits: Tensor, batch: Batch, num_tokens: Tensor) -> Tensor:
        """``[rows]``, 0 to 1.

        Args:
            logits: ``[rows, length, vocab]``.
            batch: with a reference for each row.
            num_tokens: ``[rows]``, positions that exist in ``logits``.
        """
        scored, eos = batch.scored, self.dictionary.eos()
        statistics = autoregressive_statistics(
            PositionLogProbs.of(batch.after_prefix(logits), scored, eos),
            scored,
            self.dictionary,
            num_tokens=batch.size_after_prefix(num_tokens),
            max_order=self.settings.max_order,
            count_eos=self.settings.sentence_end == "ngram",
        )
        return bleu_from_statistics(*statistics, smoothing=self.settings.smoothing)
