"""Layers that draw step by step, and the pass that replays what they drew."""

import pytest
import torch
from policies import assert_equal, gradient, random
from torch import nn
from torch.distributions import Categorical, Normal, OneHotCategorical
from torch.utils.checkpoint import checkpoint

from criterions.stochastic_graph import (
    ESTIMATORS,
    MovingAverage,
    NotReplayableError,
    ReplayingGraph,
    ScoreFunction,
    SharedDrawError,
    StepwiseDraws,
    StochasticGraph,
    UnexpectedDrawError,
    active_graph,
    sample,
)

ROWS, STEPS, SIZE = 4, 3, 5
LOGITS = random(ROWS, STEPS, SIZE, seed=300)
COST = random(ROWS, STEPS, SIZE, seed=301, grad=False)
LENGTHS = torch.tensor([3, 1, 2, 3])


def columns(first, last):
    """A node with a time axis, for the steps from first on."""
    distribution = OneHotCategorical(logits=LOGITS[:, first:last])
    return (sample("z", distribution) * COST[:, first:last]).sum(-1)


def numbered(first, last, start=0):
    """A node for each step, numbered from ``start``."""
    costs = [
        (sample("z", OneHotCategorical(logits=LOGITS[:, t]), step=i) * COST[:, t]).sum(-1)
        for i, t in enumerate(range(first, last), start)
    ]
    return torch.stack(costs, 1)


layers = pytest.mark.parametrize("layer", [columns, numbered])
ways = pytest.mark.parametrize("incremental", [True, False])


def decode(layer, incremental=True, **options):
    draws = StepwiseDraws(**options)
    outputs = []
    with torch.no_grad(), draws:
        for step in range(STEPS):
            draws.at_step(step, incremental=incremental)
            outputs.append(layer(step if incremental else 0, step + 1)[:, -1])
    return draws, torch.stack(outputs, 1)


@layers
@ways
def test_the_pass_gets_what_was_drawn(layer, incremental):
    draws, decoded = decode(layer, incremental)
    with ReplayingGraph(draws, LENGTHS):
        torch.testing.assert_close(layer(0, STEPS).detach(), decoded)


def test_steps_can_be_numbered_by_the_sentence():
    draws = StepwiseDraws()
    with torch.no_grad(), draws:
        for step in range(STEPS):
            draws.at_step(step, incremental=True)
            numbered(step, step + 1, start=step)
    assert list(draws.values) == [("z", step) for step in range(STEPS)]


def test_what_a_decoder_runs_again_is_not_drawn_again():
    draws = StepwiseDraws()
    passes = []
    with torch.no_grad(), draws:
        for step in range(STEPS):
            draws.at_step(step, incremental=False)
            passes.append(columns(0, step + 1))
    assert passes[2][:, :2].equal(passes[1])


@layers
@pytest.mark.parametrize("masked", [False, True])
def test_replayed_gradients_are_those_of_given_values(layer, masked):
    """Each step's log-probability times the cost to go; steps past the end have none."""
    draws, decoded = decode(layer)
    exists = torch.arange(STEPS) < LENGTHS.unsqueeze(1)
    with ReplayingGraph(draws, LENGTHS) as graph:
        layer(0, STEPS)
        graph.cost("c", decoded, mask=exists if masked else None)
    cost = decoded * exists if masked else decoded
    to_go = cost.flip(1).cumsum(1).flip(1) * exists
    z = draws.values["z", None] if layer is columns else None
    if z is None:
        z = torch.stack([draws.values["z", t] for t in range(STEPS)], 1)
    log_prob = (LOGITS.log_softmax(-1) * z).sum(-1)
    assert_equal(
        gradient(graph.surrogate(), [LOGITS]), gradient((log_prob * to_go).sum(), [LOGITS])
    )


def test_the_layers_mask_counts_too():
    draws, _ = decode(columns)
    own = torch.tensor([[True, False, True]]).expand(ROWS, STEPS)
    with ReplayingGraph(draws, LENGTHS) as graph:
        sample("z", OneHotCategorical(logits=LOGITS), mask=own)
    expected = own & (torch.arange(STEPS) < LENGTHS.unsqueeze(1))
    assert graph.nodes["z", None].mask.equal(expected)


def test_a_node_without_steps_is_drawn_once_and_kept():
    draws = StepwiseDraws()
    distribution = Categorical(logits=torch.zeros(ROWS, 1000))
    with draws:
        encoder = sample("encoder", distribution)
        draws.at_step(0, incremental=True)
        first = sample("decoder", distribution)
        draws.at_step(1, incremental=True)
        assert sample("decoder", distribution).equal(first)
    with ReplayingGraph(draws, LENGTHS) as graph:
        assert sample("encoder", distribution).equal(encoder)
        assert sample("decoder", distribution).equal(first)
    assert all(node.mask is None for node in graph.nodes.values())


def test_draws_are_samples_of_the_distribution():
    """Mean of many, within five standard errors."""
    p = torch.tensor([0.1, 0.2, 0.7]).expand(20000, 1, 3)
    torch.manual_seed(0)
    draws = StepwiseDraws()
    with draws:
        draws.at_step(0, incremental=True)
        mean = sample("z", OneHotCategorical(p)).mean((0, 1))
    error = (p[0, 0] * (1 - p[0, 0]) / 20000).sqrt()
    assert bool(((mean - p[0, 0]).abs() < 5 * error).all())


@pytest.mark.parametrize("name", ["none", "score_function", "straight_through"])
def test_estimators_that_replay_draw(name):
    draws, decoded = decode(columns, default_estimator=ESTIMATORS.create(name))
    with ReplayingGraph(draws, LENGTHS):
        torch.testing.assert_close(columns(0, STEPS).detach(), decoded)


