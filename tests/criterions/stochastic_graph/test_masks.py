"""Positions past the end never count: in no cost, in no log-probability, in no log."""

import pytest
import torch
from policies import Chain, random
from torch import nn
from torch.distributions import Categorical, Normal

from criterions.stochastic_graph import (
    GreedyDecode,
    LeaveOneOut,
    MovingAverage,
    ScoreFunction,
    StochasticGraph,
    sample,
)

MASK = torch.tensor([[True, True, True], [True, False, False]])
OUTCOME = torch.tensor([[0, 1, 2], [3, 0, 0]])


def primed() -> MovingAverage:
    baseline = MovingAverage()
    baseline.total.fill_(2.0)
    baseline.weight.fill_(1.0)
    return baseline


def run(filler: float, outcome: torch.Tensor, baseline: nn.Module, baseline_input=None):
    """Surrogate, gradients and statistics where all that is padding holds ``filler``."""
    logits = random(2, 3, 4, seed=300, grad=False)
    logits[~MASK] = logits[~MASK] * filler
    logits.requires_grad_()
    costs = random(2, 3, seed=301, grad=False)
    costs[~MASK] = filler
    samples = 2 if isinstance(baseline, LeaveOneOut) else 1
    with StochasticGraph(
        default_estimator=ScoreFunction(baseline), samples=samples, values={"z": outcome}
    ) as graph:
        sample("z", Categorical(logits=logits), mask=MASK, baseline_input=baseline_input)
        graph.cost("c", costs, mask=MASK)
    surrogate = graph.surrogate()
    (gradient,) = torch.autograd.grad(surrogate, logits)
    return surrogate, gradient, graph.statistics()


@pytest.mark.parametrize("baseline", [primed, LeaveOneOut, GreedyDecode])
def test_padding_changes_nothing(baseline):
    given = torch.tensor([0.3, 0.4]).double() if baseline is GreedyDecode else None
    surrogate, gradient, statistics = run(1.0, OUTCOME, baseline(), given)
    assert gradient[~MASK].eq(0).all()
    assert gradient[MASK].ne(0).all()
    other_outcome = OUTCOME.masked_fill(~MASK, 3)
    for filler in (50.0, -50.0):
        again = run(filler, other_outcome, baseline(), given)
        assert again[0].equal(surrogate)
        assert again[1].equal(gradient)
        assert again[2] == statistics


def test_a_cost_past_the_end_may_be_anything():
    surrogate, gradient, _ = run(1.0, OUTCOME, primed())
    logits = random(2, 3, 4, seed=300)
    costs = random(2, 3, seed=301, grad=False).masked_fill(~MASK, torch.nan)
    with StochasticGraph(default_estimator=ScoreFunction(primed()), values={"z": OUTCOME}) as graph:
        sample("z", Categorical(logits=logits), mask=MASK)
        graph.cost("c", costs, mask=MASK)
    assert graph.surrogate().equal(surrogate)
    assert torch.autograd.grad(graph.surrogate(), logits)[0].equal(gradient)


def test_an_impossible_outcome_past_the_end_does_not_matter():
    """A padding token may have probability 0 there: ``log p = -inf``."""
    logits = random(2, 3, 4, seed=300)
    ruled_out = torch.zeros(2, 3, 4, dtype=torch.bool)
    ruled_out[..., 0] = ~MASK
    with StochasticGraph(values={"z": OUTCOME}) as graph:
        sample("z", Categorical(logits=logits.masked_fill(ruled_out, -torch.inf)), mask=MASK)
        graph.cost("c", torch.ones(2, 3), mask=MASK)
    (gradient,) = torch.autograd.grad(graph.surrogate(), logits)
    assert graph.surrogate().isfinite()
    assert gradient.isfinite().all()
    assert all(value.isfinite() for value in graph.statistics().values())


