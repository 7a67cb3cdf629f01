"""The surrogate loss of a recorded graph (Schulman et al. 2015, section 3.1), and what to log.

``surrogate = sum_c c + sum_z log p(z | parents) * stop_gradient(Q_z - b_z)`` with ``Q_z`` the sum
of the costs downstream of ``z``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from criterions.stochastic_graph.baselines import Baseline, CostToGo
from criterions.stochastic_graph.nodes import (
    CostNode,
    Enumerated,
    NodeKey,
    StochasticNode,
    summed_parts,
)


@dataclass(frozen=True, eq=False)
class ScoreTerm:
    """A score-function node with its cost-to-go and its baseline."""

    node: StochasticNode
    log_prob: Tensor
    to_go: CostToGo
    module: Baseline
    baseline: Tensor
    """``b_z``, with gradient into the module's parameters."""

    @property
    def advantage(self) -> Tensor:
        """``Q_z - b_z``, without gradient."""
        return self.to_go.cost - self.baseline.detach()

    def total(self, values: Tensor) -> Tensor:
        """Sum over steps, expectation over enumerated values: ``[batch]``."""
        weighted = self.to_go.weight * values
        if self.to_go.has_time:
            weighted = weighted.sum(-1)
        return weighted.reshape(-1, weighted.size(-1)).sum(0)


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
    by_name: dict[str, Tensor] = {}
    parts = []
    for cost in costs:
        value = expectation(cost.value, cost.has_time, enumerated)
        parts.append(value.sum(-1) if cost.has_time else value)
        by_name[cost.name] = by_name.get(cost.name, 0) + parts[-1].detach()
    losses = sum(parts[1:], parts[0])
    baseline_losses = torch.zeros_like(losses)

    terms = []
    for node in nodes:
        downstream = [cost for cost in costs if node.position in cost.ancestors]
        if node.log_prob is None or not downstream:
            continue
        given = baseline_inputs.get((node.name, node.step))
        term = _score_term(node, node.log_prob, downstream, given, enumerated, samples)
        losses = losses + term.total(term.log_prob * term.advantage)
        loss = term.module.loss(term.baseline, term.to_go)
        if loss is not None:
            baseline_losses = baseline_losses + term.total(loss)
        terms.append(term)

    # Only now: a baseline shared by several nodes must not learn from one sample's costs and
    # then be used for another node of the same sample.
    for term in terms:
        if term.module.training:
            term.module.update(term.to_go)
    return Surrogate(losses, baseline_losses, by_name, terms)


def _score_term(
    node: StochasticNode,
    log_prob: Tensor,
    costs: Sequence[CostNode],
    baseline_input: Tensor | None,
    enumerated: Enumerated,
    samples: int,
) -> ScoreTerm:
    with torch.no_grad():
        total = torch.zeros_like(log_prob)
        for cost in costs:
            value = expectation(cost.value, cost.has_time, enumerated, node.depth)
            total = total + cost_to_go(node, log_prob, cost, value)
        # The probability of the enumerated values; no axis has independent steps here.
        weight = total.new_ones(())
        for other in enumerated[: node.depth]:
            assert other.weights is not None
            weight = weight * (other.weights.unsqueeze(-1) if node.has_time else other.weights)
        if node.mask is not None:
            weight = weight * node.mask
    to_go = CostToGo(str(node), total, weight, node.has_time, samples, baseline_input)
    module = node.estimator.baseline
    if module is None:
        raise ValueError(
            f"{type(node.estimator).__name__} of {node} has a score term and so must have a "
            "baseline: set it to NoBaseline()"
        )
    baseline: Tensor = module(to_go)
    try:
        baseline.detach().expand_as(total)
    except RuntimeError:
        raise ValueError(
            f"the baseline of {node} has shape {list(baseline.shape)}, which does not fit its "
            f"cost-to-go {list(total.shape)}: check baseline_input"
        ) from None
    return ScoreTerm(node, log_prob, to_go, module, baseline)


def expectation(tensor: Tensor, has_time: bool, enumerated: Enumerated, depth: int = 0) -> Tensor:
    """Expectation over enumerated nodes: all but the first ``depth`` of them.

    Args:
        tensor: ``[*enumerated, batch]``, or with a last axis ``time``.
        has_time: whether it has.
        enumerated: all enumerated nodes of the graph.
        depth: how many of the leading axes stay.
    """
    for i in reversed(range(depth, tensor.dim() - 1 - has_time)):
        weights = enumerated[i].weights
        assert weights is not None
        if tensor.size(0) == 1:
            tensor = tensor.squeeze(0)
            continue
        if has_time and not enumerated[i].has_time:
            weights = weights.unsqueeze(-1)
        tensor = (weights * tensor).sum(0)
    return tensor


