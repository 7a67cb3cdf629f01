"""Probabilities of tokens under ``[batch, tgt_len, vocab]`` logits, without keeping a softmax.

Saved for the backward pass are the logits (which the model has anyway) and two numbers for each
position; the softmax is formed again, piece by piece, inside the gradient's own memory. Time is
O(B T V), memory besides logits and gradient that of the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from criterions.checks import check_logits_and_tokens
from criterions.second_derivatives import differentiable_gradients

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


def label_smoothed(
    negative_log_likelihood: Tensor, uniform: Tensor, epsilon: float, vocabulary_size: int = 0
) -> Tensor:
    """Label-smoothed cross-entropy: ``(1 - e) * negative_log_likelihood + e * uniform``.

    Args:
        negative_log_likelihood: of the target, any shape.
        uniform: mean over the vocabulary of the negative log-probabilities, the same shape; it may
            be infinite, as where a logit is, if ``epsilon`` is 0.
        epsilon: probability that is spread over the vocabulary, 0 for none.
        vocabulary_size: V, if ``epsilon`` is spread over all tokens but the target's, as in
            fairseq's ``label_smoothed_cross_entropy``: ``e = epsilon * V / (V - 1)``.  Without it
            ``e = epsilon``, as in ``nat_loss``: the target has its share, too.
    """
    if epsilon == 0:
        return negative_log_likelihood
    if vocabulary_size:
        epsilon *= vocabulary_size / (vocabulary_size - 1)
    return (1 - epsilon) * negative_log_likelihood + epsilon * uniform


class TokenCategorical(Distribution):
    """Distribution of one token at every position; a drop-in for ``Categorical``.

    ``torch.distributions.Categorical(logits=...)`` keeps a normalised copy of the logits, and its
    gradient a softmax of that size; this one keeps neither.  Logits of minus infinity exclude a
    token; every position needs at least one finite logit.

    Args:
        logits: ``[batch, tgt_len, vocab]`` (or ``[..., vocab]``), any floating dtype.  Contiguous
            logits are used in place; others are copied.
        validate_args: check logits and values as ``torch.distributions`` does, at the price of a
            wait for the device on every call.

    Raises:
        ValueError: the logits are not floating or have no vocabulary axis.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool = False) -> None:
        if logits.dim() < 1 or logits.size(-1) == 0 or not logits.is_floating_point():
            raise ValueError(
                "logits must be a floating tensor [batch, tgt_len, vocab]; "
                f"got {logits.dtype} of shape {list(logits.shape)}"
            )
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, the excluded ones included."""
        return self.logits.size(-1)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Integers from 0 to ``vocabulary_size - 1``."""
        return constraints.integer_interval(0, self.vocabulary_size - 1)

    @property
    def mode(self) -> Tensor:
        """The likeliest token of each position, int64 ``batch_shape``."""
        return self.logits.detach().argmax(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TokenCategorical:
        """The same distribution for a larger batch shape, without a copy of the logits."""
        logits = self.logits.expand(*batch_shape, self.vocabulary_size)
        expanded = TokenCategorical(logits, validate_args=False)
        expanded._validate_args = self._validate_args
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """``log p(value)``, with gradient to the logits.

        Args:
            value: ids within the vocabulary, ``batch_shape``, after axes of samples.

        Returns:
            the shape of ``value``, float32 (float64 for float64 logits); minus infinity for
            excluded tokens.
        """
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self._batch_shape)
        sample_axes = len(shape) - len(self._batch_shape)
        if shape[sample_axes:] != self._batch_shape:
            return self.expand(shape[sample_axes:]).log_prob(value)
        # All samples of a position are looked up at once.
        samples = value.long().expand(shape)
        samples = samples.reshape(shape[:sample_axes].numel(), self._batch_shape.numel()).t()
        selected = token_log_probabilities(self._positions(), samples).selected
        return selected.squeeze(1).t().reshape(shape)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw tokens: int64 ``[*sample_shape, *batch_shape]``, no wait for the device."""
        sample_shape = torch.Size(sample_shape)
        logits = self._positions()
        drawn = logits.new_empty(sample_shape.numel(), logits.size(0), dtype=torch.int64)
        for piece in _pieces(logits):
            scores = logits[piece, 0].to(_wide(logits))
            for draw in drawn:
                # argmax(log p + Gumbel noise); torch.multinomial would wait for the device.
                noise = torch.empty_like(scores).exponential_()
                noise.clamp_(min=torch.finfo(scores.dtype).tiny)
                draw[piece] = (scores - noise.log_()).argmax(-1)
        return drawn.reshape(self._extended_shape(sample_shape))

    @torch.no_grad()
    def entropy(self) -> Tensor:
        """Entropy in nats, ``batch_shape``, float32 (float64 for float64 logits); no gradient."""
        logits = self._positions()
        entropy = logits.new_empty(logits.size(0), dtype=_wide(logits))
        for piece in _pieces(logits):
            log_probs = logits[piece, 0].to(entropy.dtype).log_softmax(-1)
            # Where p = 0, p log p = 0; the product would be NaN.
            products = log_probs.exp().mul_(log_probs)
            entropy[piece] = -products.masked_fill_(log_probs.isneginf(), 0).sum(-1)
        return entropy.reshape(self._batch_shape)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All tokens, ``[vocab, *batch_shape]`` (``[vocab, 1, ...]`` without ``expand``)."""
        values = torch.arange(self.vocabulary_size, device=self.logits.device)
        values = values.reshape(-1, *[1] * len(self._batch_shape))
        return values.expand(-1, *self._batch_shape) if expand else values

    def _positions(self) -> Tensor:
        """``[positions, 1, vocab]``."""
        return self.logits.reshape(self._batch_shape.numel(), 1, self.logits.size(-1))


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _pieces(logits: Tensor) -> list[slice]:
    """Slices of the batch dimension that hold about the wished number of logits each."""
    batch, tgt_len, vocab = logits.shape
    elements = _ELEMENTS_PER_PIECE.get(logits.device.type, _ELEMENTS_PER_PIECE_ELSEWHERE)
    sentences = max(1, elements // max(1, tgt_len * vocab))
    return [slice(start, start + sentences) for start in range(0, batch, sentences)]


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        # The largest logit is subtracted first: a normaliser that contains it is rounded to its
        # size, and the probability that is left beside a likely token would be that error.
        peak = logits.new_empty(logits.shape[:2], dtype=_wide(logits))
        total, mean = torch.empty_like(peak), torch.empty_like(peak)
        for piece in _pieces(logits):
            peak[piece] = logits[piece].amax(-1)
            values = logits[piece] - peak[piece].unsqueeze(-1)
            mean[piece] = values.mean(-1)
            total[piece] = values.exp_().sum(-1)
        selected = logits.gather(-1, _index(tokens, logits)) - peak.unsqueeze(-1)
        ctx.save_for_backward(logits, tokens, peak, total)
        return selected - total.log().unsqueeze(-1), mean - total.log()

    @staticmethod
    def backward(ctx: Any, grad_selected: Tensor, grad_mean: Tensor) -> tuple[Tensor | None, ...]:
        logits, tokens, peak, total = ctx.saved_tensors
        if torch.is_grad_enabled():  # under create_graph
            return differentiable_gradients(_plain, (logits, tokens), grad_selected, grad_mean)
        # d log p[v] / d logits[u] = 1[u = v] - softmax[u]; the mean adds 1 / vocab everywhere.
        weight = (-(grad_selected.sum(-1) + grad_mean) / total).unsqueeze(-1)
        uniform_weight = (grad_mean / logits.size(-1)).unsqueeze(-1)
        index = _index(tokens, logits)
        grad_logits = torch.empty_like(logits)
        in_place = logits.dtype == peak.dtype
        for piece in _pieces(logits):
            target = grad_logits[piece] if in_place else None
            grad = torch.sub(logits[piece], peak[piece].unsqueeze(-1), out=target)
            grad.exp_().mul_(weight[piece]).add_(uniform_weight[piece])
            grad.scatter_add_(-1, index[piece], grad_selected[piece])
            if not in_place:
                grad_logits[piece] = grad
        return grad_logits, None


def _plain(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What :class:`_TokenLogProbabilities` computes, with a softmax in memory."""
    log_probs = logits.to(_wide(logits)).log_softmax(-1)
    return log_probs.gather(-1, _index(tokens, logits)), log_probs.mean(-1)


def _index(tokens: Tensor, logits: Tensor) -> Tensor:
    """``[batch, tgt_len, tokens]``: the same tokens at every position."""
    return tokens.unsqueeze(1).expand(-1, logits.size(1), -1)
