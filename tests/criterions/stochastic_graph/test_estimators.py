"""Each estimator against analytic values, exact sums or a Monte Carlo confidence interval."""

import math

import pytest
import torch
from policies import assert_equal, gradient, random
from torch.distributions import (
    Bernoulli,
    Categorical,
    Exponential,
    Independent,
    Normal,
    OneHotCategorical,
)

from criterions.stochastic_graph import (
    ESTIMATORS,
    Expectation,
    GumbelSoftmax,
    LeaveOneOut,
    Linear,
    Mode,
    NoScore,
    Reparameterized,
    ScoreFunction,
    StochasticGraph,
    StraightThrough,
    StraightThroughGumbel,
    deterministic_value,
    sample,
)

RELAXED = [GumbelSoftmax(0.7), StraightThroughGumbel(0.7)]


def assert_within_confidence(estimates: torch.Tensor, expected: torch.Tensor) -> None:
    """``estimates [draws, ...]`` have mean ``expected``, at 4.5 standard errors."""
    error = estimates.std(0) / len(estimates) ** 0.5
    assert (error > 0).all()
    assert ((estimates.mean(0) - expected).abs() <= 4.5 * error).all()


def per_row_gradients(estimator, distribution, cost, *parameters: torch.Tensor, **options):
    """Gradient of every row's surrogate: parameters are repeated, one copy a row."""
    with StochasticGraph(default_estimator=estimator, **options) as graph:
        z = sample("z", distribution(*parameters))
        graph.cost("c", cost(z))
    return torch.autograd.grad(graph.surrogate(), parameters)


@pytest.mark.parametrize("estimator", [Reparameterized(), ScoreFunction()], ids=["path", "score"])
def test_gaussian_against_its_analytic_gradient(estimator):
    """``E[(z - 2)^2] = (m - 2)^2 + s^2``."""
    torch.manual_seed(1)
    m = torch.full((20000,), 0.5, dtype=torch.float64, requires_grad=True)
    s = torch.full((20000,), 0.8, dtype=torch.float64, requires_grad=True)
    grad_m, grad_s = per_row_gradients(estimator, Normal, lambda z: (z - 2) ** 2, m, s)
    expected = torch.tensor([2 * (0.5 - 2), 2 * 0.8])
    assert_within_confidence(torch.stack([grad_m, grad_s], dim=1), expected)


def test_gaussian_score_function_with_leave_one_out():
    torch.manual_seed(2)
    m = torch.full((20000,), 0.5, dtype=torch.float64, requires_grad=True)
    (grad_m,) = per_row_gradients(
        ScoreFunction(LeaveOneOut()), lambda m: Normal(m, 0.8), lambda z: (z - 2) ** 2, m, samples=4
    )
    # A row's gradient is a quarter of its source's estimate.
    assert_within_confidence(grad_m.view(-1, 4).sum(1)[:, None], torch.tensor([-3.0]))


def test_reparameterized_latent_vector_needs_no_score_term():
    """``z_i ~ Exponential(r)``, ``E[sum_i z_i] = d / r``."""
    torch.manual_seed(3)
    rate = torch.full((20000,), 2.0, dtype=torch.float64, requires_grad=True)
    (grad,) = per_row_gradients(
        Reparameterized(),
        lambda r: Independent(Exponential(r[:, None].expand(-1, 3)), 1),
        lambda z: z.sum(-1),
        rate,
    )
    assert_within_confidence(grad[:, None], torch.tensor([-3 / 4.0]))


def test_without_the_score_term_only_the_costs_own_gradient_is_left():
    """``none``: expected gradient ``E[grad c]``, by enumeration; the score part is missing."""
    logits, price = random(4, seed=100), random(4, seed=101)
    p = logits.softmax(0)
    with StochasticGraph(default_estimator=NoScore(), values={"z": torch.arange(4)}) as graph:
        z = sample("z", Categorical(logits=logits.expand(4, 4)))
        graph.cost("c", price[z] ** 2 + logits.sum())
    average = gradient((p.detach() * graph.surrogate_per_source()).sum(), [logits, price])
    true = gradient((p * price**2).sum() + logits.sum(), [logits, price])
    expected_logits = torch.ones(4).double()  # from the cost's explicit logits alone
    assert_equal(average, [expected_logits, true[1]])
    assert (average[0] - true[0]).abs().max() > 0.1


def test_nothing_is_differentiated_through_a_sample_without_estimator():
    mean = torch.zeros(3, requires_grad=True)
    with StochasticGraph(default_estimator=NoScore()):
        assert not sample("z", Normal(mean, 1.0)).requires_grad


