"""Costs of the decoder's distributions themselves: cross-entropy and expected BLEU."""

from __future__ import annotations

from dataclasses import dataclass

from fairseq.data import Dictionary
from torch import Tensor

from criterions import bleu_from_statistics, expected_statistics, token_log_probabilities
from fairseq_plugins.rows import prefix_columns, rows_of, smoothed
from fairseq_plugins.stochastic_graph.batch import Batch


def token_cross_entropy(
    logits: Tensor, target: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Label-smoothed and plain cross-entropy of every token, in nats.

    Args:
        logits: ``[rows, tgt_len, vocab]``, after axes of the values of enumerated layers if any.
        target: ``[rows, tgt_len]``; any id of the vocabulary in place of padding.
        label_smoothing: 0 for none.

    Returns:
        what is minimised and the negative log-likelihood, both of the shape of ``logits`` without
        its last axis.
    """
    vocab = logits.size(-1)
    target = target.expand(logits.shape[:-1])
    picked = token_log_probabilities(logits.reshape(-1, 1, vocab), target.reshape(-1, 1))
    plain = -picked.selected.reshape(target.shape)
    uniform = -picked.mean.reshape(target.shape)
    return smoothed(plain, uniform, vocab, label_smoothing), plain


@dataclass(frozen=True)
class SentenceExpectedBleu:
    """Expected BLEU of single sentences; see :func:`criterions.expected_bleu`.

    ``dictionary``: of the target language; its special symbols never match.
    ``max_order``, ``smoothing``: of BLEU.
    ``kept``: tokens at the start that do not count.
    """

    dictionary: Dictionary
    max_order: int
    smoothing: str
    kept: int

    def __call__(self, logits: Tensor, batch: Batch, number: Tensor) -> Tensor:
        """``[rows]``, 0 to 1: exact counts, expected length, the rows taken as independent.

        Args:
            logits: ``[rows, length, vocab]``.
            batch: with a reference for each row.
            number: ``[rows]``, positions that exist in ``logits``.
        """
        scored = batch.reference.without_prefix(self.kept)
        cut = prefix_columns(self.kept, logits.size(1))
        rows = rows_of(logits[:, cut:], scored, self.dictionary.eos())
        statistics = expected_statistics(
            rows.reference_probabilities(scored, self.dictionary),
            scored.tokens,
            max_order=self.max_order,
            lengths=(number - self.kept).clamp(min=0),
            reference_lengths=scored.lengths,
            eos_probabilities=rows.log_eos.exp(),
        )
        return bleu_from_statistics(*statistics, smoothing=self.smoothing)
