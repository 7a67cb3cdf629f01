"""Enumerated nodes: the axes that their values add to tensors, and the expectation over them.

Every tensor that depends on enumerated nodes is ``[*enumerated, batch]`` or
``[*enumerated, batch, time]``, the latest node leftmost, size 1 where it does not depend on one: a
tensor of ``depth`` n may depend on the first n enumerated nodes and is ``[n-1, ..., 1, 0, batch]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from criterions.stochastic_graph.estimators import ESTIMATORS, Draw, Estimator
from criterions.stochastic_graph.nodes import StochasticNode

Enumerated = Sequence[StochasticNode]
"""The enumerated nodes of a graph, in recording order."""


@ESTIMATORS.register("enumeration")
class Enumeration(Estimator):
    """Sum over every value: ``sum_k p(k) c(k)``, no sampling noise.

    The layer gets all values at once on a new leading axis, ``[values, *batch_shape, ...]``, and
    everything computed from them carries that axis; the graph sums it out of the costs.  A second
    enumerated node adds its axis in front of the first.

    Args:
        independent_steps: allow a distribution of batch shape ``[batch, time]``.  All its steps
            take value ``k`` together, so step t's cost must depend on the node at step t alone
            (attention without input feeding, for example); a recurrent model needs one node for
            each step.
    """

    def __init__(self, independent_steps: bool = False) -> None:
        super().__init__()
        self.independent_steps = independent_steps

    def _draw(self, distribution: Distribution, value: Tensor | None, update: int) -> Draw:
        if not distribution.has_enumerate_support:
            raise ValueError(
                f"{type(distribution).__name__} cannot be enumerated: use a Categorical, "
                "OneHotCategorical or Bernoulli distribution, or another estimator"
            )
        values = distribution.enumerate_support()
        weights = distribution.log_prob(values).exp()
        return Draw(values, weights=weights, independent_steps=self.independent_steps)


def depth_of(ancestors: frozenset[int], enumerated: Enumerated) -> int:
    """How many axes a tensor with these ancestors has: up to the latest enumerated one."""
    depths = [i + 1 for i, node in enumerate(enumerated) if node.position in ancestors]
    return max(depths, default=0)


def check_axes(
    what: str, tensor: Tensor, ancestors: frozenset[int], enumerated: Enumerated, has_time: bool
) -> None:
    """Raise ``ValueError`` unless the leading axes of a tensor fit the enumerated nodes."""
    for i, node in enumerate(enumerated):
        assert node.weights is not None
        axis = len(enumerated) - 1 - i
        values = node.weights.size(0) if node.position in ancestors else 1
        if tensor.size(axis) not in (1, values):
            raise ValueError(
                f"{what} must have size {values} or 1 at axis {axis}, the values of enumerated "
                f"{node}; got shape {list(tensor.shape)}: compute it from the node's value, or "
                "name its parents"
            )
        if tensor.size(axis) > 1 and node.has_time and not has_time:
            raise ValueError(
                f"{what} depends on enumerated {node}, whose steps are independent, and "
                "so must have a time axis: give the cost of each step"
            )


def check_no_independent_steps(what: str, enumerated: Enumerated) -> None:
    """Raise ``ValueError`` for a node that is drawn after one with independent steps."""
    for other in enumerated:
        if other.has_time:
            raise ValueError(
                f"{what} is drawn after {other}, whose steps are enumerated "
                "independently: record it earlier, name its parents, or sample that node"
            )


def enumerated_node(
    node: StochasticNode, weights: Tensor, independent_steps: bool, enumerated: Enumerated
) -> StochasticNode:
    """A node with its weights ``p(k)``, ``[values, *batch_shape]``; or ``ValueError``.

    Args:
        node: without them.
        weights: one for each of its values.
        independent_steps: whether a time axis is allowed.
        enumerated: enumerated nodes recorded so far.
    """
    depth = node.depth
    has_time = node.has_time and independent_steps
    if weights.dim() - 2 - depth != has_time:
        raise ValueError(
            f"{node} enumerates a distribution of batch shape {list(weights.shape[1:])}, "
            f"where {axes(depth)} was expected: record one node for each step, with step=; "
            "or, if step t's cost depends on the node at step t alone, use "
            "Enumeration(independent_steps=True)"
        )
    check_axes(f"distribution of {node}", weights[0], node.ancestors, enumerated[:depth], has_time)
    if node.mask is not None:
        # As a score function has no term there: no gradient into the probabilities.
        weights = torch.where(node.mask, weights, weights.detach())
    # Size 1 for enumerated nodes that this one does not depend on.
    unused = [1] * (len(enumerated) - depth)
    return replace(
        node,
        has_time=has_time,
        value=node.value.reshape(node.value.size(0), *unused, *node.value.shape[1:]),
        weights=weights.reshape(weights.size(0), *unused, *weights.shape[1:]),
    )


def expectation(tensor: Tensor, has_time: bool, enumerated: Enumerated, depth: int = 0) -> Tensor:
    """Expectation of ``[*enumerated, batch]``, or with time, over all but the first ``depth``."""
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


def axes(depth: int, time: bool = False) -> str:
    """``[enumerated, batch, time]``, for error messages."""
    return f"[{', '.join(['enumerated'] * depth + ['batch'] + ['time'] * time)}]"
