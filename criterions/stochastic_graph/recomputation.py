"""Activation checkpointing runs a layer twice, which a stochastic layer does not bear.

The second run, in the backward pass, would draw again, or take the deterministic value where the
first one took a sample; and the first run keeps no gradient for the log-probability.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

# Not public, and absent from torch before 2.0: -1 outside a backward pass.
_running_backward: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: -1)

_REMEDY = (
    "leave activation checkpointing (--checkpoint-activations, torch.utils.checkpoint) off, or "
    "move the stochastic layer out of what is checkpointed"
)


def check_not_recomputing(name: str) -> None:
    """Raise ``RuntimeError`` if a layer samples during a backward pass."""
    if _running_backward() != -1:
        raise RuntimeError(
            f"node {name!r} is asked for in the backward pass, where its layer is computed a "
            f"second time: {_REMEDY}"
        )


def check_keeps_gradient(what: str, outside: bool) -> None:
    """Raise ``RuntimeError`` if a node is recorded without gradient in a graph that has one.

    Args:
        what: the node.
        outside: whether gradients were on where the graph was entered.
    """
    if outside and not torch.is_grad_enabled():
        raise RuntimeError(
            f"{what} is recorded where gradients are off, though they are on around the graph: "
            f"{_REMEDY}; under torch.no_grad its log-probability would have no gradient"
        )
