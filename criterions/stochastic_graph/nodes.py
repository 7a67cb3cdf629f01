"""The nodes of a stochastic computation graph, with all their tensors in one shape.

That shape is ``[*enumerated, batch]`` or ``[*enumerated, batch, time]``.  ``batch`` includes the
samples of each source, side by side.  Every enumerated node that was recorded before has an axis,
the latest leftmost (size 1: does not depend on it): a tensor of ``depth`` n may depend on the
first n enumerated nodes and is ``[n-1, ..., 1, 0, batch, ...]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from criterions.stochastic_graph.context import SampleRequest
from criterions.stochastic_graph.estimators import Draw, Estimator

NodeKey = tuple[str, "int | None"]


def describe(kind: str, name: str, step: int | None) -> str:
    """``node 'attention' at step 3``, for error messages."""
    return f"{kind} {name!r}" + ("" if step is None else f" at step {step}")


@dataclass(frozen=True, eq=False)
class StochasticNode:
    """``z ~ p(z | parents)``."""

    name: str
    step: int | None
    """Decoder step of a node recorded step by step; None: the node has all its steps, or none."""

    distribution: Distribution
    estimator: Estimator
    value: Tensor
    """What the layer got."""

    position: int
    """Among the graph's stochastic nodes, in recording order."""

    ancestors: frozenset[int]
    """Positions of all stochastic nodes that it may depend on."""

    depth: int
    """How many axes of enumerated nodes its distribution has."""

    has_time: bool = False
    """Whether the last axis of ``log_prob`` or ``weights`` is time."""

    log_prob: Tensor | None = None
    """0 where ``mask`` is False.  None: the node has no score term."""

    mask: Tensor | None = None
    """Of ``log_prob``'s shape, True where the node exists; None: everywhere."""

    part_mask: Tensor | None = None
    """As given: which of the parts that are summed into one log-probability exist."""

    weights: Tensor | None = None
    """``p(k)`` of an enumerated node, ``[values, *earlier enumerated, batch]``, or with time."""

    def __str__(self) -> str:
        return describe("node", self.name, self.step)

    @property
    def law(self) -> Distribution:
        """The former name of :attr:`distribution`."""
        return self.distribution


@dataclass(frozen=True, eq=False)
class CostNode:
    """``c``: what is minimised is the expected sum of all costs."""

    name: str
    step: int | None
    value: Tensor
    """0 where the mask is False."""

    ancestors: frozenset[int]
    """Positions of all stochastic nodes that it may depend on: it is downstream of these."""

    before: frozenset[str]
    """Nodes that draw, at every step, after this cost of the step was settled."""

    has_time: bool

    def __str__(self) -> str:
        return describe("cost", self.name, self.step)


Enumerated = Sequence[StochasticNode]
"""The enumerated nodes of a graph, in recording order."""


def stochastic_node(
    request: SampleRequest,
    estimator: Estimator,
    draw: Draw,
    position: int,
    ancestors: frozenset[int],
    enumerated: Enumerated,
) -> StochasticNode:
    """The node of a sample.

    Args:
        request: what the layer asked for.
        estimator: the node's.
        draw: what it drew.
        position: of the node among the graph's.
        ancestors: positions of the nodes that it may depend on.
        enumerated: enumerated nodes recorded so far.

    Raises:
        ValueError: the shapes do not fit.
    """
    depth = depth_of(ancestors, enumerated)
    name, step, value = request.name, request.step, draw.value
    node = describe("node", name, step)
    what = f"distribution of {node}"
    has_time, log_prob, weights = False, draw.log_prob, draw.weights
    mask = part_mask = None
    if log_prob is not None:
        for other in enumerated[:depth]:
            if other.has_time:
                raise ValueError(
                    f"{node} is drawn after {other}, whose steps are enumerated "
                    "independently: record it earlier, name its parents, or sample that node"
                )
        axes = log_prob.dim() - depth - 1
        has_time = request.causal and step is None and axes > 0
        parts, mask = axes - has_time, request.mask
        if (
            mask is not None
            and parts > 0
            and mask.shape in (log_prob.shape, log_prob.shape[depth:])
        ):
            part_mask, mask = mask, mask.flatten(-parts).any(-1)
        log_prob = summed_parts(what, log_prob, depth, has_time, part_mask)
        check_enumerated_axes(what, log_prob, ancestors, enumerated[:depth], has_time)
        if mask is not None:
            mask = expanded_mask(node, mask, log_prob, depth)
            log_prob = log_prob.masked_fill(~mask, 0)
    elif weights is not None:
        axes = weights.dim() - 2 - depth
        has_time = axes == 1 and request.causal and step is None and draw.independent_steps
        if axes != has_time:
            raise ValueError(
                f"{node} enumerates a distribution of batch shape {list(weights.shape[1:])}, "
                f"where {_axes(depth)} was expected: record one node for each step, with step=; "
                "or, if step t's cost depends on the node at step t alone, use "
                "Enumeration(independent_steps=True)"
            )
        check_enumerated_axes(what, weights[0], ancestors, enumerated[:depth], has_time)
        # Size 1 for enumerated nodes that this one does not depend on.
        unused = [1] * (len(enumerated) - depth)
        weights = weights.reshape(weights.size(0), *unused, *weights.shape[1:])
        value = value.reshape(value.size(0), *unused, *value.shape[1:])
    return StochasticNode(
        name=name,
        step=step,
        distribution=request.distribution,
        estimator=estimator,
        value=value,
        position=position,
        ancestors=ancestors,
        depth=depth,
        has_time=has_time,
        log_prob=log_prob,
        mask=mask,
        part_mask=part_mask,
        weights=weights,
    )


