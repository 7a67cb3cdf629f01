"""Gradient estimation on stochastic computation graphs.

A model asks for samples by name; the criterion opens a graph, adds costs and asks for a surrogate
loss whose gradient estimates that of the expected cost (Schulman et al. 2015)::

    class HardAttention(nn.Module):
        def forward(self, query, memory):  # [batch, time, dim], [batch, src_len, dim]
            scores = query @ memory.transpose(1, 2)
            weights = sample("attention", UncheckedOneHotCategorical(logits=scores))
            return weights @ memory  # outside a graph: the likeliest position

    with StochasticGraph(estimators={"attention": ScoreFunction(MovingAverage())}) as graph:
        cross_entropy = per_token_loss(model(batch))  # [batch, time]
        graph.cost("cross_entropy", cross_entropy, mask=batch.mask)
    graph.surrogate().backward()

Sources:
    Williams 1992, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning"; Bengio, Léonard, Courville 2013, arXiv 1308.3432 (straight-through);
    Schulman, Heess, Weber, Abbeel 2015, arXiv 1506.05254 (stochastic computation graphs);
    Jang, Gu, Poole 2017, arXiv 1611.01144 (Gumbel-softmax); Maddison, Mnih, Teh 2017,
    arXiv 1611.00712 (concrete distribution); Rennie et al. 2017, arXiv 1612.00563 (self-critical
    training); Kool, van Hoof, Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"
    (leave-one-out).
"""

from criterions.stochastic_graph.baselines import (
    BASELINES,
    Baseline,
    CostToGo,
    ExpectedCost,
    GreedyDecode,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    NoBaseline,
)
from criterions.stochastic_graph.context import (
    RECORDER,
    SampleRequest,
    estimator_of,
    sample,
)
from criterions.stochastic_graph.distributions import (
    UncheckedOneHotCategorical,
    deterministic_value,
    one_hot_argmax,
)
from criterions.stochastic_graph.enumeration import Enumeration
from criterions.stochastic_graph.estimators import (
    ESTIMATORS,
    Draw,
    Estimator,
    Expectation,
    Mode,
    NoScore,
    Reparameterized,
    ScoreFunction,
)
from criterions.stochastic_graph.graph import StochasticGraph, active_graph
from criterions.stochastic_graph.nodes import CostNode, StochasticNode
from criterions.stochastic_graph.relaxations import (
    GumbelSoftmax,
    StraightThrough,
    StraightThroughGumbel,
)
from criterions.stochastic_graph.replay import (
    NotReplayableError,
    ReplayingGraph,
    SharedDrawError,
    StepwiseDraws,
    UnexpectedDrawError,
    active_draws,
)
from criterions.stochastic_graph.schedules import (
    SCHEDULES,
    Constant,
    Geometric,
    Linear,
    Schedule,
    parse_schedule,
)

# Former names.
OneHotLaw = UncheckedOneHotCategorical
Downstream = CostToGo

__all__ = [
    "BASELINES",
    "ESTIMATORS",
    "RECORDER",
    "SCHEDULES",
    "Baseline",
    "Constant",
    "CostNode",
    "CostToGo",
    "Downstream",
    "Draw",
    "Enumeration",
    "Estimator",
    "Expectation",
    "ExpectedCost",
    "Geometric",
    "GreedyDecode",
    "GumbelSoftmax",
    "LearnedBaseline",
    "LeaveOneOut",
    "Linear",
    "Mode",
    "MovingAverage",
    "NoBaseline",
    "NoScore",
    "NotReplayableError",
    "OneHotLaw",
    "Reparameterized",
    "ReplayingGraph",
    "SampleRequest",
    "Schedule",
    "ScoreFunction",
    "SharedDrawError",
    "StepwiseDraws",
    "StochasticGraph",
    "StochasticNode",
    "StraightThrough",
    "StraightThroughGumbel",
    "UncheckedOneHotCategorical",
    "UnexpectedDrawError",
    "active_draws",
    "active_graph",
    "deterministic_value",
    "estimator_of",
    "one_hot_argmax",
    "parse_schedule",
    "sample",
]
