"""The estimate, averaged over every outcome with its probability, is the true gradient.

No sampling error is involved: outcomes are forced through ``values`` and weighted.
"""

import itertools

import pytest
import torch
from policies import START, Chain, assert_equal, gradient, random
from torch.distributions import Categorical, OneHotCategorical

from criterions.stochastic_graph import (
    Baseline,
    GreedyDecode,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    NoBaseline,
    NoScore,
    ScoreFunction,
    StochasticGraph,
    sample,
)


def primed_average() -> MovingAverage:
    baseline = MovingAverage(decay=0.5)
    baseline.total.fill_(1.4)
    baseline.weight.fill_(0.5)
    return baseline


def learned(features: int) -> LearnedBaseline:
    torch.manual_seed(0)
    return LearnedBaseline(features).double()


# Name -> (baseline, what it is computed from, given the outcomes and the chain).
BASELINES = {
    "none": (NoBaseline, lambda chain, tokens: None),
    "moving average": (primed_average, lambda chain, tokens: None),
    "greedy": (GreedyDecode, lambda chain, tokens: torch.full((len(tokens),), 0.7).double()),
    "greedy per step": (
        GreedyDecode,
        lambda chain, tokens: torch.tensor([2.0, -1.0, 0.5]).double().expand(len(tokens), -1),
    ),
    "learned": (
        lambda: learned(4),
        lambda chain, tokens: torch.eye(4).double()[chain.previous(tokens)],
    ),
}


def downstream(graph: StochasticGraph, name: str) -> list[str]:
    position = graph.nodes[name, None].position
    return [cost.name for cost in graph.costs.values() if position in cost.ancestors]


def record_chain(
    chain: Chain, tokens: torch.Tensor, baseline: Baseline, baseline_input: object, cost: str
) -> StochasticGraph:
    graph = StochasticGraph(estimators={"token": ScoreFunction(baseline)}, values={"token": tokens})
    exists = chain.exists(tokens)
    with graph:
        drawn = sample(
            "token",
            Categorical(logits=chain.logits(tokens)),
            mask=exists,
            baseline_input=baseline_input,
        )
        assert drawn.equal(tokens)
        costs = chain.costs(drawn)
        if cost == "per step":
            graph.cost("price", costs, mask=exists)
        else:
            graph.cost("price", costs.masked_fill(~exists, 0).sum(1))
    return graph


@pytest.mark.parametrize("cost", ["per step", "whole output"])
@pytest.mark.parametrize("name", BASELINES)
def test_autoregressive_chain_with_each_baseline(name: str, cost: str):
    chain = Chain()
    tokens = chain.outcomes()
    make, baseline_input = BASELINES[name]
    graph = record_chain(chain, tokens, make(), baseline_input(chain, tokens), cost)
    weighted = (chain.probability(tokens) * graph.surrogate_per_source()).sum()
    assert_equal(gradient(weighted, chain.parameters), chain.true_gradient())


@pytest.mark.parametrize("cost", ["per step", "whole output"])
def test_autoregressive_chain_with_leave_one_out(cost: str):
    """Every pair of outputs is a source with two samples."""
    chain = Chain(steps=2)
    single = chain.outcomes()
    pairs = torch.tensor(list(itertools.product(range(len(single)), repeat=2)))
    tokens = single[pairs].flatten(0, 1)
    exists = chain.exists(tokens)
    estimators = {"token": ScoreFunction(LeaveOneOut())}
    with StochasticGraph(estimators=estimators, samples=2, values={"token": tokens}) as graph:
        drawn = sample("token", Categorical(logits=chain.logits(tokens)), mask=exists)
        costs = chain.costs(drawn)
        if cost == "per step":
            graph.cost("price", costs, mask=exists)
        else:
            graph.cost("price", costs.masked_fill(~exists, 0).sum(-1))
    probability = chain.probability(single)[pairs].prod(1)
    weighted = (probability * graph.surrogate_per_source()).sum()
    assert_equal(gradient(weighted, chain.parameters), chain.true_gradient())


