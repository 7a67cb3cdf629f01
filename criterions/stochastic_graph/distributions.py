"""What the estimators need of a distribution beyond ``torch.distributions``."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Cauchy,
    Distribution,
    Independent,
    OneHotCategorical,
    TransformedDistribution,
)


def one_hot_argmax(scores: Tensor) -> Tensor:
    """1 at the largest of the last axis, 0 elsewhere; the shape of ``scores``, without gradient."""
    scores = scores.detach()
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(dim=-1, keepdim=True), 1)


class UncheckedOneHotCategorical(OneHotCategorical):
    """``OneHotCategorical`` that neither checks its parameters nor waits for the device.

    ``torch.distributions.OneHotCategorical`` checks them whatever ``validate_args`` says: two
    numbers are read back from the device for every distribution, and a score that is not finite
    is an error.  In half precision it must not be one: fairseq's loss scaler skips an update whose
    gradient is not finite, and continues.

    Args:
        probs: ``[..., values]``, not negative; or
        logits: ``[..., values]``, of which one at least is finite.
    """

    def __init__(self, probs: Tensor | None = None, logits: Tensor | None = None) -> None:
        self._categorical = Categorical(probs, logits, validate_args=False)
        Distribution.__init__(
            self,
            self._categorical.batch_shape,
            self._categorical.param_shape[-1:],
            validate_args=False,
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> UncheckedOneHotCategorical:
        """The same distribution for a larger batch shape."""
        instance = type(self).__new__(type(self)) if _instance is None else _instance
        expanded: UncheckedOneHotCategorical = super().expand(batch_shape, instance)
        return expanded

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw one-hot vectors ``[*sample_shape, ..., values]``."""
        probs = self._categorical.probs
        # As torch.multinomial draws one, without its checks, which wait for the device.
        noise = probs.new_empty(self._extended_shape(torch.Size(sample_shape))).exponential_()
        return one_hot_argmax(probs / noise.clamp_(min=torch.finfo(noise.dtype).tiny))


@singledispatch
def deterministic_value(distribution: Distribution) -> Tensor:
    """The value that a stochastic layer takes where nothing is sampled: in evaluation.

    ====================================  ==================================================
    distribution                          value
    ====================================  ==================================================
    ``Categorical``                       index of the likeliest category (argmax)
    ``OneHotCategorical``                 one-hot vector of the likeliest category
    ``Bernoulli``                         1 where ``p > 0.5``, else 0
    other discrete distributions          mode
    continuous ones (``Normal``, ...)     mean
    ``TransformedDistribution``           the base's value, transformed (for an increasing
                                          function of a Gaussian: the median)
    ``Independent``                       the base's value
    ====================================  ==================================================

    A single-dispatch function: ``deterministic_value.register(MyDistribution)`` adds one.

    Args:
        distribution: of batch shape ``[...]``.

    Returns:
        a tensor of the shape of one sample.

    Raises:
        ValueError: the distribution has neither mean nor mode.
    """
    try:
        discrete = distribution.support is not None and distribution.support.is_discrete
        return distribution.mode if discrete else distribution.mean
    except NotImplementedError:
        raise ValueError(
            f"{type(distribution).__name__} has no deterministic value: "
            "add one with deterministic_value.register"
        ) from None


@deterministic_value.register
def _(distribution: Bernoulli) -> Tensor:
    return (distribution.probs > 0.5).to(distribution.probs.dtype)


@deterministic_value.register
def _(distribution: OneHotCategorical) -> Tensor:
    return one_hot_argmax(distribution.logits)


@deterministic_value.register(Independent)
def _(distribution: Independent[Distribution]) -> Tensor:
    return deterministic_value(distribution.base_dist)


@deterministic_value.register
def _(distribution: TransformedDistribution) -> Tensor:
    value = deterministic_value(distribution.base_dist)
    for transform in distribution.transforms:
        value = transform(value)
    return value


USE_ONE_HOT = "give OneHotCategorical with the same logits"


def base_of(distribution: Distribution) -> Distribution:
    """What is within ``Independent``."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def check_has_mean(distribution: Distribution) -> None:
    """Raise ``ValueError`` where torch gives NaN for the mean: ``Categorical``, ``Cauchy``."""
    base = base_of(distribution)
    if isinstance(base, Categorical):
        raise ValueError(f"Categorical draws indices, which have no mean: {USE_ONE_HOT}")
    if isinstance(base, Cauchy):
        raise ValueError("Cauchy has no mean: use score_function or reparameterized")
