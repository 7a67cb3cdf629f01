"""From recorded nodes to the surrogate loss (Schulman et al. 2015, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from criterions.stochastic_graph.baselines import Baseline, Downstream
from criterions.stochastic_graph.credit import cost_to_go
from criterions.stochastic_graph.enumeration import EnumeratedAxes
from criterions.stochastic_graph.nodes import CostNode, NodeKey, StochasticNode
from criterions.stochastic_graph.samples import SampleLayout


@dataclass(frozen=True, eq=False)
class ScoreTerm:
    """One score-function node with its downstream costs and its baseline."""

    node: StochasticNode
    log_prob: Tensor
    downstream: Downstream
    module: Baseline
    baseline: Tensor
    """``b_z`` as the module's ``forward`` gave it, with gradient into its parameters."""

    @property
    def advantage(self) -> Tensor:
        """``Q_z - b_z``, without gradient."""
        return self.downstream.cost - self.baseline.detach()

    def rows(self, values: Tensor) -> Tensor:
        """Sum over steps and expectation over enumerated values: canonical to ``[rows]``."""
        weighted = self.downstream.weight * values
        if self.downstream.has_time:
            weighted = weighted.sum(-1)
        return weighted.reshape(-1, weighted.size(-1)).sum(0)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """All that comes of a graph, one number for each row."""

    rows: Tensor
    """``[rows]``: costs and score terms."""

    baseline_rows: Tensor
    """``[rows]``: loss of the baselines' parameters."""

    cost_rows: dict[str, Tensor]
    """``[rows]`` for each cost: expectation over enumerated values, sum over steps; detached."""

    terms: list[ScoreTerm]


def build_surrogate(
    nodes: Mapping[NodeKey, StochasticNode],
    costs: Mapping[NodeKey, CostNode],
    baseline_inputs: Mapping[NodeKey, Tensor],
    enumerated: EnumeratedAxes,
    layout: SampleLayout,
) -> Surrogate:
    """Build the surrogate and update the baselines that are in training mode.

    Args:
        nodes: in recording order.
        costs: at least one.
        baseline_inputs: by the node's key.
        enumerated: the enumerated ones among the nodes.
        layout: of the samples.
    """
    parts: list[Tensor] = []
    cost_rows: dict[str, Tensor] = {}
    for cost in costs.values():
        value = enumerated.expect(cost.value, cost.has_time)
        rows = value.sum(-1) if cost.has_time else value
        parts.append(rows)
        cost_rows[cost.name] = cost_rows.get(cost.name, 0) + rows.detach()
    total = sum(parts[1:], parts[0])
    baseline_rows = torch.zeros_like(total)

    terms = []
    for position, (key, node) in enumerate(nodes.items()):
        downstream = [cost for cost in costs.values() if position in cost.ancestors]
        if node.log_prob is None or not downstream:
            continue
        term = _score_term(
            node, node.log_prob, downstream, baseline_inputs.get(key), enumerated, layout
        )
        total = total + term.rows(term.log_prob * term.advantage)
        loss = term.module.loss(term.baseline, term.downstream)
        if loss is not None:
            baseline_rows = baseline_rows + term.rows(loss)
        terms.append(term)

    # Only now: a baseline shared by several nodes must not learn from one sample's costs and
    # then be used for another node of the same sample.
    for term in terms:
        if term.module.training:
            term.module.update(term.downstream)
    return Surrogate(total, baseline_rows, cost_rows, terms)


def _score_term(
    node: StochasticNode,
    log_prob: Tensor,
    costs: list[CostNode],
    baseline_input: Tensor | None,
    enumerated: EnumeratedAxes,
    layout: SampleLayout,
) -> ScoreTerm:
    with torch.no_grad():
        to_go = torch.zeros_like(log_prob)
        for cost in costs:
            value = enumerated.expect(cost.value, cost.has_time, node.depth)
            to_go = to_go + cost_to_go(node, cost, value)
        weight = enumerated.probability(to_go, node.has_time)
        if node.mask is not None:
            weight = weight * node.mask
    described = Downstream(str(node), to_go, weight, node.has_time, layout, baseline_input)
    module = node.estimator.baseline
    if module is None:
        raise ValueError(
            f"{type(node.estimator).__name__} of {node} has a score term and so must have a "
            "baseline: set it to NoBaseline()"
        )
    baseline: Tensor = module(described)
    try:
        baseline.detach().expand_as(to_go)
    except RuntimeError:
        raise ValueError(
            f"the baseline of {node} has shape {list(baseline.shape)}, which does not fit its "
            f"downstream cost {list(to_go.shape)}: check baseline_input"
        ) from None
    return ScoreTerm(node, log_prob, described, module, baseline)