@pytest.mark.parametrize("single_cost", [False, True], ids=["cost per step", "one cost"])
def test_recording_step_by_step_is_the_same_as_at_once(single_cost: bool):
    chain = Chain()
    tokens = chain.outcomes()
    exists, costs = chain.exists(tokens), chain.costs(tokens)
    at_once = record_chain(chain, tokens, NoBaseline(), None, "per step")
    with StochasticGraph(values={("token", t): tokens[:, t] for t in range(3)}) as graph:
        logits = chain.logits(tokens)
        for t in range(3):
            sample("token", Categorical(logits=logits[:, t]), mask=exists[:, t], step=t)
            if not single_cost:
                graph.cost("price", costs[:, t], mask=exists[:, t], step=t)
        if single_cost:
            graph.cost("price", costs, mask=exists)
    torch.testing.assert_close(graph.surrogate_per_source(), at_once.surrogate_per_source())


@pytest.mark.parametrize("per_step_cost", [False, True])
def test_node_of_all_steps_with_costs_recorded_step_by_step(per_step_cost: bool):
    """Costs ``[batch]`` with a step sit on the time axis of a node ``[batch, time]``."""
    chain = Chain()
    tokens = chain.outcomes()
    exists, costs = chain.exists(tokens), chain.costs(tokens)
    with StochasticGraph(values={"token": tokens}) as graph:
        sample("token", Categorical(logits=chain.logits(tokens)), mask=exists)
        if per_step_cost:
            for t in (2, 0, 1):  # the order of the costs among themselves is free
                graph.cost("price", costs[:, t], mask=exists[:, t], step=t)
        else:
            graph.cost("price", costs, mask=exists)
    weighted = (chain.probability(tokens) * graph.surrogate_per_source()).sum()
    assert_equal(gradient(weighted, chain.parameters), chain.true_gradient())


class TwoLayers:
    """``a ~ first``, a cost of a, ``b ~ second[a]``, a cost of both."""

    def __init__(self) -> None:
        self.first, self.second = random(3, seed=10), random(3, 2, seed=11)
        self.cost_a, self.cost_ab = random(3, seed=12), random(3, 2, seed=13)
        self.parameters = [self.first, self.second, self.cost_a, self.cost_ab]

    def true_gradient(self) -> list[torch.Tensor]:
        p_a, p_b = self.first.softmax(0), self.second.softmax(1)
        expected = (p_a * self.cost_a).sum() + (p_a[:, None] * p_b * self.cost_ab).sum()
        return gradient(expected, self.parameters)

    def outcomes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        a, b = torch.tensor(list(itertools.product(range(3), range(2)))).unbind(1)
        p = self.first.softmax(0)[a] * self.second.softmax(1)[a, b]
        return a, b, p.detach()


@pytest.mark.parametrize("make", [NoBaseline, primed_average])
def test_two_layers_with_a_cost_in_the_middle(make):
    layers = TwoLayers()
    a, b, p = layers.outcomes()
    baseline = ScoreFunction(make())
    with StochasticGraph(default_estimator=baseline, values={"a": a, "b": b}) as graph:
        drawn_a = sample("a", Categorical(logits=layers.first.expand(6, 3)))
        graph.cost("middle", layers.cost_a[drawn_a])
        drawn_b = sample("b", Categorical(logits=layers.second[drawn_a]))
        graph.cost("end", layers.cost_ab[drawn_a, drawn_b])
    weighted = (p * graph.surrogate_per_source()).sum()
    assert_equal(gradient(weighted, layers.parameters), layers.true_gradient())


