"""Estimators whose gradient flows through a relaxed sample, or through the probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, OneHotCategorical
from torch.distributions.utils import clamp_probs
from torch.nn.functional import gumbel_softmax

from criterions.stochastic_graph.distributions import USE_ONE_HOT, base_of, one_hot_argmax
from criterions.stochastic_graph.estimators import ESTIMATORS, Draw, Estimator, outcome_of
from criterions.stochastic_graph.schedules import Schedule, value_at


def relaxable(distribution: Distribution) -> OneHotCategorical | Bernoulli:
    """The one-hot or Bernoulli distribution, or that within ``Independent``: its mean is its probs.

    Raises:
        ValueError: the distribution is of another kind, and has no continuous relaxation.
    """
    distribution = base_of(distribution)
    if isinstance(distribution, (OneHotCategorical, Bernoulli)):
        return distribution
    if isinstance(distribution, Categorical):
        raise ValueError(f"Categorical draws indices, which carry no gradient: {USE_ONE_HOT}")
    raise ValueError(
        f"{type(distribution).__name__} has no relaxation: use OneHotCategorical or Bernoulli, "
        "or the score_function estimator"
    )


def relaxed_sample(distribution: Distribution, temperature: float) -> Tensor:
    """A sample of the continuous relaxation of a discrete distribution, with gradient.

    One-hot: ``torch.nn.functional.gumbel_softmax``.  Bernoulli: ``sigmoid((logits + l) /
    temperature)`` with ``l`` from Logistic(0, 1) (Maddison et al. 2017; Jang et al. 2017).

    Args:
        distribution: as for :func:`relaxable`.
        temperature: above 0.

    Returns:
        the shape of one sample.
    """
    discrete = relaxable(distribution)
    logits: Tensor = discrete.logits
    if isinstance(discrete, OneHotCategorical):
        return gumbel_softmax(logits, tau=temperature)
    uniform = clamp_probs(torch.rand_like(logits))
    return ((logits + uniform.log() - (-uniform).log1p()) / temperature).sigmoid()


def nearest_outcome(distribution: Distribution, relaxed: Tensor) -> Tensor:
    """The outcome of a discrete distribution nearest to a relaxed sample; without gradient."""
    if isinstance(relaxable(distribution), Bernoulli):
        return (relaxed.detach() > 0.5).to(relaxed.dtype)
    return one_hot_argmax(relaxed)


def _straight_through(outcome: Tensor, surrogate: Tensor) -> Tensor:
    """The value of ``outcome``, to the last bit, with the gradient of ``surrogate``."""
    return outcome + (surrogate - surrogate.detach())


@ESTIMATORS.register("gumbel_softmax")
class GumbelSoftmax(Estimator):
    """``softmax((log p + g) / temperature)`` with ``g`` from Gumbel(0, 1).

    Jang et al. 2017 and, as the concrete distribution, Maddison et al. 2017.  Unbiased for the
    cost of the relaxed value, biased for the cost of the sample; the bias vanishes and the
    variance grows as the temperature goes to 0.

    Args:
        temperature: above 0; a number or a schedule.
    """

    def __init__(self, temperature: float | Schedule = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        temperature = value_at(self.temperature, update)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0; got {temperature} at update {update}")
        return Draw(relaxed_sample(distribution, temperature))


@ESTIMATORS.register("straight_through_gumbel")
class StraightThroughGumbel(GumbelSoftmax):
    """One-hot ``argmax(log p + g)`` forward, the gradient of Gumbel-softmax backward.

    Jang et al. 2017, section 2.2: the value is an exact sample of the distribution.  Biased.

    Args:
        temperature: above 0; a number or a schedule.
    """

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        relaxed = super()._draw(distribution, value, update).value
        return Draw(_straight_through(nearest_outcome(distribution, relaxed), relaxed))


@ESTIMATORS.register("straight_through")
class StraightThrough(Estimator):
    """One-hot sample forward; backward as if the value were the vector of probabilities.

    Bengio, Léonard and Courville 2013.  Exact where the cost is linear in the value.  Elsewhere
    the cost's tangent at the sample replaces its difference between outcomes; for a Bernoulli
    node the expected estimate of ``dE[c]/dp`` is ``p c'(1) + (1 - p) c'(0)`` instead of
    ``c(1) - c(0)``: too large for convex costs where ``p`` is near 1, too small near 0.
    """

    replays = True

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        probabilities = relaxable(distribution).probs
        return Draw(_straight_through(outcome_of(distribution, value), probabilities))
