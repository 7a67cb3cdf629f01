"""Probabilities of tokens under ``[batch, tgt_len, vocab]`` logits, without keeping a softmax.

Saved for the backward pass are the logits (which the model has anyway) and two numbers for each
position; the softmax is formed again, piece by piece, inside the gradient's own memory. Time is
O(B T V), memory besides logits and gradient that of the result.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
    return TokenLogProbabilities(*_TokenLogProbabilities.apply(logits, tokens, _Policy())[:2])


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
    token; every position needs at least one finite logit.  :meth:`log_prob` of one value for each
    position computes the entropy along with it.

    Args:
        logits: ``[batch, tgt_len, vocab]`` (or ``[..., vocab]``), any floating dtype.  Contiguous
            logits are used in place; others are copied.
        validate_args: check logits and values as ``torch.distributions`` does, at the price of a
            wait for the device on every call.
        temperature: the logits are divided by it.
        excluded: tokens that have no probability, each with a boolean mask of the batch shape, True
            where that is so; None: everywhere.  Takes no copy of the logits.

    Raises:
        ValueError: the logits are not floating or have no vocabulary axis, or a mask has another
            shape.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    has_enumerate_support = True

    def __init__(
        self,
        logits: Tensor,
        validate_args: bool = False,
        *,
        temperature: float = 1.0,
        excluded: Mapping[int, Tensor | None] | None = None,
    ) -> None:
        if logits.dim() < 1 or logits.size(-1) == 0 or not logits.is_floating_point():
            raise ValueError(
                "logits must be a floating tensor [batch, tgt_len, vocab]; "
                f"got {logits.dtype} of shape {list(logits.shape)}"
            )
        self.logits = logits
        self.temperature, self.excluded = temperature, dict(excluded or {})
        for token, mask in self.excluded.items():
            if mask is not None and mask.shape != logits.shape[:-1]:
                raise ValueError(
                    f"the mask of excluded token {token} must be {list(logits.shape[:-1])}; "
                    f"got {list(mask.shape)}"
                )
        rows = [
            (token, None if mask is None else mask.reshape(-1, 1))
            for token, mask in self.excluded.items()
        ]
        self._policy = _Policy(temperature, tuple(rows))
        self._entropy: Tensor | None = None
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
        logits = self._positions().detach()
        likeliest = logits.new_empty(logits.shape[:2], dtype=torch.int64)
        for piece in _pieces(logits):
            likeliest[piece] = self._policy.values(logits, piece).argmax(-1)
        return likeliest.reshape(self._batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TokenCategorical:
        """The same distribution for a larger batch shape, without a copy of the logits."""
        logits = self.logits.expand(*batch_shape, self.vocabulary_size)
        excluded = {
            token: None if mask is None else mask.expand(batch_shape)
            for token, mask in self.excluded.items()
        }
        expanded = TokenCategorical(logits, temperature=self.temperature, excluded=excluded)
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
        logits = self._positions()
        check_logits_and_tokens(logits, samples)
        selected, _, entropy = _TokenLogProbabilities.apply(
            logits, samples, self._policy, sample_axes == 0
        )
        if sample_axes == 0:
            self._entropy = entropy.reshape(self._batch_shape)
        log_prob: Tensor = selected.squeeze(1).t().reshape(shape)
        return log_prob

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw tokens: int64 ``[*sample_shape, *batch_shape]``, no wait for the device."""
        sample_shape = torch.Size(sample_shape)
        logits = self._positions()
        drawn = logits.new_empty(sample_shape.numel(), logits.size(0), dtype=torch.int64)
        for piece in _pieces(logits):
            scores = self._policy.values(logits, piece)[:, 0]
            for draw in drawn:
                # argmax(log p + Gumbel noise); torch.multinomial would wait for the device.
                noise = torch.empty_like(scores).exponential_()
                noise.clamp_(min=torch.finfo(scores.dtype).tiny)
                draw[piece] = (scores - noise.log_()).argmax(-1)
        return drawn.reshape(self._extended_shape(sample_shape))

    @torch.no_grad()
    def entropy(self) -> Tensor:
        """Entropy in nats, ``batch_shape``, float32 (float64 for float64 logits); no gradient."""
        if self._entropy is None:
            logits = self._positions().detach()
            nothing = torch.empty(len(logits), 0, dtype=torch.int64, device=logits.device)
            entropy = _TokenLogProbabilities.apply(logits, nothing, self._policy, True)[2]
            self._entropy = entropy.reshape(self._batch_shape)
        return self._entropy

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


