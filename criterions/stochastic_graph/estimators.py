"""Gradient estimators of a stochastic node: one small class each.

=========================  =============================  ==========  ===========================
name                       value in the forward pass      unbiased    gradient
=========================  =============================  ==========  ===========================
``none``                   sample                         no          none through the node
``score_function``         sample                         yes         ``grad log p(z) * (Q - b)``
``reparameterized``        sample ``g(noise)``            yes         through ``g``
``gumbel_softmax``         relaxed sample                 no          through the relaxation
``straight_through_gumbel``  sample (one-hot)             no          as ``gumbel_softmax``
``straight_through``       sample (one-hot)               no          as if the value were ``p``
``enumeration``            every value, on an axis        yes         of ``sum_k p(k) c(k)``
``expectation``            mean (soft attention)          no          through the mean
``mode``                   deterministic value (greedy)   no          that of the mean, if any
=========================  =============================  ==========  ===========================

Where a gradient flows through the value itself, the distribution must be ``OneHotCategorical``
(or ``Bernoulli``), not ``Categorical``: indices carry no gradient.  A layer that uses
``OneHotCategorical`` works with every estimator, unchanged.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from criterions.registry import Registry
from criterions.stochastic_graph.baselines import Baseline, NoBaseline
from criterions.stochastic_graph.distributions import (
    check_has_mean,
    deterministic_value,
)


@dataclass(frozen=True)
class Draw:
    """An estimator's value for a node, and what its gradient needs."""

    value: Tensor
    """What the layer continues with: the shape of one sample, or one more axis in front."""

    log_prob: Tensor | None = None
    """``log p(value)``, the distribution's batch shape: the node has a score term."""

    weights: Tensor | None = None
    """``p(k)``, ``[values, *batch_shape]``: the node is summed over, not sampled."""

    independent_steps: bool = False
    """With ``weights``: steps may be summed over side by side, each with its own cost."""


class Estimator(nn.Module):
    """A gradient estimator of one stochastic node.

    A module because a baseline may hold parameters or buffers: register it in the criterion, so
    that they are trained, moved and checkpointed with it.
    """

    replays: ClassVar[bool] = False
    """Whether an outcome can be given instead of being drawn."""

    baseline: Baseline | None
    """``b_z`` of an estimator with a score term; None of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.baseline = None

    def draw(
        self, distribution: Distribution, *, value: Tensor | None = None, update: int = 0
    ) -> Draw:
        """Draw from a distribution.

        Args:
            distribution: of any batch shape.
            value: outcome to take instead of a random one.
            update: number of the update, for schedules.

        Raises:
            ValueError: the distribution does not fit the estimator, ``value`` is given to an
                estimator whose value is not an outcome, or has another shape than one.
        """
        if value is not None and not self.replays:
            raise ValueError(
                f"{type(self).__name__} cannot take a given value: only a sampled outcome can be "
                "replayed (score_function, straight_through, none)"
            )
        shape = distribution.batch_shape + distribution.event_shape
        if value is not None and value.shape != shape:
            # log_prob would broadcast, and silently compute something else.
            raise ValueError(
                f"the given value has shape {list(value.shape)}, but an outcome of "
                f"{type(distribution).__name__} has {list(shape)}: give one for each of its "
                "elements"
            )
        return self._draw(distribution, value, update)

    @abstractmethod
    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw: ...


ESTIMATORS: Registry[Estimator] = Registry("estimator", Estimator)  # type: ignore[type-abstract]


def outcome_of(distribution: Distribution, value: Tensor | None) -> Tensor:
    """A constant: the given outcome or a random one."""
    return distribution.sample() if value is None else value.detach()


@ESTIMATORS.register("none")
class NoScore(Estimator):
    """Sample, and drop the score term: biased.

    The expected gradient is ``E[sum_c grad c]``: all that reaches the parameters through the
    choice of ``z`` is missing.  Scheduled sampling (Bengio et al. 2015) does this.
    """

    replays = True

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        return Draw(outcome_of(distribution, value))


@ESTIMATORS.register("score_function")
class ScoreFunction(Estimator):
    """``grad log p(z) * (Q_z - b_z)``: REINFORCE (Williams 1992), unbiased.

    Args:
        baseline: ``b_z`` (default: none).
    """

    replays = True

    def __init__(self, baseline: Baseline | None = None) -> None:
        super().__init__()
        self.baseline = NoBaseline() if baseline is None else baseline

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        outcome = outcome_of(distribution, value)
        return Draw(outcome, log_prob=distribution.log_prob(outcome))


@ESTIMATORS.register("reparameterized")
class Reparameterized(Estimator):
    """``z = g(noise; parameters)``, gradient through ``g`` (``rsample``): unbiased."""

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        if not distribution.has_rsample:
            raise ValueError(
                f"{type(distribution).__name__} has no rsample to reparameterize: use "
                "score_function, or for a discrete one gumbel_softmax or straight_through"
            )
        return Draw(distribution.rsample())


@ESTIMATORS.register("expectation")
class Expectation(Estimator):
    """The mean in place of a sample (soft attention, expected embeddings).

    It minimises ``c(E[z])``, which is the expected cost only where the cost is linear.
    """

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        check_has_mean(distribution)
        try:
            return Draw(distribution.mean)
        except NotImplementedError:
            raise ValueError(
                f"{type(distribution).__name__} has no mean: use score_function or reparameterized"
            ) from None


@ESTIMATORS.register("mode")
class Mode(Estimator):
    """The deterministic value in place of a sample (greedy), as where nothing is recorded."""

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        return Draw(deterministic_value(distribution))
