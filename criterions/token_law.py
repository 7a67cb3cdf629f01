"""The law of one token per position, whose log-probability keeps no softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from criterions.token_probabilities import _pieces, token_log_probabilities


class TokenLaw(Distribution):
    """Categorical law over a vocabulary at every position; a drop-in for ``Categorical``.

    ``torch.distributions.Categorical(logits=...)`` keeps a normalised copy of the logits, and its
    gradient a softmax of that size.  Here what is kept for the backward pass is the logits
    themselves and one normaliser per position (see :mod:`criterions.token_probabilities`); the
    softmax is formed piece by piece.  Logits of minus infinity exclude a token; every position
    needs at least one finite logit.

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
        if logits.dim() < 1 or not logits.is_floating_point():
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

    def expand(self, batch_shape: Any, _instance: Any = None) -> TokenLaw:
        """The same law for a larger batch shape, without a copy of the logits."""
        shape = torch.Size(batch_shape) + self.logits.shape[-1:]
        expanded: TokenLaw = self._get_checked_instance(TokenLaw, _instance)
        expanded.logits = self.logits.expand(shape)
        super(TokenLaw, expanded).__init__(torch.Size(batch_shape), validate_args=False)
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
        axes_of_samples = len(shape) - len(self._batch_shape)
        if shape[axes_of_samples:] != self._batch_shape:
            return self.expand(shape[axes_of_samples:]).log_prob(value)
        logits = self._rows()
        # All samples of a position are looked up at once.
        samples = value.long().expand(shape).reshape(shape[:axes_of_samples].numel(), -1).t()
        return token_log_probabilities(logits, samples).selected.squeeze(1).t().reshape(shape)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw tokens: int64 ``[*sample_shape, *batch_shape]``, no wait for the device."""
        sample_shape = torch.Size(sample_shape)
        logits = self._rows()
        drawn = torch.empty(
            sample_shape.numel(), logits.size(0), dtype=torch.int64, device=logits.device
        )
        for piece in _pieces(logits):
            scores = logits[piece, 0].to(self._dtype)
            for draw in drawn:
                # argmax(log p + Gumbel noise); torch.multinomial would wait for the device.
                noise = torch.empty_like(scores).exponential_()
                noise.clamp_(min=torch.finfo(scores.dtype).tiny)
                draw[piece] = (scores - noise.log_()).argmax(-1)
        return drawn.reshape(self._extended_shape(sample_shape))

    @torch.no_grad()
    def entropy(self) -> Tensor:
        """Entropy in nats, ``batch_shape``, float32 (float64 for float64 logits); no gradient."""
        logits = self._rows()
        entropy = torch.empty(logits.size(0), dtype=self._dtype, device=logits.device)
        for piece in _pieces(logits):
            log_probs = logits[piece, 0].to(self._dtype).log_softmax(-1)
            # Where p = 0, p log p = 0; the product would be NaN.
            products = log_probs.exp().mul_(log_probs)
            entropy[piece] = -products.masked_fill_(log_probs.isneginf(), 0).sum(-1)
        return entropy.reshape(self._batch_shape)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All tokens, ``[vocab, *batch_shape]`` (``[vocab, 1, ...]`` without ``expand``)."""
        values = torch.arange(self.vocabulary_size, device=self.logits.device)
        values = values.reshape(-1, *[1] * len(self._batch_shape))
        return values.expand(-1, *self._batch_shape) if expand else values

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.logits.dtype == torch.float64 else torch.float32

    def _rows(self) -> Tensor:
        """``[positions, 1, vocab]``."""
        return self.logits.reshape(self._batch_shape.numel(), 1, self.logits.size(-1))
