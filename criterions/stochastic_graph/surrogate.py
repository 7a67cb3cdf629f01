"""The surrogate loss of a recorded graph (Schulman et al. 2015, section 3.1), and what to log.

``surrogate = sum_c c + sum_z log p(z | parents) * stop_gradient(Q_z - b_z)`` with the cost-to-go
``Q_z``, the sum of the costs downstream of ``z``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from criterions.stochastic_graph.baselines import CostToGo
from criterions.stochastic_graph.enumeration import expectation
from criterions.stochastic_graph.nodes import CostNode, NodeKey, StochasticNode, summed_parts


@dataclass(frozen=True, eq=False)
class ScoreTerm:
    """A score-function node with its cost-to-go and its baseline."""

    node: StochasticNode
    log_prob: Tensor
    to_go: CostToGo
    baseline: Tensor
    """``b_z``, with gradient into the baseline's parameters."""

    advantage: Tensor
    """``Q_z - b_z``, without gradient."""

    def total(self, values: Tensor) -> Tensor:
        """Sum over steps, expectation over enumerated values: ``[batch]``."""
        weighted = self.to_go.weight * values
        if self.to_go.has_time:
            weighted = weighted.sum(-1)
        return weighted.sum_to_size(weighted.shape[-1:])


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The results of a graph, for each element of the batch (its samples included)."""

    losses: Tensor
    """``[batch]``: costs and score terms."""

    baseline_losses: Tensor
    """``[batch]``: losses of the baselines' parameters."""

    costs: dict[str, Tensor]
    """``[batch]`` by name: expectation over enumerated values, sum over steps; detached."""

    terms: list[ScoreTerm]


def build_surrogate(
    nodes: Sequence[StochasticNode],
    costs: Sequence[CostNode],
    baseline_inputs: Mapping[NodeKey, Tensor],
    samples: int,
) -> Surrogate:
    """Build the surrogate, and update the baselines that are in training mode.

    Args:
        nodes: in recording order.
        costs: at least one.
        baseline_inputs: by the node's name and step.
        samples: per source.
    """
    enumerated = [node for node in nodes if node.weights is not None]

    def expected(cost: CostNode, depth: int = 0) -> Tensor:
        """A cost without enumerated axes but for the first ``depth``."""
        if not enumerated:
            return cost.value
        return expectation(cost.value, cost.has_time, enumerated, depth)

    @functools.cache
    def remaining(cost: CostNode, depth: int) -> Tensor:
        """``[..., batch, time + 1]``: a cost from each step on; the last column: nothing."""
        value = expected(cost, depth)
        value = value if cost.has_time else value.unsqueeze(-1)
        return torch.nn.functional.pad(value.flip(-1).cumsum(-1).flip(-1), (0, 1))

    by_name: dict[str, Tensor] = {}
    losses: Tensor | int = 0
    for cost in costs:
        value = expected(cost).sum(-1) if cost.has_time else expected(cost)
        losses = losses + value
        by_name[cost.name] = by_name.get(cost.name, 0) + value.detach()
    assert isinstance(losses, Tensor)
    baseline_losses = torch.zeros_like(losses)

    # Nodes that all steps of earlier nodes lead to, and that lead to all steps of later costs.
    timeless = [n for n in nodes if n.ancestors and not n.has_time and n.step is None]
    terms = []
    for node in nodes:
        downstream = [cost for cost in costs if node.position in cost.ancestors]
        if node.log_prob is None or not downstream:
            continue
        between = [other.position for other in timeless if node.position in other.ancestors]
        with torch.no_grad():
            total = torch.zeros_like(node.log_prob)
            for cost in downstream:
                whole = not cost.ancestors.isdisjoint(between)
                total = total + cost_to_go(node, cost, remaining(cost, node.depth), whole)
            # The probability of the enumerated values; no axis has independent steps here.
            weight = total.new_ones(())
            for other in enumerated[: node.depth]:
                assert other.weights is not None
                weight = weight * (other.weights.unsqueeze(-1) if node.has_time else other.weights)
            if node.mask is not None:
                weight = weight * node.mask
        given = baseline_inputs.get((node.name, node.step))
        to_go = CostToGo(str(node), total, weight, node.has_time, samples, given)
        term, loss = _score_term(node, node.log_prob, to_go)
        losses = losses + term.total(term.log_prob * term.advantage)
        if loss is not None:
            baseline_losses = baseline_losses + term.total(loss)
        terms.append(term)

    # Only now: a baseline shared by several nodes must not learn from one sample's costs and
    # then be used for another node of the same sample.
    for term in terms:
        module = term.node.estimator.baseline
        if module is not None and module.training:
            module.update(term.to_go)
    return Surrogate(losses, baseline_losses, by_name, terms)


