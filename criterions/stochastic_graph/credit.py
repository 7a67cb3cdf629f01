"""Credit assignment: which costs a stochastic node answers for, ``Q_z``."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.stochastic_graph.nodes import CostNode, StochasticNode


def check_steps(node: StochasticNode, cost: CostNode) -> None:
    """Raise ``ValueError`` unless the time axes of a node and a downstream cost agree."""
    if node.log_prob is None:
        return
    if node.name in cost.before and not node.has_time and node.step is None:
        raise ValueError(
            f"before of {cost} names {node.name!r}, which has no time axis: leave it out, or name "
            "the cost's parents if it does not depend on that node"
        )
    if not cost.has_time:
        return
    steps = cost.value.size(-1)
    if node.has_time and node.log_prob.size(-1) != steps:
        raise ValueError(
            f"{cost} has {steps} steps, but {node}, upstream of it, has {node.log_prob.size(-1)}: "
            "pad both to the same length; if the node's second axis is not the costs' time, "
            "record it with causal=False or as torch.distributions.Independent(law, 1)"
        )
    if node.step is not None and node.step >= steps:
        raise ValueError(
            f"{cost} has {steps} steps, numbered from 0, but {node} is upstream of it: "
            "pad the cost, or count the node's steps from 0"
        )


def cost_to_go(node: StochasticNode, cost: CostNode, value: Tensor) -> Tensor:
    """The part of ``cost`` that is downstream of each step of ``node``.

    With both on the time axis, ``Q_t = sum_{s >= t} c_s``, or ``sum_{s > t}`` if the node's name
    is in ``cost.before``.  A node without a time (a latent) answers for every step's cost; a cost
    without one (the reward of a whole output) counts for every step of the node.

    Args:
        node: a score-function node.
        cost: recorded downstream of it.
        value: the cost's ``[..., rows]`` or ``[..., rows, time]``, enumerated axes later than
            the node summed out.

    Returns:
        ``[..., rows]``, or ``[..., rows, time]`` (time of size 1 or the node's).
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
    assert node.log_prob is not None
    steps = torch.arange(node.log_prob.size(-1), device=value.device)
    return to_go.index_select(-1, (steps + shift).clamp(0, to_go.size(-1) - 1))
