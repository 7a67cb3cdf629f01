"""One-hot distributions that no host waits for, against those of ``torch.distributions``."""

import pytest
import torch
from host_reads import HostReads
from torch.distributions import (
    Bernoulli,
    Independent,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)

from criterions.stochastic_graph import (
    ESTIMATORS,
    UncheckedOneHotCategorical,
    deterministic_value,
    one_hot_argmax,
)
from criterions.stochastic_graph.relaxations import relaxed_sample

LOGITS = torch.tensor([[1.0, 0.0, -0.5, -torch.inf], [0.3, 0.2, 0.1, 2.0]])
ROWS = 20_000


def test_the_distribution_is_torchs():
    distribution, expected = (
        UncheckedOneHotCategorical(logits=LOGITS),
        OneHotCategorical(logits=LOGITS, validate_args=False),
    )
    assert (distribution.batch_shape, distribution.event_shape) == (
        expected.batch_shape,
        expected.event_shape,
    )
    values = distribution.enumerate_support()[:3]
    assert values.equal(expected.enumerate_support()[:3])
    for name in ("mean", "variance", "probs", "logits"):
        torch.testing.assert_close(getattr(distribution, name), getattr(expected, name))
    torch.testing.assert_close(distribution.log_prob(values), expected.log_prob(values))
    torch.testing.assert_close(distribution.entropy(), expected.entropy())
    torch.testing.assert_close(
        UncheckedOneHotCategorical(probs=LOGITS.softmax(-1)).mean, distribution.mean
    )


def test_draws_have_their_probabilities():
    """Five standard errors, also where the distribution is that of many rows or of many samples."""
    torch.manual_seed(1)
    distribution = UncheckedOneHotCategorical(logits=LOGITS)
    many_rows = distribution.expand((ROWS, 2))
    assert isinstance(many_rows, UncheckedOneHotCategorical)
    p = LOGITS.softmax(-1)
    for drawn in (many_rows.sample(), distribution.sample((ROWS,))):
        assert drawn.shape == (ROWS, 2, 4)
        assert drawn.sum(-1).eq(1).all()
        assert ((drawn.mean(0) - p).abs() <= 5 * (p * (1 - p) / ROWS).sqrt()).all()


def test_the_deterministic_value_is_the_likeliest():
    expected = [[1, 0, 0, 0], [0, 0, 0, 1]]
    for distribution in (
        UncheckedOneHotCategorical(logits=LOGITS),
        OneHotCategorical(logits=LOGITS, validate_args=False),
    ):
        assert deterministic_value(distribution).tolist() == expected
    assert one_hot_argmax(LOGITS).tolist() == expected


@pytest.mark.parametrize("kind", ["one-hot", "bernoulli"])
def test_relaxed_samples_have_torchs_distribution(kind):
    """Moments of its values and of their logarithms, against torch's own; five standard errors."""
    logits, temperature = LOGITS[1].double(), 0.7
    if kind == "one-hot":
        ours, theirs = UncheckedOneHotCategorical(logits=logits), RelaxedOneHotCategorical
    else:
        ours, theirs = Independent(Bernoulli(logits=logits), 1), RelaxedBernoulli
    torch.manual_seed(2)
    values = relaxed_sample(ours.expand((ROWS,)), temperature)
    expected = theirs(torch.tensor(temperature).double(), logits=logits).sample((ROWS,))
    assert values.shape == expected.shape
    for moment in (torch.Tensor.log, torch.Tensor.square, torch.Tensor.sqrt):
        one, other = moment(values), moment(expected)
        error = ((one.var(0) + other.var(0)) / ROWS).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() <= 5 * error).all()


def test_relaxed_samples_have_the_gradient_of_the_relaxation():
    """``d softmax((l + g) / t) / dl``, with the noise recovered from the value."""
    logits = LOGITS[1:].double().requires_grad_()
    for distribution, derivative in (
        (UncheckedOneHotCategorical(logits=logits), lambda v: v * (1 - v) / 0.7),
        (Bernoulli(logits=logits), lambda v: v * (1 - v) / 0.7),
    ):
        value = relaxed_sample(distribution, 0.7)
        for i in range(4):
            (gradient,) = torch.autograd.grad(value[0, i], logits, retain_graph=True)
            torch.testing.assert_close(gradient[0, i], derivative(value[0, i].detach()))


@pytest.mark.parametrize(
    "name",
    [
        *("none", "score_function", "straight_through", "expectation", "mode"),
        *("gumbel_softmax", "straight_through_gumbel"),
    ],
)
def test_no_estimator_reads_a_value_back_or_minds_scores_that_are_not_finite(name):
    logits = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [torch.inf, 0.0]], requires_grad=True)
    with HostReads() as reads:
        distribution = UncheckedOneHotCategorical(logits=logits)
        draw = ESTIMATORS.create(name).draw(distribution)
        distribution.entropy()
    assert not reads.operations
    assert draw.value.shape == (3, 2)
    if name == "score_function":
        assert draw.log_prob[0].isfinite()
        assert draw.log_prob[1:].isnan().all()


def test_gates_are_relaxed_without_a_wait():
    gates = Independent(
        Bernoulli(logits=torch.tensor([[0.5, torch.nan]]), validate_args=False),
        1,
        validate_args=False,
    )
    with HostReads() as reads:
        ESTIMATORS.create("straight_through_gumbel").draw(gates)
    assert not reads.operations