class _Policy(NamedTuple):
    """What is done to logits ``[batch, tgt_len, vocab]`` before the softmax.

    ``excluded``: tokens, each with its mask ``[batch, tgt_len]``, or None for everywhere.
    """

    temperature: float = 1.0
    excluded: tuple[tuple[int, Tensor | None], ...] = ()

    def values(self, logits: Tensor, piece: slice = slice(None)) -> Tensor:
        """The logits of a piece, at least float32, for the softmax; the piece itself or a copy."""
        values = logits[piece].to(_wide(logits))
        if self.temperature != 1:
            values = values / self.temperature
        elif self.excluded and values.dtype == logits.dtype:
            values = values.clone()
        for token, mask in self.excluded:
            column = values[..., token]
            if mask is None:
                column.fill_(-torch.inf)
            else:
                column.masked_fill_(mask[piece], -torch.inf)
        return values

    def excludes(self, tokens: Tensor) -> Tensor | None:
        """``[batch, tgt_len or 1, tokens]``: which of ``[batch, tokens]`` have no probability."""
        found = None
        for token, mask in self.excluded:
            one = tokens.eq(token).unsqueeze(1)
            one = one if mask is None else one & mask.unsqueeze(-1)
            found = one if found is None else found | one
        return found


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, policy: _Policy, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        # The largest logit is subtracted first: a normaliser that contains it is rounded to its
        # size, and the probability that is left beside a likely token would be that error.
        peak = logits.new_empty(logits.shape[:2], dtype=_wide(logits))
        total, mean = torch.empty_like(peak), torch.empty_like(peak)
        mean_log = torch.zeros_like(peak)
        for piece in _pieces(logits):
            values = policy.values(logits, piece)
            peak[piece] = values.amax(-1)
            values = values - peak[piece].unsqueeze(-1)
            mean[piece] = values.mean(-1)
            if with_entropy:
                weights = values.exp()
                total[piece] = weights.sum(-1)
                # Where p = 0, p log p = 0; the product would be NaN.
                weights.mul_(values.clamp_(min=torch.finfo(values.dtype).min))
                mean_log[piece] = weights.sum(-1) / total[piece]
            else:
                total[piece] = values.exp_().sum(-1)
        selected = logits.gather(-1, _index(tokens, logits)).to(peak.dtype) / policy.temperature
        selected = selected - peak.unsqueeze(-1) - total.log().unsqueeze(-1)
        if (excluded := policy.excludes(tokens)) is not None:
            selected = selected.masked_fill(excluded, -torch.inf)
        ctx.save_for_backward(logits, tokens, peak, total)
        ctx.policy = policy
        entropy = total.log() - mean_log
        ctx.mark_non_differentiable(entropy)
        return selected, mean - total.log(), entropy

    @staticmethod
    def backward(
        ctx: Any, grad_selected: Tensor, grad_mean: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, tokens, peak, total = ctx.saved_tensors
        policy: _Policy = ctx.policy
        if torch.is_grad_enabled():  # under create_graph
            plain = functools.partial(_plain, policy=policy)
            gradients = differentiable_gradients(plain, (logits, tokens), grad_selected, grad_mean)
            return (*gradients, None, None)
        if (excluded := policy.excludes(tokens)) is not None:
            grad_selected = grad_selected.masked_fill(excluded, 0)
        # d log p[v] / d logits[u] = 1[u = v] - softmax[u]; the mean adds 1 / vocab everywhere.
        weight = (-(grad_selected.sum(-1) + grad_mean) / total).unsqueeze(-1)
        uniform_weight = (grad_mean / logits.size(-1)).unsqueeze(-1)
        index = _index(tokens, logits)
        grad_logits = torch.empty_like(logits)
        in_place = logits.dtype == peak.dtype
        for piece in _pieces(logits):
            target = grad_logits[piece] if in_place else None
            grad = torch.sub(policy.values(logits, piece), peak[piece].unsqueeze(-1), out=target)
            grad.exp_().mul_(weight[piece])
            if not policy.excluded:
                grad.add_(uniform_weight[piece])
            grad.scatter_add_(-1, index[piece], grad_selected[piece])
            if policy.temperature != 1:
                grad /= policy.temperature
            if not in_place:
                grad_logits[piece] = grad
        return grad_logits, None, None, None


def _plain(logits: Tensor, tokens: Tensor, policy: _Policy) -> tuple[Tensor, Tensor]:
    """What :class:`_TokenLogProbabilities` computes, with a softmax in memory."""
    log_probs = policy.values(logits).log_softmax(-1)
    return log_probs.gather(-1, _index(tokens, logits)), log_probs.mean(-1)


def _index(tokens: Tensor, logits: Tensor) -> Tensor:
    """``[batch, tgt_len, tokens]``: the same tokens at every position."""
    return tokens.unsqueeze(1).expand(-1, logits.size(1), -1)