def cost_to_go(node: StochasticNode, log_prob: Tensor, cost: CostNode, value: Tensor) -> Tensor:
    """The part of a cost that is downstream of each step of a node.

    With both on the time axis, ``Q_t = sum_{s >= t} c_s``, or ``sum_{s > t}`` if the node's name
    is in ``cost.before``.  A node without a time (a latent) is credited with every step's cost; a
    cost without one (the reward of a whole output) counts for every step of the node.

    Args:
        node: a score-function node.
        log_prob: the node's.
        cost: recorded downstream of it.
        value: the cost's ``[..., batch]`` or ``[..., batch, time]``, enumerated axes later than
            the node summed out.

    Returns:
        ``[..., batch]``, or ``[..., batch, time]`` (time of size 1 or the node's).
    """
    if not cost.has_time:
        value = value.unsqueeze(-1)
    to_go = value.flip(-1).cumsum(-1).flip(-1)
    cost_has_steps = cost.has_time or cost.step is not None
    if not cost_has_steps or not (node.has_time or node.step is not None):
        to_go = to_go[..., :1]
        return to_go if node.has_time else to_go.squeeze(-1)

    # Column j is what remains from step `first + j` on; the last column: nothing.
    to_go = torch.cat([to_go, torch.zeros_like(to_go[..., :1])], dim=-1)
    first = 0 if cost.step is None else cost.step
    shift = (node.name in cost.before) - first
    if node.step is not None:
        return to_go[..., min(max(node.step + shift, 0), to_go.size(-1) - 1)]
    steps = torch.arange(log_prob.size(-1), device=value.device)
    return to_go.index_select(-1, (steps + shift).clamp(0, to_go.size(-1) - 1))


@torch.no_grad()
def score_statistics(terms: Iterable[ScoreTerm]) -> dict[str, Tensor]:
    """Means over the positions that exist, all steps of a name together.

    Returns:
        scalars, 0 where no position exists: ``log_prob/NAME``, ``entropy/NAME`` (where the
        distribution has one), ``downstream/NAME`` (``Q``), ``baseline/NAME``, ``advantage/NAME``
        and ``advantage_variance/NAME``.
    """
    by_name: dict[str, list[ScoreTerm]] = {}
    for term in terms:
        by_name.setdefault(term.node.name, []).append(term)

    statistics = {}
    for name, group in by_name.items():
        statistics[f"log_prob/{name}"] = _mean(group, [term.log_prob for term in group])
        entropies = [_entropy(term.node) for term in group]
        known = [entropy for entropy in entropies if entropy is not None]
        if len(known) == len(group):
            statistics[f"entropy/{name}"] = _mean(group, known)
        statistics[f"downstream/{name}"] = _mean(group, [term.to_go.cost for term in group])
        statistics[f"baseline/{name}"] = _mean(group, [term.baseline for term in group])
        advantages = [term.advantage for term in group]
        advantage = _mean(group, advantages)
        statistics[f"advantage/{name}"] = advantage
        squares = [(each - advantage).square() for each in advantages]
        statistics[f"advantage_variance/{name}"] = _mean(group, squares)
    return statistics


def _mean(terms: Sequence[ScoreTerm], values: Sequence[Tensor]) -> Tensor:
    """Mean of one tensor per term, weighted by the probability of enumerated values."""
    pairs = [(term.to_go.weight, term.to_go.cost) for term in terms]
    weight = torch.cat([weight.expand_as(cost).flatten() for weight, cost in pairs])
    flat = torch.cat(
        [value.expand_as(cost).flatten() for value, (_, cost) in zip(values, pairs, strict=True)]
    )
    # What lies past the end may be anything, NaN too.
    total = torch.where(weight > 0, weight * flat, torch.zeros_like(flat)).sum()
    return total / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def _entropy(node: StochasticNode) -> Tensor | None:
    try:
        entropy = node.distribution.entropy()
    except NotImplementedError:
        return None
    what = f"entropy of {node}"
    return summed_parts(what, entropy, node.depth, node.has_time, node.part_mask)
