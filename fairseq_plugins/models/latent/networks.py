"""The networks of the latent variable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq_plugins.models.latent.kinds import LatentKind


def mean_over_tokens(states: Tensor, padding: Tensor) -> Tensor:
    """``[rows, channels]``: mean of ``[rows, length, channels]`` where ``padding`` is False.

    Summed in float32 at least, and 0 for a row that is all padding.
    """
    exists = ~padding.unsqueeze(-1)
    total = states.masked_fill(~exists, 0).sum(1, dtype=_wide(states))
    return (total / exists.sum(1).clamp(min=1)).type_as(states)


def _wide(states: Tensor) -> torch.dtype:
    return torch.float32 if states.dtype in (torch.float16, torch.bfloat16) else states.dtype


def anchor(network: nn.Module | None) -> Tensor | float:
    """0, with a gradient of 0 for every parameter of a network, or of no network.

    Data-parallel training wants a gradient of each parameter in each update, also where an
    objective has no use for the network.
    """
    if network is None or not torch.is_grad_enabled():
        return 0.0
    # Of one number each: a sum over all may overflow in float16.
    return sum(0 * parameter.flatten()[0] for parameter in network.parameters())


class LawNetwork(nn.Sequential):
    """Parameters of a latent variable's law from a vector: one hidden layer.

    Args:
        channels: size of the vector.
        hidden: size of the hidden layer.
        kind: of the variable.
    """

    def __init__(self, channels: int, hidden: int, kind: LatentKind) -> None:
        super().__init__(nn.Linear(channels, hidden), nn.Tanh(), nn.Linear(hidden, kind.parameters))
