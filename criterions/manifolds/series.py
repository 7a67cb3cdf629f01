"""Quotients of trigonometric functions of ``r``, as functions of ``r ** 2``, safe at 0.

A vector's norm has no derivative at 0, but these have: near 0 they are polynomials in ``r ** 2``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_SERIES_BELOW = 1e-2
"""Of ``r ** 2``: the first term left out is below the rounding error of float64."""


def sinc(square: Tensor) -> Tensor:
    """``sin(r) / r``.

    Args:
        square: ``r ** 2``, any shape; likewise below.
    """
    return _safe(
        square,
        lambda r, _: r.sin() / r,
        (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880),
    )


def versine(square: Tensor) -> Tensor:
    """``(1 - cos(r)) / r ** 2``."""
    # Half the square of sinc(r / 2): no difference of nearly equal numbers.
    return sinc(square / 4).square() / 2


def sinc_slope(square: Tensor) -> Tensor:
    """``(cos(r) - sin(r) / r) / r ** 2``: the derivative of sinc to ``r``, over ``r``."""
    return _safe(
        square,
        lambda r, square: (r.cos() - r.sin() / r) / square,
        (-1 / 3, 1 / 30, -1 / 840, 1 / 45360, -1 / 3991680),
    )


def versine_slope(square: Tensor) -> Tensor:
    """``(sin(r) / r - 2 (1 - cos(r)) / r ** 2) / r ** 2``: likewise of versine."""
    # The derivative of half the square of sinc(r / 2), for the same reason.
    return sinc(square / 4) * sinc_slope(square / 4) / 4


def log_magnitude(values: Tensor) -> Tensor:
    """``log |values|``; the smallest number's logarithm, without gradient, at 0."""
    return values.abs().clamp(min=torch.finfo(values.dtype).tiny).log()


def direction_and_length(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors ``[..., d]`` and lengths ``[...]`` of ``[..., d]``.

    The zero vector gets the first axis for its direction, a tiny length, and no gradient.
    """
    square = vectors.square().sum(-1)
    tiny = torch.finfo(vectors.dtype).tiny
    length = square.clamp(min=tiny).sqrt()
    first = torch.zeros_like(vectors[..., :1]) + 1
    axis = torch.cat([first, torch.zeros_like(vectors[..., 1:])], dim=-1)
    zero = (square < tiny).unsqueeze(-1)
    return torch.where(zero, axis, vectors / length.unsqueeze(-1)), length


def _safe(
    square: Tensor, formula: Callable[[Tensor, Tensor], Tensor], series: tuple[float, ...]
) -> Tensor:
    small = square < _SERIES_BELOW
    # Each branch sees numbers that it can bear, lest the other's gradient be NaN.
    away = torch.where(small, torch.ones_like(square), square)
    near = torch.where(small, square, torch.zeros_like(square))
    polynomial = torch.full_like(near, series[-1])
    for coefficient in reversed(series[:-1]):
        polynomial = polynomial * near + coefficient
    return torch.where(small, polynomial, formula(away.sqrt(), away))
