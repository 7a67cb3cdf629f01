"""Every error names the argument and the way out."""

import re

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    Cauchy,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)

from criterions.stochastic_graph import (
    BASELINES,
    ESTIMATORS,
    Baseline,
    Constant,
    Enumeration,
    Estimator,
    Expectation,
    ExpectedCost,
    GreedyDecode,
    GumbelSoftmax,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    Reparameterized,
    ScoreFunction,
    StochasticGraph,
    StraightThrough,
    sample,
)

TOKENS = Categorical(logits=torch.zeros(2, 3, 5))  # [batch, time]
LATENT = Categorical(logits=torch.zeros(2, 5))  # [batch]
WEIGHTS = OneHotCategorical(logits=torch.zeros(2, 5))


def raises(message: str, error: type[Exception] = ValueError):
    return pytest.raises(error, match=re.escape(message))


def test_a_name_used_twice():
    with StochasticGraph() as graph:
        sample("z", LATENT)
        sample("z", LATENT, step=0)
        with raises("node 'z' was recorded before: give each stochastic layer its own name, or"):
            sample("z", LATENT)
        with raises("node 'z' at step 0 was recorded before"):
            sample("z", LATENT, step=0)
        graph.cost("c", torch.zeros(2))
        with raises("cost 'c' was recorded before: give each cost its own name or step="):
            graph.cost("c", torch.zeros(2))


@pytest.mark.parametrize(
    ("estimator", "distribution", "message"),
    [
        (Reparameterized(), LATENT, "node 'z': Categorical has no rsample to reparameterize: use"),
        (GumbelSoftmax(), LATENT, "Categorical draws indices, which carry no gradient: give One"),
        (StraightThrough(), LATENT, "give OneHotCategorical with the same logits"),
        (GumbelSoftmax(), Poisson(torch.ones(2)), "Poisson has no relaxation: use OneHotCat"),
        (StraightThrough(), Normal(torch.zeros(2), 1.0), "Normal has no relaxation"),
        (GumbelSoftmax(0.0), WEIGHTS, "temperature must be above 0; got 0.0 at update 7"),
        (GumbelSoftmax(Constant(-1.0)), WEIGHTS, "temperature must be above 0; got -1.0"),
        (
            Expectation(),
            LATENT,
            "node 'z': Categorical draws indices, which have no mean: give",
        ),
        (Expectation(), Independent(TOKENS, 1), "Categorical draws indices, which have no mean"),
        (Expectation(), Cauchy(torch.zeros(2), 1.0), "node 'z': Cauchy has no mean: use score_fu"),
        (Enumeration(), Normal(torch.zeros(2), 1.0), "Normal cannot be enumerated: use a Cat"),
        (Enumeration(), Poisson(torch.ones(2)), "Poisson cannot be enumerated"),
        (
            Enumeration(),
            TOKENS,
            "node 'z' enumerates a distribution of batch shape [2, 3], where",
        ),
        (Enumeration(), TOKENS, "record one node for each step, with step=; or, if step t's cost"),
    ],
)
def test_a_distribution_that_does_not_fit_the_estimator(estimator, distribution, message: str):
    with StochasticGraph(estimators={"z": estimator}, update=7), raises(message):
        sample("z", distribution)


def test_a_value_for_an_estimator_that_cannot_replay():
    for estimator in (Reparameterized(), GumbelSoftmax(), Enumeration(), Expectation()):
        with StochasticGraph(), raises("cannot take a given value: only a sampled outcome"):
            sample("z", LATENT, estimator=estimator, value=torch.zeros(2))


def test_a_value_of_another_shape_does_not_broadcast():
    for value in (torch.zeros(3), torch.zeros(2, 1), torch.zeros(())):
        with StochasticGraph(values={"z": value}), raises("node 'z': the given value has shape"):
            sample("z", TOKENS)


@pytest.mark.parametrize(
    ("distribution", "value", "message"),
    [
        (TOKENS, (2, 4), "cost 'c' has 4 steps, but node 'z', upstream of it, has 3: pad both"),
        (TOKENS, (2, 4), "causal=False or as torch.distributions.Independent(distribution, 1)"),
        (TOKENS, (3, 3), "cost 'c' has a batch of 3, but the graph has 2 (sources times samples)"),
        (TOKENS, (2, 3, 5), "cost 'c' must be [batch] or [batch, time]; got shape [2, 3, 5]"),
        (TOKENS, (), "cost 'c' must be [batch] or [batch, time]; got shape []"),
        (LATENT, (1,), "cost 'c' has a batch of 1, but the graph has 2"),
    ],
)
def test_a_cost_that_does_not_fit(distribution, value: tuple[int, ...], message: str):
    with StochasticGraph() as graph:
        sample("z", distribution)
        with raises(message):
            graph.cost("c", torch.zeros(value))