@pytest.mark.parametrize("name", ["expectation", "mode"])
def test_estimators_without_noise_give_their_value(name):
    estimator = ESTIMATORS.create(name)
    draws, decoded = decode(columns, default_estimator=estimator)
    assert not draws.values
    with StochasticGraph(default_estimator=estimator):
        torch.testing.assert_close(columns(0, STEPS), decoded)
    with ReplayingGraph(draws, LENGTHS):
        torch.testing.assert_close(columns(0, STEPS), decoded)


@pytest.mark.parametrize(
    "name", ["gumbel_softmax", "straight_through_gumbel", "reparameterized", "enumeration"]
)
def test_estimators_without_an_outcome_are_refused(name):
    distribution = Normal(torch.zeros(2), 1.0) if name == "reparameterized" else None
    distribution = distribution or OneHotCategorical(logits=torch.zeros(2, 3))
    with (
        StepwiseDraws(default_estimator=ESTIMATORS.create(name)),
        pytest.raises(NotReplayableError, match=r"node 'z'.* use score_function, straight"),
    ):
        sample("z", distribution)


def test_the_same_estimator_is_chosen_as_in_the_graph():
    distribution = OneHotCategorical(logits=torch.tensor([[0.0, 1.0]]))
    draws = StepwiseDraws(
        estimators={"a": ESTIMATORS.create("mode")}, default_estimator=ESTIMATORS.create("mode")
    )
    with draws:
        sample("a", distribution, estimator=ScoreFunction())
        sample("b", distribution, estimator=ScoreFunction())
        sample("c", distribution)
    assert list(draws.values) == [("b", None)]


def test_a_value_that_the_layer_gives_is_taken():
    distribution, value = Categorical(logits=torch.zeros(2, 3)), torch.tensor([2, 0])
    draws = StepwiseDraws()
    with draws:
        assert sample("z", distribution, value=value).equal(value)
    with ReplayingGraph(draws, LENGTHS[:2]):
        assert sample("z", distribution, value=value).equal(value)


def test_samples_do_not_share_a_draw():
    with StepwiseDraws(samples=2), pytest.raises(SharedDrawError, match="each of its 2 samples"):
        sample("z", Categorical(logits=torch.zeros(2, 3)))


def test_a_node_that_was_not_drawn_is_named():
    draws, _ = decode(columns)
    with ReplayingGraph(draws, LENGTHS), pytest.raises(ValueError, match="'other' was not drawn"):
        sample("other", Categorical(logits=torch.zeros(ROWS, 2)))


def test_a_second_axis_that_is_not_time_is_named():
    draws = StepwiseDraws()
    draws.at_step(0, incremental=True)
    with draws, pytest.raises(ValueError, match=r"\[batch, 1\] was expected.*causal=False"):
        sample("z", Categorical(logits=torch.zeros(ROWS, 7, 2)))


def test_steps_out_of_order_are_named():
    draws = StepwiseDraws()
    draws.at_step(1, incremental=True)
    with draws, pytest.raises(ValueError, match=r"node 'z' at step 2.*decoder was at step 1"):
        sample("z", Categorical(logits=torch.zeros(ROWS, 2)), step=2)


def test_draws_stand_in_for_the_graph_around_them():
    with StochasticGraph() as outer, StepwiseDraws() as draws:
        assert active_graph() is None
        sample("z", Categorical(logits=torch.zeros(2, 3)))
    assert list(draws.values) == [("z", None)]
    assert not outer.nodes


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, logits):
        def layer(logits):
            return sample("z", OneHotCategorical(logits=logits)).cumsum(-1).square().sum(-1)

        return checkpoint(layer, logits, use_reentrant=self.reentrant)


def test_a_checkpointed_layer_is_refused_when_it_runs_without_gradient():
    with StochasticGraph(), pytest.raises(RuntimeError, match=r"'z'.*--checkpoint-activations"):
        Checkpointed(reentrant=True)(random(2, 3, seed=310))


@pytest.mark.skipif(
    not hasattr(torch._C, "_current_graph_task_id"), reason="torch tells of backward since 2.0"
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_checkpointed_layer_is_refused_when_it_runs_again(inside):
    """Whether the backward pass is inside or after the graph's ``with``."""
    with StochasticGraph(default_estimator=ScoreFunction(MovingAverage())) as graph:
        graph.cost("c", Checkpointed(reentrant=False)(random(2, 3, seed=311)))
        loss = graph.surrogate()
        if inside:
            with pytest.raises(RuntimeError, match=r"'z'.*in the backward pass"):
                loss.backward()
    if not inside:
        with pytest.raises(RuntimeError, match=r"'z'.*in the backward pass"):
            loss.backward()


def test_a_graph_without_any_gradient_can_be_recorded():
    with torch.no_grad(), StochasticGraph() as graph:
        z = sample("z", OneHotCategorical(logits=LOGITS))
        graph.cost("c", (z * COST).sum(-1))
        assert graph.statistics()["cost/c"].isfinite()


@pytest.mark.parametrize("name", ["mode", "expectation"])
def test_where_nothing_may_draw_no_step_has_to_be_told(name):
    estimator = ESTIMATORS.create(name)
    draws = StepwiseDraws(default_estimator=estimator, may_draw=False)
    with draws:
        decoded = torch.cat([columns(t, t + 1)[:2] for t in range(STEPS)], 1)
    with StochasticGraph(default_estimator=estimator):
        torch.testing.assert_close(decoded, columns(0, STEPS)[:2])
    assert not draws.values


@layers
def test_where_nothing_may_draw_a_draw_is_an_error(layer):
    with (
        StepwiseDraws(may_draw=False),
        pytest.raises(UnexpectedDrawError, match=r"node 'z'.*draws, but no layer was to draw"),
    ):
        layer(0, 1)