def cost_node(
    name: str,
    value: Tensor,
    mask: Tensor | None,
    step: int | None,
    ancestors: frozenset[int],
    before: frozenset[str],
    nodes: Sequence[StochasticNode],
) -> CostNode:
    """The node of a cost; arguments as of :meth:`StochasticGraph.cost`.

    Args:
        name, value, mask, step, before: as given.
        ancestors: positions of the stochastic nodes upstream.
        nodes: all stochastic nodes recorded so far.

    Raises:
        ValueError: the shapes do not fit.
    """
    enumerated = [node for node in nodes if node.weights is not None]
    what = describe("cost", name, step)
    if not value.is_floating_point():
        raise ValueError(f"{what} must be floating; got {value.dtype}: convert it with .float()")
    depth = depth_of(ancestors, enumerated)
    axes = value.dim() - depth - 1
    if axes not in ((0, 1) if step is None else (0,)):
        other = " (it has a step)" if step is not None else f" or {_axes(depth, time=True)}"
        raise ValueError(f"{what} must be {_axes(depth)}{other}; got shape {list(value.shape)}")
    has_time = axes == 1
    check_enumerated_axes(what, value, ancestors, enumerated[:depth], has_time)
    if mask is not None:
        value = value.masked_fill(~expanded_mask(what, mask, value, depth), 0)
    cost = CostNode(name, step, value, ancestors, before, has_time)
    for node in nodes:
        if node.position in ancestors and node.log_prob is not None:
            _check_steps(node, node.log_prob, cost)
    return cost


def depth_of(ancestors: frozenset[int], enumerated: Enumerated) -> int:
    """How many axes a tensor with these ancestors has: up to the latest enumerated one."""
    depths = [i + 1 for i, node in enumerate(enumerated) if node.position in ancestors]
    return max(depths, default=0)


def summed_parts(
    what: str, tensor: Tensor, depth: int, has_time: bool, part_mask: Tensor | None = None
) -> Tensor:
    """Sum the axes after batch and time: independent parts of one outcome.

    Args:
        what: for error messages.
        tensor: ``[*enumerated, batch, ...]`` with ``depth`` axes of enumerated nodes.
        depth: their number.
        has_time: whether the axis after the batch is time.
        part_mask: ``[batch, *parts]``, True where a part exists.

    Raises:
        ValueError: axes are missing, or the mask does not fit.
    """
    if tensor.dim() <= depth:
        axes = [f"enumerated {i}" for i in reversed(range(depth))] + ["batch", "..."]
        raise ValueError(f"{what} must be [{', '.join(axes)}]; got shape {list(tensor.shape)}")
    if part_mask is not None:
        tensor = tensor.masked_fill(~expanded_mask(what, part_mask, tensor, depth), 0)
    parts = tensor.dim() - depth - 1 - has_time
    return tensor.flatten(-parts).sum(-1) if parts else tensor


def expanded_mask(what: str, mask: Tensor, tensor: Tensor, depth: int) -> Tensor:
    """A mask in the shape of the tensor it belongs to.

    Args:
        what: whose mask, for error messages.
        mask: True where the position exists; with or without axes of enumerated nodes.
        tensor: ``[*enumerated, batch, ...]``.
        depth: number of the tensor's axes of enumerated nodes.

    Raises:
        ValueError: the mask is not boolean or does not fit.
    """
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask of {what} must be boolean, True where the position counts; got {mask.dtype}"
        )
    shape = tensor.shape
    leading = mask.shape[:depth] if mask.dim() == tensor.dim() else shape[:0]
    fits = all(size in (1, whole) for size, whole in zip(leading, shape, strict=False))
    if not fits or mask.shape != leading + shape[depth:]:
        raise ValueError(
            f"mask of {what} must have the shape of its values, {list(shape)} (batch: with its "
            f"samples); got {list(mask.shape)}"
        )
    return mask.expand(shape)


def check_enumerated_axes(
    what: str, tensor: Tensor, ancestors: frozenset[int], enumerated: Enumerated, has_time: bool
) -> None:
    """Raise ``ValueError`` unless the leading axes of a tensor fit the enumerated nodes."""
    depth = len(enumerated)
    for i, node in enumerate(enumerated):
        assert node.weights is not None
        axis = depth - 1 - i
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


def _check_steps(node: StochasticNode, log_prob: Tensor, cost: CostNode) -> None:
    if node.name in cost.before and not node.has_time and node.step is None:
        raise ValueError(
            f"before of {cost} names {node.name!r}, which has no time axis: leave it out, or name "
            "the cost's parents if it does not depend on that node"
        )
    if not cost.has_time:
        return
    steps = cost.value.size(-1)
    if node.has_time and log_prob.size(-1) != steps:
        raise ValueError(
            f"{cost} has {steps} steps, but {node}, upstream of it, has {log_prob.size(-1)}: pad "
            "both to the same length; if the node's second axis is not the costs' time, record "
            "it with causal=False or as torch.distributions.Independent(distribution, 1)"
        )
    if node.step is not None and node.step >= steps:
        raise ValueError(
            f"{cost} has {steps} steps, numbered from 0, but {node} is upstream of it: "
            "pad the cost, or count the node's steps from 0"
        )


def _axes(depth: int, time: bool = False) -> str:
    return f"[{', '.join(['enumerated'] * depth + ['batch'] + ['time'] * time)}]"
