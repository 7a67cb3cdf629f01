"""Gradients against Pyro's, which shares no code: equal for each sample, not on average only.

Pyro minimises ``E_q[log q - log p]``.  Where ``p`` has the same densities as ``q``, what remains is
the expected cost, given as factors.
"""

import pytest
import torch
from torch import nn

from criterions.stochastic_graph import Reparameterized, ScoreFunction, StochasticGraph, sample

pyro = pytest.importorskip("pyro")
distributions = pyro.distributions

BATCH, WIDTH = 6, 3


class Chain(nn.Module):
    """Two discrete nodes and a continuous one in a row, with a cost after each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(BATCH, WIDTH))
        self.second = nn.Linear(WIDTH, WIDTH)
        self.third = nn.Linear(WIDTH, 1)
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.weights = nn.Parameter(torch.randn(WIDTH))

    def forward(self, draw, cost):
        """Run the chain, with ``draw(name, distribution)`` and ``cost(name, value, parents)``."""
        one = draw("one", distributions.OneHotCategorical(logits=self.first))
        cost("c1", (one * self.weights).sum(-1).exp(), ["one"])
        two = draw("two", distributions.OneHotCategorical(logits=self.second(one)))
        cost("c2", (two * self.weights).sum(-1).square() + one[:, 0] * self.scale, ["one", "two"])
        distribution = distributions.Normal(self.third(two).squeeze(-1), self.scale.exp())
        three = draw("three", distribution)
        cost("c3", three.square() * two[:, 1], ["two", "three"])


def gradients(model):
    result = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return result


def ours(model, estimators, seed):
    torch.manual_seed(seed)
    with StochasticGraph(estimators=estimators) as graph:
        model(
            lambda name, distribution: sample(name, distribution),
            lambda name, value, parents: graph.cost(name, value, parents=parents),
        )
    graph.surrogate().backward()
    return gradients(model)


def pyros(model, seed, reparameterized):
    def guide_draw(name, distribution):
        if not reparameterized and distribution.has_rsample:
            distribution = distribution.has_rsample_(False)
        return pyro.sample(name, distribution)

    def prior_draw(name, distribution):
        # A score-function node: the density is a constant.  A reparameterized one: both densities
        # cancel, with their gradients.
        if isinstance(distribution, distributions.OneHotCategorical):
            distribution = distributions.OneHotCategorical(logits=distribution.logits.detach())
        elif not reparameterized:
            distribution = distributions.Normal(
                distribution.loc.detach(), distribution.scale.detach()
            )
        return pyro.sample(name, distribution)

    def guide():
        with pyro.plate("batch", BATCH):
            model(guide_draw, lambda name, value, parents: None)

    def target():
        with pyro.plate("batch", BATCH):
            model(prior_draw, lambda name, value, parents: pyro.factor(name, -value))

    torch.manual_seed(seed)
    pyro.infer.TraceGraph_ELBO().loss_and_grads(target, guide)
    return gradients(model)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reparameterized", [True, False])
def test_gradient_of_a_chain_equals_pyros(seed, reparameterized):
    torch.manual_seed(100)
    model = Chain()
    third = Reparameterized() if reparameterized else ScoreFunction()
    found = ours(model, {"one": ScoreFunction(), "two": ScoreFunction(), "three": third}, seed)
    torch.testing.assert_close(found, pyros(model, seed, reparameterized))
