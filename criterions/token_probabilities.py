"""Probabilities of a few chosen tokens at every position, without keeping a softmax.

An objective on expected n-gram counts needs the probability of the reference's
tokens only: ``[batch, tgt_len, ref_len]`` numbers out of ``[batch, tgt_len, vocab]``.
What is kept for the backward pass is the logits (which the model keeps anyway) and
one normaliser per position; the softmax is formed again, piece by piece, inside the
gradient's own memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from criterions.checks import check_logits_and_tokens

# Sentences are processed in pieces of about this many logits: small enough for a
# processor's cache, large enough to keep an accelerator busy.
_ELEMENTS_PER_PIECE = {"cpu": 1 << 18}
_ELEMENTS_PER_PIECE_ELSEWHERE = 1 << 25


class TokenLogProbabilities(NamedTuple):
    """Log-probabilities of chosen tokens, and the vocabulary's mean log-probability."""

    selected: Tensor
    """``[batch, tgt_len, tokens]``: ``log p`` of each chosen token at each position."""

    mean: Tensor
    """``[batch, tgt_len]``: mean of ``log p`` over the vocabulary (label smoothing's term)."""


def token_log_probabilities(logits: Tensor, tokens: Tensor) -> TokenLogProbabilities:
    """Log-probability of each sentence's chosen tokens at each of its positions.

    Args:
        logits: ``[batch, tgt_len, vocab]``, any floating dtype.
        tokens: ``[batch, tokens]``, integer ids within the vocabulary.

    Returns:
        ``selected`` ``[batch, tgt_len, tokens]`` and ``mean`` ``[batch, tgt_len]``, both in
        float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_logits_and_tokens(logits, tokens)
    return TokenLogProbabilities(*_TokenLogProbabilities.apply(logits, tokens))


def reference_probabilities(logits: Tensor, references: Tensor) -> Tensor:
    """Probability of each reference token at each position of the candidate.

    Args:
        logits: ``[batch, tgt_len, vocab]``, any floating dtype.
        references: ``[batch, ref_len]``, integer ids within the vocabulary; padding may hold
            any such id.

    Returns:
        ``[batch, tgt_len, ref_len]``, float32 (float64 for float64 logits):
        element ``[b, i, j]`` is ``softmax(logits[b, i])[references[b, j]]``.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    return token_log_probabilities(logits, references).selected.exp()


def _pieces(logits: Tensor) -> list[slice]:
    """Slices of the batch dimension that hold about the wished number of logits each."""
    batch, tgt_len, vocab = logits.shape
    elements = _ELEMENTS_PER_PIECE.get(logits.device.type, _ELEMENTS_PER_PIECE_ELSEWHERE)
    sentences = max(1, elements // max(1, tgt_len * vocab))
    return [slice(start, start + sentences) for start in range(0, batch, sentences)]


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        normaliser = torch.empty(logits.shape[:2], dtype=dtype, device=logits.device)
        mean = torch.empty_like(normaliser)
        for piece in _pieces(logits):
            values = logits[piece].to(dtype)
            normaliser[piece] = values.logsumexp(dim=-1)
            mean[piece] = values.mean(dim=-1)
        index = tokens.unsqueeze(1).expand(-1, logits.size(1), -1)
        selected = logits.gather(-1, index).to(dtype) - normaliser.unsqueeze(-1)
        ctx.save_for_backward(logits, tokens, normaliser)
        return selected, mean - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_selected: Tensor, grad_mean: Tensor) -> tuple[Tensor, None]:
        logits, tokens, normaliser = ctx.saved_tensors
        # d log p[v] / d logits[u] = 1[u = v] - softmax[u]; the mean adds 1 / vocab everywhere.
        softmax_weight = -(grad_selected.sum(-1) + grad_mean).unsqueeze(-1)
        uniform_weight = (grad_mean / logits.size(-1)).unsqueeze(-1)
        index = tokens.unsqueeze(1).expand(-1, logits.size(1), -1)
        grad_logits = torch.empty_like(logits)
        in_place = logits.dtype == normaliser.dtype
        for piece in _pieces(logits):
            target = grad_logits[piece] if in_place else None
            grad = torch.sub(logits[piece], normaliser[piece].unsqueeze(-1), out=target)
            grad.exp_().mul_(softmax_weight[piece]).add_(uniform_weight[piece])
            grad.scatter_add_(-1, index[piece], grad_selected[piece])
            if not in_place:
                grad_logits[piece] = grad
        return grad_logits, None
