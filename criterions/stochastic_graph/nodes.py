"""The records of a graph: stochastic nodes and cost nodes.

All their tensors have the canonical shape ``[*enumerated, rows]`` or
``[*enumerated, rows, time]``: ``rows`` is the batch with its samples, flattened, and every
enumerated node that came before has an axis, the latest leftmost (size 1: does not depend on it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from criterions.stochastic_graph.estimators import Estimator
from criterions.stochastic_graph.samples import SampleLayout

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

    law: Distribution
    estimator: Estimator
    value: Tensor
    """What the layer got."""

    ancestors: frozenset[int]
    """Positions, in recording order, of all stochastic nodes it may depend on."""

    depth: int
    """How many axes of enumerated nodes its law has."""

    log_prob: Tensor | None = None
    """Canonical; 0 where ``mask`` is False.  None: the node has no score term."""

    mask: Tensor | None = None
    """Of ``log_prob``'s shape, True where the node exists; None: everywhere."""

    has_time: bool = False
    """Whether the last axis of ``log_prob`` is time."""

    part_mask: Tensor | None = None
    """As given: which of the parts that are summed into one log-probability exist."""

    def __str__(self) -> str:
        return describe("node", self.name, self.step)


@dataclass(frozen=True, eq=False)
class CostNode:
    """``c``: what is minimised is the expected sum of all costs."""

    name: str
    step: int | None
    value: Tensor
    """Canonical; 0 where the mask is False."""

    ancestors: frozenset[int]
    """Positions of all stochastic nodes it may depend on: it is downstream of these."""

    before: frozenset[str]
    """Nodes that draw, at every step, after this cost of the step was settled."""

    has_time: bool

    def __str__(self) -> str:
        return describe("cost", self.name, self.step)


def canonical(
    what: str,
    tensor: Tensor,
    layout: SampleLayout,
    depth: int,
    has_time: bool,
    part_mask: Tensor | None = None,
) -> Tensor:
    """Bring a batch-shaped tensor to ``[*enumerated, rows]`` or ``[*enumerated, rows, time]``.

    Axes after these hold independent parts of one outcome and are summed.

    Args:
        what: for error messages.
        tensor: as the user wrote it, with ``depth`` axes of enumerated nodes in front.
        layout: of the samples.
        depth: number of axes of enumerated nodes.
        has_time: whether the axis after the rows is time.
        part_mask: ``[batch, *parts]`` as the user wrote it, True where a part exists.
    """
    tensor = layout.flatten(what, tensor, depth)
    if part_mask is not None:
        tensor = tensor.masked_fill(~canonical_mask(what, part_mask, layout, tensor, depth), 0)
    parts = tensor.dim() - depth - 1 - has_time
    return tensor.flatten(-parts).sum(-1) if parts else tensor


def canonical_mask(
    what: str, mask: Tensor, layout: SampleLayout, tensor: Tensor, depth: int
) -> Tensor:
    """Expand a mask to the tensor it belongs to.

    Args:
        what: whose mask, for error messages.
        mask: as the user wrote it, True where the position exists; with or without axes of
            enumerated nodes.
        layout: of the samples.
        tensor: ``[*enumerated, rows, ...]``.
        depth: number of the tensor's axes of enumerated nodes.

    Raises:
        ValueError: the mask is not boolean or does not fit.
    """
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask of {what} must be boolean, True where the position counts; got {mask.dtype}"
        )
    plain = tensor.dim() - depth + layout.dims - 1
    if mask.dim() in (plain, plain + depth):
        enumerated = mask.dim() - plain
        rows = layout.flatten(f"mask of {what}", mask, enumerated)
        leading = zip(rows.shape[:enumerated], tensor.shape, strict=False)
        if rows.shape[enumerated:] == tensor.shape[depth:] and all(m in (1, n) for m, n in leading):
            return rows.expand_as(tensor)
    raise ValueError(
        f"mask of {what} must have the shape of its values, {list(tensor.shape)} (rows: batch "
        f"times samples); got {list(mask.shape)}"
    )