def _score_term(
    node: StochasticNode, log_prob: Tensor, to_go: CostToGo
) -> tuple[ScoreTerm, Tensor | None]:
    """The term, and the loss of the baseline's parameters, of the cost-to-go's shape."""
    module = node.estimator.baseline
    if module is None:
        raise ValueError(
            f"{type(node.estimator).__name__} of {node} has a score term and so must have a "
            "baseline: set it to NoBaseline()"
        )
    baseline: Tensor = module(to_go)
    try:
        baseline.detach().expand_as(to_go.cost)
    except RuntimeError:
        raise ValueError(
            f"the baseline of {node} has shape {list(baseline.shape)}, which does not fit its "
            f"cost-to-go {list(to_go.cost.shape)}: check baseline_input"
        ) from None
    term = ScoreTerm(node, log_prob, to_go, baseline, to_go.cost - baseline.detach())
    return term, module.loss(baseline, to_go)


def cost_to_go(node: StochasticNode, cost: CostNode, remaining: Tensor, whole: bool) -> Tensor:
    """The part of a cost that is downstream of each step of a node.

    With both on the time axis, ``Q_t = sum_{s >= t} c_s``, or ``sum_{s > t}`` if the node's name
    is in ``cost.before``.  The whole cost counts for a node without a time (a latent), for every
    step of a node where the cost has none (the reward of a whole output), and for every step of a
    node that another one without a time depends on, if the cost depends on that.

    Args:
        node, cost: a score-function node, and a cost downstream of it.
        remaining: ``[..., batch, time + 1]``: of the cost, enumerated axes later than the node
            summed out, what remains from each step on; the last column is 0.
        whole: whether a node without a time lies between.

    Returns:
        ``[..., batch]``, or ``[..., batch, time]`` (time of size 1 or the node's).
    """
    node_has_steps = node.has_time or node.step is not None
    if whole or not node_has_steps or not (cost.has_time or cost.step is not None):
        return remaining[..., :1] if node.has_time else remaining[..., 0]
    first = 0 if cost.step is None else cost.step
    shift, last = (node.name in cost.before) - first, remaining.size(-1) - 1
    if node.step is not None:
        return remaining[..., min(max(node.step + shift, 0), last)]
    assert node.log_prob is not None
    steps = torch.arange(node.log_prob.size(-1), device=remaining.device)
    return remaining.index_select(-1, (steps + shift).clamp(0, last))


@torch.no_grad()
def score_statistics(terms: Iterable[ScoreTerm]) -> dict[str, Tensor]:
    """Means over the positions that exist, all steps of a name together.

    Returns:
        scalars, 0 where no position exists: ``log_prob/NAME``, ``entropy/NAME`` (where the
        distribution has one), ``downstream/NAME`` (``Q``), ``baseline/NAME``, ``advantage/NAME``
        and ``advantage_variance/NAME``.
    """
    by_name: dict[str, dict[str, list[Tensor]]] = {}
    for term in terms:
        node, to_go = term.node, term.to_go
        values = {
            "weight": to_go.weight,
            "log_prob": term.log_prob,
            "entropy": _entropy(node),
            "downstream": to_go.cost,
            "baseline": term.baseline,
            "advantage": term.advantage,
        }
        columns = by_name.setdefault(node.name, {})
        for kind, value in values.items():
            if value is not None:
                columns.setdefault(kind, []).append(value.expand_as(to_go.cost).flatten())

    statistics = {}
    for name, columns in by_name.items():
        weight, advantage = torch.cat(columns.pop("weight")), torch.cat(columns["advantage"])
        number = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        for kind, parts in columns.items():
            flat = torch.cat(parts)
            if flat.shape == weight.shape:  # else one of the distributions has no entropy
                # What lies past the end may be anything, NaN too.
                total = torch.where(weight > 0, weight * flat, 0).sum()
                statistics[f"{kind}/{name}"] = total / number
        squares = (advantage - statistics[f"advantage/{name}"]).square()
        total = torch.where(weight > 0, weight * squares, 0).sum()
        statistics[f"advantage_variance/{name}"] = total / number
    return statistics


def _entropy(node: StochasticNode) -> Tensor | None:
    try:
        entropy = node.distribution.entropy()
    except NotImplementedError:
        return None
    what = f"entropy of {node}"
    return summed_parts(what, entropy, node.depth, node.has_time, node.part_mask)