def test_a_cost_that_is_no_number_of_the_right_kind():
    graph = StochasticGraph()
    with raises("cost 'c' must be floating; got torch.int64: convert it with .float()"):
        graph.cost("c", torch.zeros(2, dtype=torch.int64))
    with raises("cost 'c' at step 1 must be [batch] (it has a step); got shape [2, 3]"):
        graph.cost("c", torch.zeros(2, 3), step=1)


def test_a_step_that_the_cost_does_not_have():
    with StochasticGraph() as graph:
        sample("z", LATENT, step=3)
        with raises("cost 'c' has 3 steps, numbered from 0, but node 'z' at step 3 is upstream"):
            graph.cost("c", torch.zeros(2, 3))


def test_rows_of_two_nodes_that_differ():
    with StochasticGraph():
        sample("a", LATENT)
        with raises("node 'b' has a batch of 4, but the graph has 2"):
            sample("b", Categorical(logits=torch.zeros(4, 5)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 3), "mask of node 'z' must be boolean, True where the position counts"),
        (torch.ones(2, 4).bool(), "mask of node 'z' must have the shape of its values, [2, 3]"),
        (torch.ones(2).bool(), "mask of node 'z' must have the shape of its values, [2, 3]"),
        (torch.ones(1, 3).bool(), "mask of node 'z' must have the shape of its values, [2, 3]"),
    ],
)
def test_a_mask_that_does_not_fit(mask: torch.Tensor, message: str):
    with StochasticGraph() as graph:
        with raises(message):
            sample("z", TOKENS, mask=mask)
        with raises(message.replace("node 'z'", "cost 'c'")):
            graph.cost("c", torch.zeros(2, 3), mask=mask)


def test_unknown_names():
    with StochasticGraph() as graph:
        sample("attention", LATENT)
        with raises("parents of cost 'c' names unknown 'atention'; recorded stochastic nodes: at"):
            graph.cost("c", torch.zeros(2), parents=["atention"])
        with raises("before of cost 'c' names unknown 'token'"):
            graph.cost("c", torch.zeros(2), before=["token"])
        with raises("parents of node 'b' must be a list of names; got 'attention' alone"):
            sample("b", LATENT, parents="attention")
        with raises("no node 'b'; recorded stochastic nodes: attention"):
            graph.set_baseline_input("b", torch.zeros(2))
    with StochasticGraph() as graph, raises("recorded stochastic nodes: none"):
        graph.cost("c", torch.zeros(2), parents=["z"])


@pytest.mark.parametrize("argument", ["estimators", "values"])
def test_a_misspelt_name_is_not_silently_ignored(argument: str):
    given = {"atention": ScoreFunction() if argument == "estimators" else torch.zeros(2)}
    with StochasticGraph(**{argument: given}) as graph:
        sample("attention", LATENT)
        graph.cost("c", torch.zeros(2))
    with raises(f"{argument} of the graph names 'atention', which no layer recorded; recorded"):
        graph.surrogate()


def test_before_of_a_node_without_time():
    with StochasticGraph() as graph:
        sample("latent", LATENT)
        with raises("before of cost 'c' names 'latent', which has no time axis: leave it out, or"):
            graph.cost("c", torch.zeros(2, 3), before=["latent"])


def test_a_graph_without_cost():
    with StochasticGraph() as graph:
        sample("z", LATENT)
    with raises("the graph has no cost: record one with graph.cost(name, value)"):
        graph.surrogate()


def test_recording_after_the_surrogate():
    with StochasticGraph() as graph:
        sample("z", LATENT)
        graph.cost("c", torch.zeros(2))
        graph.surrogate()
        for late in (lambda: sample("y", LATENT), lambda: graph.cost("d", torch.zeros(2))):
            with raises("comes after surrogate()", RuntimeError):
                late()
        with raises("baseline_input of node 'z' comes after", RuntimeError):
            graph.set_baseline_input("z", torch.zeros(2))