@pytest.mark.parametrize("p", [0.9, 0.5, 0.2])
def test_straight_through_is_biased_as_documented(p: float):
    """Bernoulli, ``c(z) = (z - 0.3)^2`` convex: ``p c'(1) + (1 - p) c'(0)``, not c(1) - c(0)."""
    probability = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    outcomes = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with StochasticGraph(default_estimator=StraightThrough(), values={"z": outcomes}) as graph:
        z = sample("z", Bernoulli(probability.expand(2)))
        graph.cost("c", (z - 0.3) ** 2)
    weights = torch.tensor([1 - p, p], dtype=torch.float64)
    (average,) = gradient((weights * graph.surrogate_per_source()).sum(), [probability])
    true = 0.7**2 - 0.3**2
    assert average.item() == pytest.approx(p * 2 * 0.7 + (1 - p) * 2 * -0.3, abs=1e-12)
    assert math.copysign(1, round(average.item() - true, 9)) == (1 if p >= 0.5 else -1)


def test_straight_through_is_exact_where_the_cost_is_linear():
    logits, price = random(4, seed=110), random(4, seed=111)
    p = logits.softmax(0)
    with StochasticGraph(
        default_estimator=StraightThrough(), values={"z": torch.eye(4).double()}
    ) as graph:
        z = sample("z", OneHotCategorical(logits=logits.expand(4, 4)))
        graph.cost("c", z @ price)
    average = gradient((p.detach() * graph.surrogate_per_source()).sum(), [logits, price])
    assert_equal(average, gradient((p * price).sum(), [logits, price]))


def test_gumbel_softmax_bias_shrinks_with_the_temperature():
    """``c = (z . price)^2``; the true gradient by enumeration."""
    logits = torch.tensor([0.5, -0.4, 0.1], dtype=torch.float64)
    price = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    (true,) = gradient((leaf.softmax(0) * price**2).sum(), [leaf])
    bias = []
    for temperature in (2.0, 0.2):
        torch.manual_seed(4)
        rows = logits.expand(40000, 3).clone().requires_grad_()
        (grad,) = per_row_gradients(
            GumbelSoftmax(temperature),
            lambda rows: OneHotCategorical(logits=rows),
            lambda z: (z @ price) ** 2,
            rows,
        )
        error = grad.std(0) / 200
        bias.append((grad.mean(0) - true, error))
    (warm, warm_error), (cold, cold_error) = bias
    assert (warm.abs() > 4.5 * warm_error).all()  # biased
    assert (cold.abs() < 0.25 * warm.abs() + 4.5 * cold_error).all()


