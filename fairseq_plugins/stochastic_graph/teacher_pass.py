"""The teacher-forced pass and its cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fairseq_plugins.model_pass import model_pass
from fairseq_plugins.stochastic_graph.batch import Batch
from fairseq_plugins.stochastic_graph.differentiable_costs import token_cross_entropy
from fairseq_plugins.stochastic_graph.plan import columns_of


@dataclass(frozen=True)
class TeacherPass:
    """What the model says of the reference.

    ``logits``: ``[batch, tgt_len, vocab]`` (after axes of enumerated layers).
    ``loss``: ``[batch, tgt_len]``, label-smoothed cross-entropy of each token, in nats.
    ``negative_log_likelihood``: ``[batch, tgt_len]``, the same without smoothing.
    ``counts``: ``[batch, tgt_len]`` bool, which tokens exist and are not part of the prefix.
    """

    logits: Tensor
    loss: Tensor
    negative_log_likelihood: Tensor
    counts: Tensor

    @classmethod
    def through(cls, model: Any, sources: Batch, label_smoothing: float, kept: int) -> TeacherPass:
        """Run the model.

        Args:
            model: possibly wrapped for data parallelism.
            sources: the batch, with one row for each source.
            label_smoothing: 0 for none.
            kept: tokens at the start that do not count.
        """
        logits = model_pass(model, sources.net_input, sources.prev_output_tokens).logits
        target = sources.reference.tokens
        loss, plain = token_cross_entropy(logits, target, label_smoothing)
        return cls(logits, loss, plain, sources.exists & (columns_of(target) >= kept))

    @property
    def logs(self) -> dict[str, Tensor]:
        """What to log: the negative log-likelihood, summed over the tokens that count."""
        if self.loss.dim() > 2:  # one for each value of an enumerated layer
            return {}
        return {"nll_loss": self.total(self.negative_log_likelihood.detach())}

    def total(self, per_token: Tensor) -> Tensor:
        """Sum of ``[batch, tgt_len]`` over the tokens that count."""
        return per_token.masked_fill(~self.counts, 0).sum()
