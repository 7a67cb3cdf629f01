"""What layers observe: logged, and no part of the loss."""

import pytest
import torch
from torch.distributions import Normal

from criterions.stochastic_graph import (
    StepwiseDraws,
    StochasticGraph,
    active_draws,
    active_graph,
    sample,
)


def test_statistics_tell_the_mean_and_the_loss_does_not_change():
    mean = torch.tensor([0.5, -1.0], requires_grad=True)
    gradients = []
    for observes in (False, True):
        torch.manual_seed(1)
        with StochasticGraph() as graph:
            value = sample("z", Normal(mean, 1.0))
            if observes:
                graph.observe("height", mean * 3)
            graph.cost("square", value.square())
        statistics = graph.statistics()
        gradients.append(torch.autograd.grad(graph.surrogate(), mean)[0])
        assert ("observed/height" in statistics) == observes
    assert float(statistics["observed/height"]) == pytest.approx(-0.75)
    assert not statistics["observed/height"].requires_grad
    torch.testing.assert_close(*gradients)


def test_a_name_is_used_once():
    with StochasticGraph() as graph:
        graph.observe("height", torch.zeros(2))
        with pytest.raises(ValueError, match="observed value 'height' was recorded before"):
            graph.observe("height", torch.zeros(2))


def test_nothing_is_observed_after_the_surrogate():
    with StochasticGraph() as graph:
        graph.cost("zero", torch.zeros(2))
    graph.surrogate()
    with pytest.raises(RuntimeError, match="observed value 'height' comes after surrogate"):
        graph.observe("height", torch.zeros(2))


def test_layers_can_tell_decoding_from_recording():
    assert active_draws() is None
    with StepwiseDraws() as draws:
        assert active_draws() is draws
        assert active_graph() is None
    with StochasticGraph():
        assert active_draws() is None
