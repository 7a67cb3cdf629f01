"""Second derivatives of functions whose gradient is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def differentiable_gradients(
    function: Callable[..., Any], inputs: Sequence[Tensor | None], *grad_outputs: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, at the time and memory of plain autograd.

    For the ``backward`` of a ``torch.autograd.Function`` under ``create_graph``: derivatives of
    what it computes in place, or from intermediate values, would silently lack terms.

    Args:
        function: computes what ``forward`` does, by operations that autograd knows.
        inputs: of ``forward``, as saved.
        grad_outputs: of ``backward``.

    Returns:
        one gradient for each input, None where it needs none.
    """
    with torch.enable_grad():
        # One input may be computed from another: the gradients must stop at each of them.
        own = [x.view_as(x) if x is not None and x.requires_grad else x for x in inputs]
        wanted = [x for x in own if x is not None and x.requires_grad]
        gradients = iter(
            torch.autograd.grad(
                function(*own), wanted, grad_outputs, create_graph=True, allow_unused=True
            )
        )
    return tuple(next(gradients) if x is not None and x.requires_grad else None for x in own)
