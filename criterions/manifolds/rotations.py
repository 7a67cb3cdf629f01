"""Rotations of space as matrices, axis times angle, and unit quaternions.

Functions of an angle ``r`` are functions of ``r ** 2`` here: a vector's norm has no derivative at
0, but these are polynomials in its square there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_SERIES_BELOW = 1e-2
"""Of ``r ** 2``: the first term left out is below the rounding error of float64."""
_SINC_SERIES = (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880)


def sinc(square: Tensor) -> Tensor:
    """``sin(r) / r``, also at 0, of ``r ** 2`` of any shape."""
    small = square < _SERIES_BELOW
    # Neither branch sees numbers that would make its gradient, and so the other's, NaN.
    away = square.masked_fill(small, 1).sqrt()
    near = square.masked_fill(~small, 0)
    polynomial = torch.full_like(near, _SINC_SERIES[-1])
    for coefficient in reversed(_SINC_SERIES[:-1]):
        polynomial = polynomial * near + coefficient
    return torch.where(small, polynomial, away.sin() / away)


def versine(square: Tensor) -> Tensor:
    """``(1 - cos(r)) / r ** 2``, also at 0; argument as of :func:`sinc`."""
    # Half the square of sinc(r / 2): no difference of nearly equal numbers.
    return sinc(square / 4).square() / 2


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


def cross_product_matrix(vectors: Tensor) -> Tensor:
    """``[..., 3, 3]`` skew-symmetric ``K`` with ``K w = v x w``, of ``[..., 3]``."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def product(first: Tensor, second: Tensor) -> Tensor:
    """``[..., 3, n]``: of matrices ``[..., 3, 3]`` and ``[..., 3, n]``, in their own precision.

    ``@`` has half of it under ``torch.autocast``, where a rotation turned back would be another.
    """
    return (first.unsqueeze(-1) * second.unsqueeze(-3)).sum(-2)


def exponential(vectors: Tensor) -> Tensor:
    """``[..., 3, 3]``: the rotation by the angle ``|v|`` about ``v`` ``[..., 3]`` (Rodrigues)."""
    square = vectors.square().sum(-1)[..., None, None]
    generator = cross_product_matrix(vectors)
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return identity + sinc(square) * generator + versine(square) * product(generator, generator)


def axis_and_angle(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Unit axis ``[..., 3]`` and angle ``[...]`` from 0 to pi, of rotations ``[..., 3, 3]``.

    Through the quaternion, as the matrix loses the axis near both ends.  The axis of the
    identity is arbitrary.
    """
    quaternion = to_quaternion(matrices)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    axis, sine = direction_and_length(quaternion[..., 1:])
    return axis, 2 * torch.atan2(sine, quaternion[..., 0])


def to_quaternion(matrices: Tensor) -> Tensor:
    """``[..., 4]``, real part first: one of the two unit quaternions of ``[..., 3, 3]``."""
    ((xx, xy, xz), (yx, yy, yz), (zx, zy, zz)) = (row.unbind(-1) for row in matrices.unbind(-2))
    # Row i is the quaternion times four times its own component i; the largest is well away from 0.
    table = (
        (1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx),
        (xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy),
        (yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz),
    )
    scaled = torch.stack([torch.stack(row, dim=-1) for row in table], dim=-2)
    best = scaled.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    row = scaled.gather(-2, best.expand(*best.shape[:-1], 4)).squeeze(-2)
    return normalize(row, dim=-1)


def from_quaternion(quaternions: Tensor) -> Tensor:
    """Rotations ``[..., 3, 3]`` of quaternions ``[..., 4]``, normalised here."""
    unit: Tensor = normalize(quaternions, dim=-1)
    real, vector = unit[..., :1], unit[..., 1:]
    generator = cross_product_matrix(vector)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return identity + 2 * real.unsqueeze(-1) * generator + 2 * product(generator, generator)


def rotation_from_numbers(numbers: Tensor) -> Tensor:
    """Rotations ``[..., 3, 3]`` from any numbers ``[..., 6]``, continuously; 0 is the identity.

    The first two columns are these numbers, plus those of the identity, made orthonormal
    (Zhou et al. 2019, "On the continuity of rotation representations in neural networks",
    arXiv 1812.07035): networks cannot put out angles continuously.
    """
    identity = torch.eye(3, dtype=numbers.dtype, device=numbers.device)
    first, second = (numbers.unflatten(-1, (2, 3)) + identity[:2]).unbind(-2)
    first = normalize(first, dim=-1)
    second = second - (first * second).sum(-1, keepdim=True) * first
    second = normalize(second, dim=-1)
    third = torch.cross(first, second, dim=-1)
    return torch.stack([first, second, third], dim=-1)
