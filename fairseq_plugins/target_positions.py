"""What the objectives of ``criterions`` need of a decoder's distributions at the positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions import token_log_probabilities
from fairseq_plugins.reference import Reference


@dataclass(frozen=True)
class Rows:
    """What the objectives need of a decoder's distributions, a row per position.

    ``log_reference``: ``[batch, rows, tgt_len]``, log-probability of each target token, ``</s>``
    included, float32.
    ``log_eos``: ``[batch, rows]``.
    ``log_mean``: ``[batch, rows]``, mean log-probability over the vocabulary.
    """

    log_reference: Tensor
    log_eos: Tensor
    log_mean: Tensor

    def reordered(self, order: Tensor) -> Rows:
        """Take the rows ``order`` ``[batch, rows]`` of each sentence."""
        by_token = order.unsqueeze(2).expand(-1, -1, self.log_reference.size(2))
        return Rows(
            self.log_reference.gather(1, by_token),
            self.log_eos.gather(1, order),
            self.log_mean.gather(1, order),
        )

    def reference_probabilities(self, reference: Reference, dictionary: Dictionary) -> Tensor:
        """``[batch, rows, tgt_len]``: as the objectives take it; special symbols never match."""
        special = torch.zeros_like(reference.tokens, dtype=torch.bool)
        for symbol in (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()):
            special |= reference.tokens.eq(symbol)
        return self.log_reference.exp().masked_fill(special.unsqueeze(1), 0)


@dataclass(frozen=True)
class FedRows:
    """The decoder's rows, given a prefix.

    ``number``: ``[batch]``, rows that exist, the one for ``</s>`` included.
    ``words``: ``[batch]``, tokens of the prefix without ``</s>``.
    """

    rows: Rows
    number: Tensor
    words: Tensor


def rows_of(logits: Tensor, reference: Reference, eos: int) -> Rows:
    """Pick from ``logits`` ``[batch, rows, vocab]`` what the objectives need."""
    ends = torch.full_like(reference.tokens[:, :1], eos)
    picked = token_log_probabilities(logits, torch.cat([ends, reference.tokens], dim=1))
    return Rows(picked.selected[..., 1:], picked.selected[..., 0], picked.mean)


def cross_entropy(
    rows: Rows, reference: Reference, vocab: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Label-smoothed and plain cross-entropy of teacher-forced rows, in nats, summed over tokens.

    The smoothed loss is that of fairseq's ``label_smoothed_cross_entropy``: a token other than
    the target's gets ``label_smoothing / (vocab - 1)`` of the probability.

    Args:
        rows: one row per target token, in the target's order.
        reference: the target, ``[batch, tgt_len]``; padding does not count.
        vocab: size of the vocabulary.
        label_smoothing: 0 for none.

    Returns:
        two scalars: the loss to minimise, the negative log-likelihood.
    """
    columns = torch.arange(reference.tokens.size(1), device=reference.tokens.device)
    is_token = columns < reference.rows.unsqueeze(1)
    log_target = rows.log_reference.diagonal(dim1=1, dim2=2)
    negative_log_likelihood = -log_target.masked_fill(~is_token, 0).sum()
    uniform = -rows.log_mean.masked_fill(~is_token, 0).sum()
    return (
        smoothed(negative_log_likelihood, uniform, vocab, label_smoothing),
        negative_log_likelihood,
    )


def smoothed(
    negative_log_likelihood: Tensor, uniform: Tensor, vocab: int, label_smoothing: float
) -> Tensor:
    """Label-smoothed cross-entropy from its two parts, of any one shape.

    Args:
        negative_log_likelihood: of the target.
        uniform: mean over the vocabulary of the negative log-probabilities.
        vocab: size of the vocabulary.
        label_smoothing: 0 for none.
    """
    if label_smoothing == 0:
        return negative_log_likelihood
    others = label_smoothing / (vocab - 1)
    target = (1 - label_smoothing - others) * negative_log_likelihood
    return target + others * vocab * uniform
