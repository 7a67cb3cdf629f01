"""One-hot laws that make no host wait for the device.

``torch.distributions.OneHotCategorical`` and its relaxation check their parameters in a law within
them, whatever they are told of ``validate_args``: two numbers are read back from the device for
every law, and a score that is not finite is an error.  In half precision it must not be: fairseq's
loss scaler skips the update whose gradient is not finite, and goes on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    TransformedDistribution,
)
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.distributions.transforms import ExpTransform, SigmoidTransform


def one_hot_argmax(scores: Tensor) -> Tensor:
    """1 at the largest of the last axis, 0 elsewhere; the shape of ``scores``, without gradient."""
    scores = scores.detach()
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(dim=-1, keepdim=True), 1)


class OneHotLaw(OneHotCategorical):
    """``OneHotCategorical`` that checks nothing and draws without a wait for the device.

    Args:
        probs: ``[..., values]``, not negative; or
        logits: ``[..., values]``, of which one at least is finite.
    """

    def __init__(self, probs: Tensor | None = None, logits: Tensor | None = None) -> None:
        self._categorical = Categorical(probs, logits, validate_args=False)
        _set_shapes(self, self._categorical)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OneHotLaw:
        """The same law for a larger batch shape."""
        expanded: OneHotLaw = _expanded(self, OneHotLaw, batch_shape, _instance)
        return expanded

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw: ``[*sample_shape, ..., values]``."""
        probs = self._categorical.probs
        # What torch.multinomial does for one draw, but for its checks, which wait for the device.
        noise = probs.new_empty(self._extended_shape(torch.Size(sample_shape))).exponential_()
        return one_hot_argmax(probs / noise.clamp_(min=torch.finfo(noise.dtype).tiny))


class RelaxedOneHotLaw(RelaxedOneHotCategorical):
    """``RelaxedOneHotCategorical`` that checks nothing.

    Args:
        temperature: above 0, a tensor without axes.
        probs, logits: as for :class:`OneHotLaw`.
    """

    def __init__(
        self, temperature: Tensor, probs: Tensor | None = None, logits: Tensor | None = None
    ) -> None:
        base = _ExpRelaxedLaw(temperature, probs, logits)
        TransformedDistribution.__init__(self, base, ExpTransform(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedOneHotLaw:
        """The same law for a larger batch shape."""
        expanded: RelaxedOneHotLaw = self._get_checked_instance(RelaxedOneHotLaw, _instance)
        TransformedDistribution.expand(self, batch_shape, _instance=expanded)
        return expanded


class RelaxedBernoulliLaw(RelaxedBernoulli):
    """``RelaxedBernoulli`` that checks nothing.

    Args:
        temperature: above 0, a tensor without axes.
        logits: of any shape.
    """

    def __init__(self, temperature: Tensor, logits: Tensor) -> None:
        base = LogitRelaxedBernoulli(temperature, logits=logits, validate_args=False)
        TransformedDistribution.__init__(self, base, SigmoidTransform(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedBernoulliLaw:
        """The same law for a larger batch shape."""
        expanded: RelaxedBernoulliLaw = self._get_checked_instance(RelaxedBernoulliLaw, _instance)
        TransformedDistribution.expand(self, batch_shape, _instance=expanded)
        return expanded


class _ExpRelaxedLaw(ExpRelaxedCategorical):
    """The logarithm of the relaxed vector."""

    def __init__(self, temperature: Tensor, probs: Tensor | None, logits: Tensor | None) -> None:
        self._categorical = Categorical(probs, logits, validate_args=False)
        self.temperature = temperature
        _set_shapes(self, self._categorical)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _ExpRelaxedLaw:
        expanded: _ExpRelaxedLaw = _expanded(self, _ExpRelaxedLaw, batch_shape, _instance)
        expanded.temperature = self.temperature
        return expanded


def _expanded(law: Any, its_class: type, batch_shape: Any, instance: Any) -> Any:
    expanded = law._get_checked_instance(its_class, instance)
    expanded._categorical = law._categorical.expand(torch.Size(batch_shape))
    _set_shapes(expanded, expanded._categorical)
    return expanded


def _set_shapes(law: Any, categorical: Categorical) -> None:
    Distribution.__init__(
        law, categorical.batch_shape, categorical.param_shape[-1:], validate_args=False
    )