def test_a_node_answers_only_for_the_costs_recorded_after_it():
    """Per outcome, not on average: the factor of each ``grad log p`` is its downstream cost."""
    layers = TwoLayers()
    a, b, _ = layers.outcomes()
    logits_a = layers.first.detach().repeat(6, 1).requires_grad_()
    logits_b = layers.second.detach()[a].requires_grad_()
    middle, end = layers.cost_a.detach()[a], layers.cost_ab.detach()[a, b]
    with StochasticGraph(values={"a": a, "b": b}) as graph:
        sample("a", Categorical(logits=logits_a))
        graph.cost("middle", middle)
        sample("b", Categorical(logits=logits_b))
        graph.cost("end", end)
    assert downstream(graph, "a") == ["middle", "end"]
    assert downstream(graph, "b") == ["end"]
    gradients = gradient(graph.surrogate(), [logits_a, logits_b])
    score_a = torch.eye(3).double()[a] - logits_a.softmax(1)
    score_b = torch.eye(2).double()[b] - logits_b.softmax(1)
    expected = [score_a * (middle + end)[:, None], score_b * end[:, None]]
    assert_equal(gradients, expected, atol=1e-14)


def test_explicit_parents_cut_costs_that_a_node_cannot_influence():
    """Two independent branches, recorded one after the other, and a cost of each."""
    p, q = random(2, seed=20), random(2, seed=21)
    cost_a, cost_b = random(2, seed=22), random(2, seed=23)
    a, b = torch.tensor(list(itertools.product(range(2), range(2)))).unbind(1)
    with StochasticGraph(values={"a": a, "b": b, "c": b}) as graph:
        sample("a", Categorical(logits=p.expand(4, 2)))
        sample("b", Categorical(logits=q.expand(4, 2)), parents=())
        sample("c", Categorical(logits=q.detach().expand(4, 2)), parents=["b"])
        graph.cost("a", cost_a[a], parents=["a"])
        graph.cost("b", cost_b[b], parents=["c"])  # of b, too: c depends on it
    names = {name: downstream(graph, name) for name in ("a", "b", "c")}
    assert names == {"a": ["a"], "b": ["b"], "c": ["b"]}
    weight = (p.softmax(0)[a] * q.softmax(0)[b]).detach()
    expected = (p.softmax(0) * cost_a).sum() + (q.softmax(0) * cost_b).sum()
    parameters = [p, q, cost_a, cost_b]
    assert_equal(
        gradient((weight * graph.surrogate_per_source()).sum(), parameters),
        gradient(expected, parameters),
    )


def reward_to_go(before: tuple[str, ...]) -> torch.Tensor:
    """Gradient to the logits of one node ``[1, 3]`` with costs 1, 10, 100, outcome 0."""
    logits = torch.zeros(1, 3, 2, dtype=torch.float64, requires_grad=True)
    with StochasticGraph(values={"z": torch.zeros(1, 3, dtype=torch.int64)}) as graph:
        sample("z", Categorical(logits=logits))
        graph.cost("c", torch.tensor([[1.0, 10.0, 100.0]]).double(), before=before)
    return gradient(graph.surrogate(), [logits])[0][0, :, 0] / 0.5


def test_the_own_step_counts_unless_the_cost_comes_before_the_node():
    assert reward_to_go(()).tolist() == [111, 110, 100]
    assert reward_to_go(("z",)).tolist() == [110, 100, 0]


def test_the_convention_is_the_same_step_by_step():
    logits = torch.zeros(3, 1, 2, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.int64)
    with StochasticGraph(values={"z": zero}) as graph:
        for t in range(3):
            sample("z", Categorical(logits=logits[t]), step=t)
        graph.cost("own", torch.tensor([[1.0, 10.0, 100.0]]).double())
        graph.cost("fed", torch.tensor([[0.5, 0.25, 0.125]]).double(), before=["z"])
    factors = gradient(graph.surrogate(), [logits])[0][:, 0, 0] / 0.5
    assert factors.tolist() == [111.375, 110.125, 100]


