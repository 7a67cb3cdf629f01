"""What each baseline is, and that none looks at the sample it is subtracted for."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from criterions.stochastic_graph import (
    BASELINES,
    GreedyDecode,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    ScoreFunction,
    StochasticGraph,
    sample,
)


def advantages(graph_costs: torch.Tensor, estimator, mask=None, baseline_input=None, **options):
    """``Q - b`` of one node, read off the gradient: logits 0 of two categories, outcome 0."""
    logits = torch.zeros(*graph_costs.shape, 2, dtype=torch.float64, requires_grad=True)
    outcome = torch.zeros(graph_costs.shape, dtype=torch.int64)
    graph = StochasticGraph(estimators={"z": estimator}, values={"z": outcome}, **options)
    with graph:
        sample("z", Categorical(logits=logits), mask=mask, baseline_input=baseline_input)
        graph.cost("c", graph_costs, mask=mask)
    graph.surrogate().backward()
    samples = options.get("samples", 1)
    return logits.grad[..., 0] / 0.5 * samples, graph


def costs(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_moving_average_is_of_earlier_updates_only():
    estimator = ScoreFunction(MovingAverage(decay=0.8))
    first, _ = advantages(costs(1.0, 3.0), estimator)
    assert first.tolist() == [1, 3]  # no history: b = 0
    second, _ = advantages(costs(10.0, 20.0), estimator)
    # b = 2, the first update's mean
    torch.testing.assert_close(second, costs(8.0, 18.0), rtol=1e-6, atol=0)
    third, _ = advantages(costs(0.0), estimator)
    mean = (0.8 * 0.2 * 2 + 0.2 * 15) / (0.8 * 0.2 + 0.2)
    torch.testing.assert_close(third, costs(-mean), rtol=1e-6, atol=0)


def test_moving_average_does_not_see_the_current_costs():
    """The same history, two different steps: the same baseline."""
    estimator = ScoreFunction(MovingAverage(decay=0.5))
    advantages(costs(4.0), estimator)
    other = copy.deepcopy(estimator)
    small, _ = advantages(costs(1.0), estimator)
    large, _ = advantages(costs(1000.0), other)
    assert (1 - small).tolist() == (1000 - large).tolist() == [4]


def test_nodes_that_share_a_moving_average_are_all_served_before_it_moves():
    estimator = ScoreFunction(MovingAverage(decay=0.5))
    advantages(costs(4.0), estimator)
    logits = torch.zeros(3, 1, 2, dtype=torch.float64, requires_grad=True)
    with StochasticGraph(values={"z": torch.zeros(1, dtype=torch.int64)}) as graph:
        for t in range(3):
            sample("z", Categorical(logits=logits[t]), step=t, estimator=estimator)
            graph.cost("c", costs(10.0), step=t)
    graph.surrogate().backward()
    assert (logits.grad[:, 0, 0] / 0.5).tolist() == [30 - 4, 20 - 4, 10 - 4]


def test_moving_average_learns_once_however_often_the_surrogate_is_read():
    baseline = MovingAverage(decay=0.5)
    _, graph = advantages(costs(6.0), ScoreFunction(baseline))
    graph.surrogate(), graph.statistics(), graph.baseline_loss()
    assert (baseline.total.item(), baseline.weight.item()) == (3, 0.5)


def test_moving_average_stands_still_in_evaluation():
    estimator = ScoreFunction(MovingAverage())
    advantages(costs(6.0), estimator)
    before = copy.deepcopy(estimator.state_dict())
    advantages(costs(100.0), estimator.eval())
    assert estimator.state_dict() == before


def test_moving_average_counts_no_padding():
    baseline = MovingAverage(decay=0.0)
    mask = torch.tensor([[True, True], [True, False]])
    per_step = torch.tensor([[1.0, 2.0], [4.0, 100.0]], dtype=torch.float64)
    advantages(per_step, ScoreFunction(baseline), mask=mask)
    assert baseline.total.item() == pytest.approx((3 + 2 + 4) / 3)


def test_moving_average_ignores_an_update_without_positions():
    baseline = MovingAverage(decay=0.5)
    estimator = ScoreFunction(baseline)
    advantages(costs(6.0), estimator)
    advantages(costs(100.0), estimator, mask=torch.tensor([False]))
    assert (baseline.total.item(), baseline.weight.item()) == (3, 0.5)


def test_moving_average_keeps_its_precision_in_half_precision_training():
    module = nn.ModuleDict({"z": ScoreFunction(MovingAverage(decay=0.999))}).half()
    baseline = module["z"].baseline
    for _ in range(50):
        advantages(costs(3.0), module["z"])
    assert baseline.total.dtype == torch.float32
    assert (baseline.total / baseline.weight).item() == pytest.approx(3, abs=1e-5)
    assert baseline.double().total.dtype == torch.float64
    assert baseline.bfloat16().total.dtype == torch.float64


@pytest.mark.parametrize("name", BASELINES.names)
def test_state_dict_round_trip(name: str):
    """Through a checkpoint: the restored criterion gives the very same advantages."""
    make = {"learned": lambda: LearnedBaseline(3)}.get(name, BASELINES.get(name))
    given = dict.fromkeys(("greedy", "expected"), costs(1.0, 2.0))
    given["learned"] = torch.rand(2, 3, dtype=torch.float64)
    options = {"samples": 2} if name == "leave_one_out" else {}

    def run(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
        if name in given:
            options["baseline_input"] = given[name]
        return advantages(values, module["z"], **options)[0]

    trained = nn.ModuleDict({"z": ScoreFunction(make())}).double()
    run(trained, costs(5.0, 7.0))
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    restored = nn.ModuleDict({"z": ScoreFunction(make())}).double()
    restored.load_state_dict(torch.load(file))
    assert run(restored, costs(1.0, 2.0)).equal(run(trained, costs(1.0, 2.0)))


def test_greedy_baseline_is_the_very_value_given():
    """Self-critical: one greedy output a source, shared by its samples."""
    estimator = ScoreFunction(GreedyDecode())
    sampled = costs(1.0, 2.0, 3.0, 4.0)
    repeated, _ = advantages(sampled, estimator, samples=2, baseline_input=costs(0.5, 10.0))
    assert repeated.tolist() == [0.5, 1.5, -7, -6]
    own, _ = advantages(sampled, estimator, baseline_input=costs(1.0, 1.0, 0.0, 0.0))
    assert own.tolist() == [0, 1, 3, 4]


def test_greedy_baseline_can_be_given_by_the_criterion():
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    values = {"z": torch.zeros(2, dtype=torch.int64)}
    with StochasticGraph(default_estimator=ScoreFunction(GreedyDecode()), values=values) as graph:
        sample("z", Categorical(logits=logits))
    graph.cost("c", costs(3.0, 5.0))
    graph.set_baseline_input("z", costs(1.0, 6.0))
    graph.surrogate().backward()
    assert (logits.grad[:, 0] / 0.5).tolist() == [2, -1]


def test_leave_one_out_is_the_mean_of_the_others():
    estimator = ScoreFunction(LeaveOneOut())
    sampled = costs(1.0, 2.0, 6.0, 10.0, 20.0, 60.0)
    repeated, _ = advantages(sampled, estimator, samples=3)
    assert repeated.tolist() == [1 - 4, 2 - 3.5, 6 - 1.5, 10 - 40, 20 - 35, 60 - 15]


def test_leave_one_out_ignores_ones_own_cost():
    estimator = ScoreFunction(LeaveOneOut())
    a, _ = advantages(costs(1.0, 2.0), estimator, samples=2)
    b, _ = advantages(costs(100.0, 2.0), estimator, samples=2)
    assert 1 - a[0] == 100 - b[0] == 2


def learned_graph():
    torch.manual_seed(0)
    head = LearnedBaseline(3).double()
    state = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    per_step = torch.tensor([[1.0, 2.0], [4.0, 100.0]], dtype=torch.float64)
    _, graph = advantages(per_step, ScoreFunction(head), mask=mask, baseline_input=state)
    return head, state, graph


def test_learned_baseline_has_a_loss_of_its_own():
    head, state, graph = learned_graph()
    assert head.head.weight.grad is None  # the surrogate does not train it
    graph.baseline_loss().backward()
    prediction = (state @ head.head.weight.t() + head.head.bias)[..., 0].detach()
    residuals = prediction - torch.tensor([[3.0, 2.0], [4.0, 0.0]])
    residuals[1, 1] = 0  # past the end
    expected = torch.einsum("bt,btf->f", 2 * residuals, state.detach())
    torch.testing.assert_close(head.head.weight.grad[0], expected)
    torch.testing.assert_close(graph.baseline_loss(), residuals.square().sum())


def test_learned_baseline_does_not_train_its_state():
    _, state, graph = learned_graph()
    graph.baseline_loss().backward()
    assert state.grad is None


def test_learned_baseline_learns_the_expected_cost():
    """Two states with mean costs 1 and -2."""
    torch.manual_seed(0)
    head = LearnedBaseline(2).double()
    optimiser = torch.optim.SGD(head.parameters(), lr=0.4)
    state = torch.eye(2, dtype=torch.float64).repeat(2, 1)
    for _ in range(60):
        _, graph = advantages(
            costs(0.0, -1.0, 2.0, -3.0), ScoreFunction(head), baseline_input=state
        )
        optimiser.zero_grad()
        (graph.baseline_loss() / 4).backward()
        optimiser.step()
    torch.testing.assert_close(head.head(state[:2])[:, 0].detach(), costs(1.0, -2.0))


def test_without_learned_baselines_the_baseline_loss_is_zero():
    _, graph = advantages(costs(1.0), ScoreFunction(MovingAverage()))
    assert graph.baseline_loss().item() == 0


@pytest.mark.parametrize("worst", [torch.nan, torch.inf, -torch.inf])
def test_a_moving_average_leaves_out_what_is_not_finite(worst: float):
    """One such cost would otherwise be part of the average, and of checkpoints, for good."""
    baselines = MovingAverage(decay=0.5), MovingAverage(decay=0.5)
    for baseline, all_costs in zip(baselines, ((2.0, worst, 6.0), (2.0, 6.0)), strict=True):
        for cost in all_costs:
            with StochasticGraph(default_estimator=ScoreFunction(baseline)) as graph:
                sample("z", Categorical(logits=torch.zeros(2, 3)))
                graph.cost("c", torch.tensor([1.0, cost]))
            graph.surrogate()
    assert baselines[0].total.isfinite()
    for name, expected in baselines[1].state_dict().items():
        torch.testing.assert_close(baselines[0].state_dict()[name], expected)
