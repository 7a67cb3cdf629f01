"""What the library needs to know of a law beyond what ``torch.distributions`` tells.

All are single-dispatch functions on the law's class: ``deterministic_value.register(MyLaw)`` adds
a law of your own.
"""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
    TransformedDistribution,
)

from criterions.stochastic_graph.one_hot import (
    RelaxedBernoulliLaw,
    RelaxedOneHotLaw,
    one_hot_argmax,
)


@singledispatch
def deterministic_value(law: Distribution) -> Tensor:
    """What a stochastic layer takes where nothing is sampled: in evaluation, outside a graph.

    ====================================  ==================================================
    law                                   value
    ====================================  ==================================================
    ``Categorical``                       index of the likeliest category (argmax)
    ``OneHotCategorical``                 one-hot vector of the likeliest category
    ``Bernoulli``                         1 where ``p > 0.5``, else 0
    other discrete laws                   mode
    continuous laws (``Normal``, ...)     mean
    ``TransformedDistribution``           the base law's value, transformed (for an increasing
                                          function of a Gaussian: the median)
    ``Independent``                       the base law's value
    ====================================  ==================================================

    Args:
        law: of batch shape ``[...]``.

    Returns:
        a tensor of the shape of one sample.

    Raises:
        ValueError: the law has neither mean nor mode.
    """
    try:
        discrete = law.support is not None and law.support.is_discrete
        return law.mode if discrete else law.mean
    except NotImplementedError:
        raise ValueError(
            f"{type(law).__name__} has no deterministic value: "
            "add one with deterministic_value.register"
        ) from None


@deterministic_value.register
def _(law: Bernoulli) -> Tensor:
    return (law.probs > 0.5).to(law.probs.dtype)


@deterministic_value.register
def _(law: OneHotCategorical) -> Tensor:
    return one_hot_argmax(law.logits)


@deterministic_value.register(Independent)
def _(law: Independent[Distribution]) -> Tensor:
    return deterministic_value(law.base_dist)


@deterministic_value.register
def _(law: TransformedDistribution) -> Tensor:
    value = deterministic_value(law.base_dist)
    for transform in law.transforms:
        value = transform(value)
    return value


@singledispatch
def relaxed_law(law: Distribution, temperature: float) -> Distribution:
    """The continuous relaxation of a discrete law (Maddison et al. 2017; Jang et al. 2017).

    Args:
        law: ``OneHotCategorical`` (Gumbel-softmax), ``Bernoulli`` (binary concrete), or
            ``Independent`` of these.
        temperature: above 0.

    Raises:
        ValueError: the law has no relaxation.
    """
    raise ValueError(
        f"{type(law).__name__} has no relaxation: use OneHotCategorical or Bernoulli, "
        "or the score_function estimator"
    )


@relaxed_law.register
def _(law: Categorical, temperature: float) -> Distribution:
    raise ValueError(
        "Categorical draws indices, which carry no gradient: "
        "give OneHotCategorical with the same logits"
    )


@relaxed_law.register
def _(law: OneHotCategorical, temperature: float) -> Distribution:
    # The law was checked, or not, when it was made; a check of its relaxation fails by rounding for
    # a large vocabulary, and waits for the device.
    return RelaxedOneHotLaw(law.logits.new_full((), temperature), logits=law.logits)


@relaxed_law.register
def _(law: Bernoulli, temperature: float) -> Distribution:
    return RelaxedBernoulliLaw(law.logits.new_full((), temperature), logits=law.logits)


@relaxed_law.register(Independent)
def _(law: Independent[Distribution], temperature: float) -> Distribution:
    return Independent(
        relaxed_law(law.base_dist, temperature), law.reinterpreted_batch_ndims, validate_args=False
    )


@singledispatch
def nearest_outcome(law: Distribution, relaxed: Tensor) -> Tensor:
    """The outcome of a discrete law that is nearest to a relaxed one; without gradient."""
    raise ValueError(f"{type(law).__name__} has no relaxation")


@nearest_outcome.register
def _(law: OneHotCategorical, relaxed: Tensor) -> Tensor:
    return one_hot_argmax(relaxed)


@nearest_outcome.register
def _(law: Bernoulli, relaxed: Tensor) -> Tensor:
    return (relaxed.detach() > 0.5).to(relaxed.dtype)


@nearest_outcome.register(Independent)
def _(law: Independent[Distribution], relaxed: Tensor) -> Tensor:
    return nearest_outcome(law.base_dist, relaxed)
