"""Marginalised nodes: no outcome is drawn, value and gradient are exact."""

import itertools

import pytest
import torch
from policies import START, Chain, assert_equal, gradient, random
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from criterions.stochastic_graph import Enumeration, StochasticGraph, sample

EXACT = {"exact": Enumeration()}


def test_a_chain_enumerated_step_by_step_is_exact():
    """Every step adds an axis: ``[3, 3, 3, rows]`` at the end."""
    chain = Chain()
    with StochasticGraph(default_estimator=Enumeration()) as graph:
        previous = torch.full((2,), START)
        alive = torch.ones(2, dtype=torch.bool)
        for t in range(3):
            token = sample("token", Categorical(logits=chain.table[t, previous]), step=t)
            cost = chain.price[t, previous, token] + chain.extra[t, previous] ** 2
            graph.cost("price", cost, mask=alive.expand_as(cost), step=t)
            previous, alive = token, alive & (token != 0)
    expected = chain.expected_cost()
    torch.testing.assert_close(graph.surrogate_per_source(), expected.expand(2))
    assert_equal(
        gradient(graph.surrogate_per_source().mean(), chain.parameters), chain.true_gradient()
    )
    total = sum(float(v) for k, v in graph.statistics().items() if k.startswith("cost/"))
    assert total == pytest.approx(expected.item())


@pytest.mark.parametrize("distribution", ["index", "one-hot"])
def test_attention_with_independent_steps_is_exact(distribution: str):
    """``sum_t sum_k p_t(k) c_t(k)`` in one forward pass."""
    logits, values = random(2, 3, 4, seed=60), random(2, 3, 4, seed=61)  # batch, time, src_len
    mask = torch.tensor([[True, True, True], [True, False, False]])
    with StochasticGraph(
        estimators={"attention": Enumeration(independent_steps=True)}, samples=1
    ) as graph:
        if distribution == "one-hot":
            weights = sample("attention", OneHotCategorical(logits=logits))
        else:
            index = sample("attention", Categorical(logits=logits))
            weights = torch.nn.functional.one_hot(index, 4).double()
        cost = (weights * values).sum(-1) ** 2
        assert cost.shape == (4, 2, 3)
        graph.cost("c", cost, mask=mask)
    expected = ((logits.softmax(-1) * values**2).sum(-1) * mask).sum()
    torch.testing.assert_close(graph.surrogate(), expected)
    assert_equal(
        gradient(graph.surrogate(), [logits, values]), gradient(expected, [logits, values])
    )


def test_a_sampled_node_behind_an_enumerated_one():
    """``a`` is summed over, ``b`` drawn for each of its values; averaged over all draws of b."""
    first, second = random(3, seed=70), random(3, 2, seed=71)
    cost_a, cost_ab = random(3, seed=72), random(3, 2, seed=73)
    draws = torch.tensor(list(itertools.product(range(2), repeat=3)))  # b for a = 0, 1, 2
    values = draws.t()  # [values of a, rows]
    probability = second.softmax(1).detach()[torch.arange(3)[:, None], values].prod(0)
    with StochasticGraph(estimators={"a": Enumeration()}, values={"b": values}) as graph:
        a = sample("a", Categorical(logits=first.expand(8, 3)))
        graph.cost("middle", cost_a[a])
        b = sample("b", Categorical(logits=second[a]))
        graph.cost("end", cost_ab[a, b])
    parameters = [first, second, cost_a, cost_ab]
    p_a, p_b = first.softmax(0), second.softmax(1)
    expected = (p_a * cost_a).sum() + (p_a[:, None] * p_b * cost_ab).sum()
    assert_equal(
        gradient((probability * graph.surrogate_per_source()).sum(), parameters),
        gradient(expected, parameters),
    )


def test_an_enumerated_node_behind_a_sampled_one():
    """The sampled node answers for the cost's expectation over the later node."""
    first, second = random(3, seed=80), random(3, 2, seed=81)
    cost = random(3, 2, 2, seed=82)
    with StochasticGraph(estimators={"b": Enumeration()}, values={"a": torch.arange(3)}) as graph:
        a = sample("a", Categorical(logits=first.expand(3, 3)))
        b = sample("b", Categorical(logits=second[a]))
        steps = torch.arange(2)
        graph.cost("c", cost[a[:, None], b[..., None], steps])  # [values of b, rows, time]
    parameters = [first, second, cost]
    p_a, p_b = first.softmax(0), second.softmax(1)
    expected = (p_a[:, None] * p_b * cost.sum(-1)).sum()
    assert_equal(
        gradient((p_a.detach() * graph.surrogate_per_source()).sum(), parameters),
        gradient(expected, parameters),
    )