@pytest.mark.parametrize(
    ("baseline", "given", "message"),
    [
        (LeaveOneOut(), None, "leave_one_out baseline of node 'z' needs samples >= 2: open the"),
        (GreedyDecode(), None, "baseline of node 'z' needs the cost of the greedy output, [batch]"),
        (GreedyDecode(), torch.zeros(3), "baseline_input of node 'z' must have shape [2, ...]"),
        (GreedyDecode(), torch.zeros(2, 3, 1), "must be the cost of the greedy output, [batch] or"),
        (GreedyDecode(), torch.zeros(2, 4), "baseline of node 'z' has shape [2, 4], which does"),
        (
            ExpectedCost(),
            None,
            "baseline of node 'z' needs the expected cost of the sample, [batch]",
        ),
        (LearnedBaseline(4), None, "needs a state [batch, features]: give it as baseline_input of"),
        (LearnedBaseline(4), torch.zeros(2, 3, 5), "must be a state [batch, time, 4]; got shape"),
        (LearnedBaseline(4), torch.zeros(2, 4), "must be a state [batch, time, 4]; got shape"),
    ],
)
def test_a_baseline_without_what_it_needs(baseline, given, message: str):
    with StochasticGraph(default_estimator=ScoreFunction(baseline)) as graph:
        sample("z", TOKENS, baseline_input=given)
        graph.cost("c", torch.zeros(2, 3))
    with raises(message):
        graph.surrogate()


def test_settings_out_of_range():
    with raises("decay must be at least 0 and below 1; got 1"):
        MovingAverage(decay=1)
    with raises("samples must be at least 1; got 0"):
        StochasticGraph(samples=0)


def test_samples_that_do_not_fit_the_batch():
    with StochasticGraph(samples=3) as graph:
        with raises("node 'z' has a batch of 2, which samples=3 does not divide: repeat every"):
            sample("z", LATENT)
        with raises("cost 'c' has a batch of 2, which samples=3 does not divide"):
            graph.cost("c", torch.zeros(2))


def test_shapes_around_enumerated_nodes():
    with StochasticGraph(estimators={"a": Enumeration()}) as graph:
        sample("a", LATENT)
        with raises("cost 'c' must be [enumerated, batch] or [enumerated, batch, time]; got shape"):
            graph.cost("c", torch.zeros(2))
        with raises("must have size 5 or 1 at axis 0, the values of enumerated node 'a'; got sha"):
            graph.cost("c", torch.zeros(2, 3))
        with raises("distribution of node 'b' must be [enumerated 0, batch, ...]; got shape [2]"):
            sample("b", Bernoulli(torch.full((2,), 0.5)))


def test_independent_steps_allow_no_more_than_costs_per_step():
    exact = {"a": Enumeration(independent_steps=True)}
    with StochasticGraph(estimators=exact) as graph:
        sample("a", TOKENS)
        with raises("whose steps are independent, and so must have a time axis: give the cost of"):
            graph.cost("c", torch.zeros(5, 2))
        with raises("node 'b' is drawn after node 'a', whose steps are enumerated independently"):
            sample("b", Categorical(logits=torch.zeros(5, 2, 3, 4)))


def test_independent_latent_is_told_from_time():
    """The shape that is most often meant otherwise: a latent vector ``[batch, dim]``."""
    latent = Normal(torch.zeros(2, 8), 1.0)
    with StochasticGraph() as graph:
        sample("z", latent)
        with raises("node 'z', upstream of it, has 8: pad both to the same length; if the node's"):
            graph.cost("c", torch.zeros(2, 3))
    with StochasticGraph() as graph:
        sample("z", Independent(latent, 1))
        graph.cost("c", torch.zeros(2, 3))
    graph.surrogate()


def test_registries_refuse_what_does_not_fit():
    with raises("estimator must be one of enumeration, expectation, gumbel_softmax, mode, none,"):
        ESTIMATORS.create("gumble")
    with raises(
        "baseline must be one of expected, greedy, learned, leave_one_out, moving_average, none;"
    ):
        BASELINES.get("average")
    with raises("baseline 'greedy' is already registered as GreedyDecode; choose another name"):

        @BASELINES.register("greedy")
        class Another(Baseline):
            pass

    with raises("estimator 'mine' must be a subclass of Estimator; got", TypeError):
        ESTIMATORS.register("mine")(Baseline)


def test_an_estimator_of_ones_own_must_have_a_baseline_with_its_score():
    class Bare(Estimator):
        def _draw(self, distribution, value, update):
            return ScoreFunction()._draw(distribution, value, update)

    with StochasticGraph(default_estimator=Bare()) as graph:
        sample("z", LATENT)
        graph.cost("c", torch.zeros(2))
    with raises("Bare of node 'z' has a score term and so must have a baseline: set it to NoBas"):
        graph.surrogate()
