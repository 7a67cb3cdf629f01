"""The nodes of a stochastic computation graph, with all their tensors in one shape.

That shape is ``[batch]`` or ``[batch, time]``, where ``batch`` includes the samples of each source,
side by side; after axes of enumerated nodes if there are any, see
:mod:`criterions.stochastic_graph.enumeration`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from criterions.stochastic_graph.estimators import Estimator

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

    has_time: bool
    """Whether the axis after the batch is time."""

    log_prob: Tensor | None = None
    """``[batch]`` or ``[batch, time]``, 0 where ``mask`` is False.  None: no score term."""

    mask: Tensor | None = None
    """Of that shape, True where the node exists; None: everywhere."""

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


def summed_parts(
    what: str, tensor: Tensor, depth: int, has_time: bool, part_mask: Tensor | None = None
) -> Tensor:
    """Sum the axes after batch and time, ``[*enumerated, batch, *parts]``: parts of one outcome.

    ``depth`` is the number of enumerated axes.  Raises ``ValueError`` where axes are missing, or
    the mask ``[batch, *parts]`` does not fit.
    """
    if tensor.dim() <= depth:
        axes = [f"enumerated {i}" for i in reversed(range(depth))] + ["batch", "..."]
        raise ValueError(f"{what} must be [{', '.join(axes)}]; got shape {list(tensor.shape)}")
    if part_mask is not None:
        tensor = tensor.masked_fill(~expanded_mask(what, part_mask, tensor, depth), 0)
    parts = tensor.dim() - depth - 1 - has_time
    return tensor.flatten(-parts).sum(-1) if parts else tensor


def expanded_mask(what: str, mask: Tensor, tensor: Tensor, depth: int) -> Tensor:
    """A mask, with or without enumerated axes, in the shape ``[*enumerated, batch, ...]`` of its
    tensor, which has ``depth`` of them; or ``ValueError`` if it is not boolean or does not fit.
    """
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask of {what} must be boolean, True where the position counts; got {mask.dtype}"
        )
    shape = tensor.shape
    fits = mask.shape == shape[depth:]
    if depth and mask.dim() == tensor.dim():
        fits = mask.shape[depth:] == shape[depth:] and all(
            size in (1, whole) for size, whole in zip(mask.shape[:depth], shape, strict=False)
        )
    if not fits:
        raise ValueError(
            f"mask of {what} must have the shape of its values, {list(shape)} (batch: with its "
            f"samples); got {list(mask.shape)}"
        )
    return mask.expand(shape)