@pytest.mark.parametrize(
    "distribution",
    [
        lambda z: OneHotCategorical(logits=z),
        lambda z: Bernoulli(logits=z),
        lambda z: Independent(OneHotCategorical(logits=z), 1),
    ],
    ids=["one-hot", "Bernoulli", "independent"],
)
def test_relaxed_gradcheck(distribution):
    """The noise is frozen by the seed."""
    weights = random(2, 3, 4, seed=120, grad=False)

    def cost(logits: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        with StochasticGraph(default_estimator=GumbelSoftmax(0.7)) as graph:
            z = sample("z", distribution(logits))
            graph.cost("c", (z * weights).sum((-1, -2)).square())
        return graph.surrogate_per_source()

    assert torch.autograd.gradcheck(cost, random(2, 3, 4, seed=121))


def test_reparameterized_gradcheck():
    def cost(mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(6)
        with StochasticGraph(default_estimator=Reparameterized()) as graph:
            graph.cost("c", sample("z", Normal(mean, scale.exp())).sin())
        return graph.surrogate_per_source()

    assert torch.autograd.gradcheck(cost, (random(5, seed=122), random(5, seed=123)))


def test_gumbel_noise_is_added_to_log_probabilities():
    """Gumbel-max draws are exact; noise on probabilities would be nearly uniform."""
    torch.manual_seed(7)
    p = torch.tensor([0.9, 0.09, 0.01], dtype=torch.float64)
    for estimator in (StraightThroughGumbel(1.0), GumbelSoftmax(1.0)):
        draws = estimator.draw(OneHotCategorical(p.expand(40000, 3))).value
        hard = torch.nn.functional.one_hot(draws.argmax(-1), 3).double()
        assert_within_confidence(hard, p)


def test_gumbel_softmax_is_the_published_formula():
    """From the same exponential noise, written out."""
    logits = random(3, 4, seed=130, grad=False)
    torch.manual_seed(8)
    relaxed = GumbelSoftmax(0.5).draw(OneHotCategorical(logits=logits)).value
    torch.manual_seed(8)
    gumbel = -torch.log(torch.empty(3, 4, dtype=torch.float64).exponential_())
    expected = torch.exp((logits.log_softmax(-1) + gumbel) / 0.5)
    torch.testing.assert_close(relaxed, expected / expected.sum(-1, keepdim=True))


@pytest.mark.parametrize("estimator", [StraightThrough(), StraightThroughGumbel(0.3)])
def test_straight_through_is_really_switched_on(estimator):
    """The forward value is one-hot to the last bit, and there is a gradient."""
    torch.manual_seed(9)
    logits = torch.randn(50, 7, requires_grad=True)
    with StochasticGraph(default_estimator=estimator) as graph:
        z = sample("z", OneHotCategorical(logits=logits))
        graph.cost("c", (z * torch.arange(7.0)).sum(-1))
    assert set(z.detach().flatten().tolist()) == {0.0, 1.0}
    assert z.sum(-1).eq(1).all()
    assert logits.grad is None
    graph.surrogate().backward()
    assert (logits.grad.abs().sum(-1) > 0).all()


def test_straight_through_gumbel_has_the_gradient_of_the_relaxed_sample():
    logits, weights = random(5, 4, seed=140), random(5, 4, seed=141, grad=False)
    gradients = []
    for estimator in (GumbelSoftmax(0.4), StraightThroughGumbel(0.4)):
        torch.manual_seed(10)
        with StochasticGraph(default_estimator=estimator) as graph:
            z = sample("z", OneHotCategorical(logits=logits))
            graph.cost("c", (z * weights).sum(-1))  # linear: the same at both values
        gradients.append(gradient(graph.surrogate(), [logits]))
    assert_equal(*gradients, atol=1e-14)


def test_straight_through_has_the_gradient_of_the_probabilities():
    logits, weights = random(5, 4, seed=142), random(5, 4, seed=143, grad=False)
    with StochasticGraph(default_estimator=StraightThrough()) as graph:
        z = sample("z", OneHotCategorical(logits=logits))
        graph.cost("c", (z * weights).sum(-1))
    expected = gradient((logits.softmax(-1) * weights).sum(), [logits])
    assert_equal(gradient(graph.surrogate(), [logits]), expected, atol=1e-14)


@pytest.mark.parametrize("name", ["gumbel_softmax", "straight_through_gumbel", "straight_through"])
def test_masked_categories_are_never_chosen_and_give_no_nan(name: str):
    """Padded source positions at ``-inf``, as in attention."""
    torch.manual_seed(11)
    logits = torch.randn(200, 5, requires_grad=True)
    masked = logits.masked_fill(torch.tensor([False, False, False, True, True]), -torch.inf)
    with StochasticGraph(default_estimator=ESTIMATORS.create(name)) as graph:
        z = sample("z", OneHotCategorical(logits=masked))
        graph.cost("c", (z[:, :3] ** 2).sum(-1))
    graph.surrogate().backward()
    assert z[:, 3:].eq(0).all()
    assert logits.grad.isfinite().all()
    assert logits.grad[:, 3:].eq(0).all()


@pytest.mark.parametrize("name", sorted({*ESTIMATORS.names} - {"reparameterized"}))
def test_no_estimator_feeds_a_zero_vector(name: str):
    """Whatever the estimator, the weights of a mixture sum to one and reach the layer."""
    torch.manual_seed(12)
    with StochasticGraph(default_estimator=ESTIMATORS.create(name)) as graph:
        z = sample("z", OneHotCategorical(logits=torch.randn(6, 4)))
    torch.testing.assert_close(z.sum(-1), torch.ones(z.shape[:-1]))
    assert graph.nodes["z", None].value is z


def test_temperature_follows_its_schedule():
    schedule = Linear(2.0, 0.5, updates=10)
    distribution = OneHotCategorical(logits=torch.randn(4, 3, dtype=torch.float64))
    for update in (0, 5, 10, 11):
        values = []
        for estimator in (GumbelSoftmax(schedule), GumbelSoftmax(schedule(update))):
            torch.manual_seed(13)
            with StochasticGraph(default_estimator=estimator, update=update):
                values.append(sample("z", distribution))
        assert values[0].equal(values[1])


def test_expectation_and_mode():
    logits = random(3, 4, seed=150)
    distribution = OneHotCategorical(logits=logits)
    assert_equal([Expectation().draw(distribution).value], [logits.softmax(-1)], atol=1e-15)
    mode = Mode().draw(distribution).value
    assert mode.equal(deterministic_value(distribution))
    assert mode.argmax(-1).equal(logits.argmax(-1))


def test_a_replayed_outcome_is_a_constant():
    """No gradient runs through a given value, wherever it came from."""
    mean = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    noise = Normal(mean, 1.0).rsample()
    with StochasticGraph(default_estimator=ScoreFunction(), values={"z": noise}) as graph:
        z = sample("z", Normal(mean, 1.0))
        graph.cost("c", z)
    assert not z.requires_grad
    assert_equal(gradient(graph.surrogate(), [mean]), [noise.detach() ** 2])