def test_sampled_feeding_is_unbiased_though_the_own_step_is_left_out():
    """``z_t`` is drawn from the row that cost ``t`` is paid on, and fed to step t + 1."""
    rows = random(2, 3, 3, seed=30)  # logits by step and fed token
    loss = random(2, 3, seed=31)
    z = torch.tensor(list(itertools.product(range(3), repeat=2)))
    fed = torch.stack([torch.full_like(z[:, 0], START), z[:, 0]], dim=1)
    logits = rows[torch.arange(2), fed]
    probability = logits.softmax(-1).gather(2, z[:, :, None])[..., 0].prod(1).detach()
    with StochasticGraph(values={"fed": z}) as graph:
        sample("fed", Categorical(logits=logits))
        graph.cost("cross_entropy", loss[torch.arange(2), fed], before=["fed"])
    weighted = (probability * graph.surrogate_per_source()).sum()
    expected = loss[0, START] + (rows[0, START].softmax(0) * loss[1]).sum()
    assert_equal(
        gradient(weighted, [rows, loss]), gradient(expected + 0 * rows.sum(), [rows, loss])
    )


def test_a_latent_of_the_whole_sentence_answers_for_every_step():
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    with StochasticGraph(values={"latent": torch.zeros(2, dtype=torch.int64)}) as graph:
        sample("latent", Categorical(logits=logits))
        mask = torch.tensor([[True, True, True], [True, False, False]])
        graph.cost("c", torch.tensor([[1.0, 2.0, 4.0]] * 2).double(), mask=mask)
    assert (gradient(graph.surrogate(), [logits])[0][:, 0] / 0.5).tolist() == [7, 1]


