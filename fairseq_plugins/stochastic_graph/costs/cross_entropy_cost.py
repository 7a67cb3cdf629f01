"""``--cost cross_entropy``, which other costs may add, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from criterions import token_log_probabilities
from criterions.token_categorical import label_smoothed
from fairseq_plugins.batch import Batch, columns_of
from fairseq_plugins.stochastic_graph.costs.cost import COSTS, Cost, Logs
from fairseq_plugins.stochastic_graph.node_estimators import FED
from fairseq_plugins.stochastic_graph.rollout import Rollout
from fairseq_plugins.stochastic_graph.scored_pass import ScoredPass


@dataclass(frozen=True)
class TokenLosses:
    """Cross-entropy of every token of the reference, in nats.

    ``smoothed``, ``plain``: ``[rows, tgt_len]``, after axes of the values of enumerated layers if
    any; with label smoothing and without.
    ``counts``: ``[rows, tgt_len]`` bool, which tokens exist and are not part of the prefix.
    """

    smoothed: Tensor
    plain: Tensor
    counts: Tensor

    @classmethod
    def of(cls, logits: Tensor, batch: Batch, label_smoothing: float) -> TokenLosses:
        """Of logits ``[rows, tgt_len, vocab]``, after axes of enumerated layers if any."""
        vocab = logits.size(-1)
        # Padding, too, is an id of the vocabulary.
        target = batch.reference.tokens.expand(logits.shape[:-1])
        picked = token_log_probabilities(logits.reshape(-1, 1, vocab), target.reshape(-1, 1))
        plain = -picked.selected.reshape(target.shape)
        uniform = -picked.mean.reshape(target.shape)
        smoothed = label_smoothed(plain, uniform, label_smoothing, vocab)
        return cls(smoothed, plain, batch.counts)

    @property
    def probabilities(self) -> Tensor:
        """``[rows, tgt_len]``: of each token; a mean over enumerated values.  No gradient."""
        found = (-self.plain.detach()).exp()
        return found if found.dim() == 2 else found.flatten(0, -3).mean(0)

    def total(self, losses: Tensor) -> Tensor:
        """Sum of ``[rows, tgt_len]`` over the tokens that count."""
        return losses.masked_fill(~self.counts, 0).sum()

    @property
    def logs(self) -> Logs:
        """The negative log-likelihood, summed; none where it has one for each enumerated value."""
        return {} if self.plain.dim() > 2 else {"nll_loss": self.total(self.plain.detach())}


@COSTS.register("cross_entropy")
class CrossEntropy(Cost):
    """Label-smoothed cross-entropy of the reference's tokens."""

    per_token: ClassVar[bool] = True
    bears_enumeration: ClassVar[bool] = True

    def record(self, done: ScoredPass, rollout: Rollout, greedy: Rollout | None) -> Logs:
        settings, batch = self.settings, rollout.batch
        if settings.records_tokens:
            # The last token is fed to no one.
            is_fed = columns_of(rollout.tokens) < batch.reference.num_tokens.unsqueeze(1) - 1
            done.record_tokens(FED, rollout.tokens, rollout.action_mask & is_fed)
        losses = TokenLosses.of(done.logits, batch, settings.label_smoothing)
        before = [FED] if settings.records_tokens else []
        done.graph.cost("cross_entropy", losses.smoothed, mask=losses.counts, before=before)
        if settings.feed != "teacher" or settings.target != "reference":
            return {}
        return {name: total / batch.samples for name, total in losses.logs.items()}

    def validate(
        self, sources: Batch, logits: Tensor, greedy: Callable[[], Rollout]
    ) -> tuple[Tensor, Logs]:
        losses = TokenLosses.of(logits, sources, self.settings.label_smoothing)
        return losses.smoothed.masked_fill(~losses.counts, 0).sum(-1), losses.logs
