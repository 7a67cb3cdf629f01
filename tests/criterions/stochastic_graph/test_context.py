"""How a model meets the graph: the active graph, and what a layer does outside one."""

import threading

import pytest
import torch
from policies import random
from torch import nn
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Independent,
    LogNormal,
    Normal,
    OneHotCategorical,
    RelaxedOneHotCategorical,
    TransformedDistribution,
)

from criterions.stochastic_graph import (
    ESTIMATORS,
    GumbelSoftmax,
    Mode,
    NoScore,
    ScoreFunction,
    StochasticGraph,
    active_graph,
    deterministic_value,
    sample,
)


class HardAttention(nn.Module):
    """As a researcher would write it: it knows nothing of estimators."""

    def forward(self, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        scores = query @ memory.transpose(1, 2)
        return sample("attention", OneHotCategorical(logits=scores)) @ memory


def test_outside_a_graph_a_layer_is_deterministic():
    query, memory = random(2, 3, 4, seed=200), random(2, 5, 4, seed=201)
    expected = torch.stack([m[(q @ m.t()).argmax(-1)] for q, m in zip(query, memory, strict=True)])
    for seed in range(5):
        torch.manual_seed(seed)
        torch.testing.assert_close(HardAttention()(query, memory), expected)


@pytest.mark.parametrize(
    "name", sorted({*ESTIMATORS.names} - {"reparameterized", "enumeration", "mode", "none"})
)
def test_the_criterion_alone_chooses_the_estimator(name: str):
    """The layer is the same for each; all give it a gradient."""
    query, memory = random(2, 3, 4, seed=202), random(2, 5, 4, seed=203, grad=False)
    torch.manual_seed(0)
    with StochasticGraph(estimators={"attention": ESTIMATORS.create(name)}) as graph:
        graph.cost("c", HardAttention()(query, memory).square().sum(-1))
    graph.surrogate().backward()
    assert query.grad.abs().sum() > 0


def test_enumerated_attention_through_the_layer():
    query, memory = random(2, 3, 4, seed=204), random(2, 5, 4, seed=205, grad=False)
    exact = ESTIMATORS.create("enumeration", independent_steps=True)
    with StochasticGraph(estimators={"attention": exact}) as graph:
        graph.cost("c", HardAttention()(query, memory).square().sum(-1))
    weights = (query @ memory.transpose(1, 2)).softmax(-1)
    expected = (weights @ memory.square().sum(-1, keepdim=True)).sum()
    torch.testing.assert_close(graph.surrogate(), expected)


def test_the_graphs_estimator_wins_over_the_layers():
    distribution = OneHotCategorical(logits=torch.zeros(2, 3))
    asked, chosen, default = NoScore(), Mode(), ScoreFunction()
    with StochasticGraph(estimators={"a": chosen}, default_estimator=default) as graph:
        for name in "ab":
            sample(name, distribution, estimator=asked)
        sample("c", distribution)
    estimators = [node.estimator for node in graph.nodes.values()]
    assert estimators == [chosen, asked, default]


def test_estimators_can_be_a_module_dict():
    estimators = nn.ModuleDict({"a": GumbelSoftmax(0.5)})
    with StochasticGraph(estimators=estimators) as graph:
        sample("a", OneHotCategorical(logits=torch.zeros(2, 3)))
    assert graph.nodes["a", None].estimator is estimators["a"]


def test_the_innermost_graph_is_active():
    assert active_graph() is None
    with StochasticGraph() as outer:
        with StochasticGraph() as inner:
            assert active_graph() is inner
        assert active_graph() is outer
        with outer:  # a graph can be entered again
            assert active_graph() is outer
        assert active_graph() is outer
    assert active_graph() is None


def test_a_graph_is_left_when_the_model_fails():
    with pytest.raises(KeyError), StochasticGraph():
        raise KeyError
    assert active_graph() is None


def test_a_graph_is_active_in_its_own_thread_only():
    seen = []
    with StochasticGraph():
        thread = threading.Thread(target=lambda: seen.append(active_graph()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_given_value_is_taken_inside_and_outside_a_graph():
    distribution, value = Categorical(logits=torch.tensor([[0.0, 9.0]])), torch.tensor([0])
    assert sample("z", distribution, value=value).equal(value)
    with StochasticGraph() as graph:
        assert sample("z", distribution, value=value).equal(value)
    torch.testing.assert_close(graph.nodes["z", None].log_prob, distribution.log_prob(value))


P = torch.tensor([0.2, 0.5, 0.8])


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (Categorical(probs=torch.tensor([[0.1, 0.6, 0.3]])), torch.tensor([1])),
        (OneHotCategorical(probs=torch.tensor([[0.1, 0.6, 0.3]])), torch.tensor([[0.0, 1, 0]])),
        (Bernoulli(P), torch.tensor([0.0, 0, 1])),
        (Binomial(10, torch.tensor([0.31])), torch.tensor([3.0])),
        (Normal(P, 1.0), P),
        (Beta(P, 1.0), P / (P + 1)),
        (Independent(Bernoulli(P), 1), torch.tensor([0.0, 0, 1])),
        (LogNormal(P, 1.0), P.exp()),
        (TransformedDistribution(Normal(P, 1.0), [AffineTransform(1.0, 2.0)]), 1 + 2 * P),
    ],
    ids=lambda x: type(x).__name__,
)
def test_deterministic_value_of_each_distribution(distribution, expected: torch.Tensor):
    torch.testing.assert_close(deterministic_value(distribution), expected)


def test_a_distribution_without_deterministic_value_is_named():
    distribution = RelaxedOneHotCategorical(torch.tensor(1.0), logits=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="has no deterministic value: add one with"):
        deterministic_value(distribution)