def test_the_log_stays_finite_whatever_stands_past_the_end():
    scale = torch.ones(2, 3).masked_fill(~MASK, torch.nan)
    with StochasticGraph(values={"z": torch.zeros(2, 3)}) as graph:
        sample("z", Normal(torch.zeros(2, 3), scale, validate_args=False), mask=MASK)
        graph.cost("c", torch.ones(2, 3), mask=MASK)
    assert all(value.isfinite() for value in graph.statistics().values())
    torch.testing.assert_close(graph.statistics()["entropy/z"], Normal(0.0, 1.0).entropy())


def test_without_a_mask_padding_would_count():
    """So the tests above do test the mask."""
    chain = Chain()
    tokens = chain.outcomes()
    surrogates = []
    for mask in (None, chain.exists(tokens)):
        with StochasticGraph(values={"z": tokens}) as graph:
            sample("z", Categorical(logits=chain.logits(tokens)), mask=mask)
            graph.cost("c", chain.costs(tokens), mask=mask)
        surrogates.append(graph.surrogate().item())
    assert abs(surrogates[0] - surrogates[1]) > 1


def test_a_whole_row_can_be_absent():
    logits = random(2, 4, seed=302)
    with StochasticGraph(values={"z": torch.tensor([1, 2])}) as graph:
        sample("z", Categorical(logits=logits), mask=torch.tensor([True, False]))
        graph.cost("c", torch.tensor([3.0, 5.0]), mask=torch.tensor([True, False]))
    graph.surrogate().backward()
    assert logits.grad[1].eq(0).all()
    assert graph.surrogate_per_source()[1] == 0


@pytest.mark.parametrize("causal", [True, False])
def test_parts_of_one_outcome_can_be_masked(causal: bool):
    """``[batch, time, parts]`` or ``[batch, parts, parts]``: only what exists adds up."""
    mean = random(2, 3, 4, seed=303)
    exists = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    exists[1, 2] = False
    outcome, costs = random(2, 3, 4, seed=304, grad=False), random(2, 3, seed=305, grad=False)
    outcome[~exists] = 1e3
    with StochasticGraph(values={"z": outcome}) as graph:
        sample("z", Normal(mean, 1.0), mask=exists, causal=causal)
        graph.cost("c", costs)
    to_go = torch.stack([costs[:, t if causal else 0 :].sum(1) for t in range(3)], dim=1)
    expected = (outcome - mean) * to_go[..., None] * exists
    torch.testing.assert_close(torch.autograd.grad(graph.surrogate(), mean)[0], expected)
    entropy = graph.statistics()["entropy/z"]
    each = Normal(0.0, 1.0).entropy() * exists.sum()
    positions = exists.any(-1).sum() if causal else exists.flatten(1).any(-1).sum()
    torch.testing.assert_close(entropy, (each / positions).double())


def test_statistics_are_plain_averages_over_what_exists():
    logits = random(2, 3, 4, seed=306)
    costs = random(2, 3, seed=307, grad=False)
    with StochasticGraph(default_estimator=ScoreFunction(primed()), values={"z": OUTCOME}) as graph:
        sample("z", Categorical(logits=logits), mask=MASK)
        graph.cost("c", costs, mask=MASK)
    rows = [(0, 0), (0, 1), (0, 2), (1, 0)]
    p = logits.detach().softmax(-1)
    exists = [[True, True, True], [True, False, False]]
    to_go = [sum(costs[b, s].item() for s in range(t, 3) if exists[b][s]) for b, t in rows]
    advantage = [q - 2 for q in to_go]
    mean = sum(advantage) / 4
    expected = {
        "cost/c": sum(costs[b, t].item() for b, t in rows) / 2,
        "log_prob/z": sum(p[b, t, OUTCOME[b, t]].log().item() for b, t in rows) / 4,
        "entropy/z": sum(-(p[b, t] * p[b, t].log()).sum().item() for b, t in rows) / 4,
        "downstream/z": sum(to_go) / 4,
        "baseline/z": 2.0,
        "advantage/z": mean,
        "advantage_variance/z": sum((a - mean) ** 2 for a in advantage) / 4,
    }
    statistics = graph.statistics()
    assert {name: value.item() for name, value in statistics.items()} == pytest.approx(expected)
    assert not any(value.requires_grad for value in statistics.values())