def test_an_enumerated_node_that_does_not_depend_on_an_earlier_one():
    """With ``parents=()`` its distribution has no axis of the earlier node; its value has."""
    p, q = random(2, seed=90), random(3, seed=91)
    cost = random(2, 3, seed=92)
    with StochasticGraph(default_estimator=Enumeration()) as graph:
        a = sample("a", Bernoulli(logits=p.expand(2)[:1])).long()
        b = sample("b", Categorical(logits=q.expand(1, 3)), parents=())
        assert a.shape == (2, 1)
        assert b.shape == (3, 1, 1)
        graph.cost("both", cost[a, b])
        graph.cost("a alone", a.double(), parents=["a"])
        graph.cost("neither", torch.ones(1).double(), parents=())
    p_a = torch.stack([1 - p[0].sigmoid(), p[0].sigmoid()])
    expected = (p_a[:, None] * q.softmax(0) * cost).sum() + p_a[1] + 1
    torch.testing.assert_close(graph.surrogate(), expected)
    assert_equal(gradient(graph.surrogate(), [p, q, cost]), gradient(expected, [p, q, cost]))


def test_a_cost_that_is_the_same_for_every_value_counts_once():
    with StochasticGraph(default_estimator=Enumeration()) as graph:
        sample("a", Categorical(logits=torch.zeros(2, 5)))
        graph.cost("c", torch.tensor([[1.0, 2.0]]))  # size 1 at the enumerated axis
    assert graph.surrogate().item() == 3


def test_masked_categories_have_no_weight_and_give_no_nan():
    """Padded source positions at ``-inf``, as in attention."""
    logits, values = random(2, 3, 4, seed=95), random(2, 1, 4, seed=96, grad=False)
    padding = torch.tensor([[[False, False, True, True]], [[False] * 4]])
    exact = {"attention": Enumeration(independent_steps=True)}
    with StochasticGraph(estimators=exact) as graph:
        z = sample("attention", OneHotCategorical(logits=logits.masked_fill(padding, -torch.inf)))
        graph.cost("c", (z * values).sum(-1))
    expected = (logits[:1, :, :2].softmax(-1) * values[:1, :, :2]).sum()
    expected = expected + (logits[1:].softmax(-1) * values[1:]).sum()
    torch.testing.assert_close(graph.surrogate(), expected)
    assert_equal(gradient(graph.surrogate(), [logits]), gradient(expected, [logits]))


@pytest.mark.parametrize("time", [False, True], ids=["batch", "batch and time"])
def test_where_its_mask_is_false_an_enumerated_node_has_no_gradient(time: bool):
    """As a score-function node there has no score term; the expected cost stays the same."""
    shape = (2, 3) if time else (2,)
    logits, values = random(*shape, 4, seed=97), random(4, *shape, seed=98)
    mask = torch.tensor([[True, True, False], [False, True, False]])
    mask = mask if time else mask[:, 1] & mask[:, 0]
    with StochasticGraph(default_estimator=Enumeration(independent_steps=time)) as graph:
        sample("a", Categorical(logits=logits), mask=mask)
        graph.cost("c", values)
    p = logits.softmax(-1).movedim(-1, 0)
    expected = (torch.where(mask, p, p.detach()) * values).sum()
    torch.testing.assert_close(graph.surrogate(), expected)
    actual = gradient(graph.surrogate(), [logits, values])
    assert_equal(actual, gradient(expected, [logits, values]))
    assert actual[0][~mask].eq(0).all()
    assert actual[0][mask].ne(0).any()


def test_a_mask_of_an_enumerated_node_has_to_fit():
    message = "mask of node 'a' must have the shape of its values"
    with StochasticGraph(default_estimator=Enumeration()), pytest.raises(ValueError, match=message):
        sample("a", Categorical(logits=torch.zeros(2, 4)), mask=torch.ones(3).bool())


def test_steps_drawn_after_an_enumerated_latent_are_summed_over_their_own_axis():
    """``[values, batch, time]``: the score terms of a value's steps have its probability."""
    values, batch, time, words = 2, 3, 4, 5
    generator = torch.Generator().manual_seed(1)
    prior = torch.randn(batch, values, generator=generator, requires_grad=True)
    table = torch.randn(values, time, words, generator=generator, requires_grad=True)
    drawn = torch.randint(words, (values, batch, time), generator=generator)
    costs = torch.rand(values, batch, time, generator=generator)
    with StochasticGraph(values={"z": drawn}) as graph:
        u = graph.sample("u", OneHotCategorical(logits=prior), estimator=Enumeration())
        logits = torch.einsum("ubk,ktw->ubtw", u, table)
        graph.sample("z", Categorical(logits=logits))
        graph.cost("c", costs)
    found = graph.surrogate_per_source()

    probability = prior.softmax(-1).T
    rows = table.log_softmax(-1).unsqueeze(1).expand(-1, batch, -1, -1)
    log_prob = rows.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
    to_go = costs.flip(-1).cumsum(-1).flip(-1)
    score = probability.detach() * (log_prob * to_go).sum(-1)
    expected = (probability * costs.sum(-1) + score).sum(0)
    torch.testing.assert_close(found, expected)
    for pair in zip(
        torch.autograd.grad(found.sum(), (prior, table)),
        torch.autograd.grad(expected.sum(), (prior, table)),
        strict=True,
    ):
        torch.testing.assert_close(*pair)