def test_positions_that_are_not_time_answer_for_every_cost():
    """Source positions: as many as target steps, but no reward-to-go."""
    logits = torch.zeros(1, 3, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    with StochasticGraph(values={"kept": torch.zeros(1, 3, dtype=torch.int64)}) as graph:
        sample("kept", Categorical(logits=logits), causal=False, mask=mask)
        graph.cost("c", torch.tensor([[1.0, 10.0, 100.0]]).double())
    assert (gradient(graph.surrogate(), [logits])[0][0, :, 0] / 0.5).tolist() == [111, 111, 0]


def test_hard_attention_with_independent_heads():
    """Axes after time are parts of one outcome: their log-probabilities add up."""
    logits = random(2, 3, 4, 5, seed=40)  # batch, time, heads, src_len
    costs = random(2, 3, seed=41, grad=False)
    torch.manual_seed(0)
    with StochasticGraph() as graph:
        drawn = sample("attention", OneHotCategorical(logits=logits))
        graph.cost("c", costs)
    to_go = torch.stack([costs[:, t:].sum(1) for t in range(3)], dim=1)
    expected = (drawn - logits.softmax(-1)) * to_go[..., None, None]
    assert_equal(gradient(graph.surrogate(), [logits]), [expected], atol=1e-14)


def test_k_samples_are_averaged_so_that_k_does_not_scale_the_gradient():
    logits, cost = random(1, 4, seed=50), random(4, seed=51, grad=False)
    single = None
    for k in (1, 3):
        with StochasticGraph(samples=k, values={"z": torch.full((k,), 2)}) as graph:
            z = sample("z", Categorical(logits=logits.repeat_interleave(k, 0)))
            graph.cost("c", cost[z])
        surrogate = graph.surrogate()
        single = surrogate if single is None else single
        torch.testing.assert_close(surrogate, single)
        torch.testing.assert_close(graph.surrogate_per_source(), single[None])
        torch.testing.assert_close(graph.surrogate_per_source().mean(), single)


@pytest.mark.parametrize("k", [2, 3])
def test_leave_one_out_lowers_the_exact_variance(k: int):
    """Variance of the gradient over all ``3 ** k`` groups of samples, weighted, no sampling."""
    logits = torch.tensor([0.2, -0.3, 0.4], dtype=torch.float64, requires_grad=True)
    cost = torch.tensor([3.0, 4.0, 6.0], dtype=torch.float64)
    groups = torch.tensor(list(itertools.product(range(3), repeat=k)))
    probability = logits.softmax(0).detach()[groups].prod(1)

    def moments(baseline: Baseline) -> tuple[torch.Tensor, torch.Tensor]:
        estimator = {"z": ScoreFunction(baseline)}
        with StochasticGraph(
            estimators=estimator, samples=k, values={"z": groups.flatten()}
        ) as graph:
            z = sample("z", Categorical(logits=logits.expand(groups.numel(), 3)))
            graph.cost("c", cost[z])
        estimates = torch.stack(
            [
                torch.autograd.grad(of_group, logits, retain_graph=True)[0]
                for of_group in graph.surrogate_per_source()
            ]
        )
        mean = (probability[:, None] * estimates).sum(0)
        return mean, (probability[:, None] * (estimates - mean) ** 2).sum()

    mean, variance = moments(NoBaseline())
    mean_left_out, variance_left_out = moments(LeaveOneOut())
    torch.testing.assert_close(mean, mean_left_out)
    assert variance_left_out < 0.5 * variance


@pytest.mark.parametrize("recorded", ["at once", "step by step"])
@pytest.mark.parametrize("scored", [True, False], ids=["score function", "no score"])
def test_steps_answer_for_all_that_a_node_without_time_leads_to(recorded: str, scored: bool):
    """``a_0, a_1 -> b -> c_0, c_1``: by way of ``b``, the last step influences the first cost."""
    logits, second = random(2, 2, seed=110), random(2, 2, 2, seed=111)
    price = random(2, 2, 2, seed=112, grad=False)  # of step, b, a
    outcomes = torch.tensor(list(itertools.product(range(2), repeat=3)))
    a, b = outcomes[:, :2], outcomes[:, 2]
    steps = torch.arange(2)
    p_a = logits.softmax(1)[steps, a].prod(1)
    p_b = second.softmax(2)[a[:, 0], a[:, 1], b]
    costs = price[steps, b[:, None], a]
    # Without a score term of its own, b is a constant that has its distribution all the same.
    true = (p_a * (p_b if scored else p_b.detach()) * costs.sum(1)).sum()
    own = None if scored else NoScore()
    values = {"a": a, "b": b, **{("a", t): a[:, t] for t in range(2)}}
    if recorded == "at once":
        del values["a", 0], values["a", 1]
    else:
        del values["a"]
    with StochasticGraph(values=values) as graph:
        if recorded == "at once":
            sample("a", Categorical(logits=logits.expand(8, 2, 2)))
        else:
            for t in range(2):
                sample("a", Categorical(logits=logits[t].expand(8, 2)), step=t)
        sample("b", Categorical(logits=second[a[:, 0], a[:, 1]]), estimator=own)
        graph.cost("c", costs)
    probability = (p_a * p_b).detach()
    (actual,) = gradient((probability * graph.surrogate_per_source()).sum(), [logits])
    assert_equal([actual], gradient(true, [logits]))


def test_a_node_without_time_beside_the_path_changes_no_credit():
    """A cost that names its parents does not depend on it, and is credited step by step."""
    logits, costs = random(2, 3, 4, seed=113), random(2, 3, seed=114, grad=False)
    outcome = torch.tensor([[0, 1, 2], [3, 0, 1]])
    surrogates = []
    for beside in (False, True):
        with StochasticGraph(values={"a": outcome}) as graph:
            sample("a", Categorical(logits=logits))
            if beside:
                sample("b", Categorical(logits=torch.zeros(2, 4)))
            graph.cost("c", costs, parents=["a"])
        surrogates.append(graph.surrogate())
    assert_equal(gradient(surrogates[1], [logits]), gradient(surrogates[0], [logits]))
