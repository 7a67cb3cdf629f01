"""From what a user records to canonical nodes, with all checks of shapes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from criterions.stochastic_graph.enumeration import EnumeratedAxes, EnumeratedAxis
from criterions.stochastic_graph.estimators import Draw
from criterions.stochastic_graph.nodes import (
    CostNode,
    StochasticNode,
    canonical,
    canonical_mask,
    describe,
)
from criterions.stochastic_graph.samples import SampleLayout


def score_node(
    node: StochasticNode,
    log_prob: Tensor,
    mask: Tensor | None,
    causal: bool,
    enumerated: EnumeratedAxes,
    layout: SampleLayout,
) -> StochasticNode:
    """Add the score term to a node.

    Args:
        node: without it.
        log_prob: of the law's batch shape.
        mask: as given by the user, or None.
        causal: whether the axis after the rows is time.
        enumerated: enumerated nodes recorded so far.
        layout: of the samples.
    """
    depth, law = node.depth, f"law of {node}"
    enumerated.check_no_independent_steps(str(node), depth)
    axes = log_prob.dim() - depth - layout.dims
    has_time = causal and node.step is None and axes > 0
    parts = axes - has_time
    part_mask = None
    whole = (log_prob.shape, log_prob.shape[depth:])
    if mask is not None and parts > 0 and mask.shape in whole:
        part_mask = mask
        mask = mask.flatten(-parts).any(-1)
    log_prob = canonical(law, log_prob, layout, depth, has_time, part_mask)
    enumerated.check(law, log_prob, node.ancestors, depth, has_time)
    if mask is not None:
        mask = canonical_mask(str(node), mask, layout, log_prob, depth)
        log_prob = log_prob.masked_fill(~mask, 0)
    return replace(node, log_prob=log_prob, mask=mask, has_time=has_time, part_mask=part_mask)


def enumerated_axis(
    node: StochasticNode,
    draw: Draw,
    position: int,
    causal: bool,
    enumerated: EnumeratedAxes,
    layout: SampleLayout,
) -> EnumeratedAxis:
    """The axis of a node that is summed over; its ``node`` has the value the layer gets.

    Args:
        node: without value axis for earlier nodes that it does not depend on.
        draw: with weights.
        position: of the node among the graph's.
        causal: whether the axis after the rows is time.
        enumerated: enumerated nodes recorded so far.
        layout: of the samples.
    """
    assert draw.weights is not None
    depth, law, weights = node.depth, f"law of {node}", draw.weights
    axes = weights.dim() - 1 - depth - layout.dims
    has_time = axes == 1 and causal and node.step is None and draw.independent_steps
    if axes != has_time:
        raise ValueError(
            f"{node} enumerates a law of batch shape {list(weights.shape[1:])}, where "
            f"{_shape(depth, layout)} was expected: record one node for each step, with step=; "
            "or, if step t's cost depends on the node at step t alone, use "
            "Enumeration(independent_steps=True)"
        )
    weights = layout.flatten(law, weights, depth + 1)
    enumerated.check(law, weights[0], node.ancestors, depth, has_time)
    # Axes of enumerated nodes that this one does not depend on.
    skipped = [1] * (len(enumerated) - depth)
    weights = weights.reshape(weights.size(0), *skipped, *weights.shape[1:])
    value = draw.value.reshape(draw.value.size(0), *skipped, *draw.value.shape[1:])
    node = replace(node, value=value, has_time=has_time)
    return EnumeratedAxis(node, position, weights, has_time)


def cost_node(
    name: str,
    step: int | None,
    value: Tensor,
    mask: Tensor | None,
    ancestors: frozenset[int],
    before: frozenset[str],
    enumerated: EnumeratedAxes,
    layout: SampleLayout,
) -> CostNode:
    """A cost node from what the user gives to :meth:`StochasticGraph.cost`.

    Args:
        name, step, value, mask, before: as given.
        ancestors: positions of the stochastic nodes upstream.
        enumerated: enumerated nodes recorded so far.
        layout: of the samples.
    """
    what = describe("cost", name, step)
    if not value.is_floating_point():
        raise ValueError(f"{what} must be floating; got {value.dtype}: convert it with .float()")
    depth = enumerated.depth(ancestors)
    axes = value.dim() - depth - layout.dims
    if axes not in ((0, 1) if step is None else (0,)):
        wanted = _shape(depth, layout)
        wanted += " (it has a step)" if step is not None else f" or {_shape(depth, layout, True)}"
        raise ValueError(f"{what} must be {wanted}; got shape {list(value.shape)}")
    has_time = axes == 1
    value = layout.flatten(what, value, depth)
    enumerated.check(what, value, ancestors, depth, has_time)
    if mask is not None:
        value = value.masked_fill(~canonical_mask(what, mask, layout, value, depth), 0)
    return CostNode(name, step, value, ancestors, before, has_time)


def _shape(depth: int, layout: SampleLayout, time: bool = False) -> str:
    axes = ["enumerated"] * depth + [layout.describe()] + ["time"] * time
    return f"[{', '.join(axes)}]"
