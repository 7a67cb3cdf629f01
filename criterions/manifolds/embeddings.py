"""Manifolds in space, as images of coordinates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from criterions.manifolds.rotations import (
    axis_and_angle,
    direction_and_length,
    exponential,
    from_quaternion,
    log_magnitude,
    product,
    sinc,
    versine,
)

TURNS = 3
"""How many turns in each direction :meth:`Embedding.preimages` looks for."""


class Embedding(ABC):
    """A smooth map ``f`` from coordinates in ``R^d`` onto a manifold in ``R^n``.

    Angles: ``f`` takes every point many times.  The volume of a small piece of the manifold is
    ``sqrt(det(J^T J))`` times that of the coordinates, with ``J`` the derivative of ``f``.
    """

    coordinates: ClassVar[int]
    """``d``."""

    ambient: ClassVar[int]
    """``n``."""

    rotates: ClassVar[bool] = False
    """Whether rotations of three-dimensional space act on the manifold."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """Logarithm of the manifold's volume: length, area, ..."""

    @abstractmethod
    def __call__(self, coordinates: Tensor) -> Tensor:
        """``f``: points ``[..., n]`` of coordinates ``[..., d]``."""

    @abstractmethod
    def log_volume_element(self, coordinates: Tensor) -> Tensor:
        """``log sqrt(det(J^T J))``, ``[...]``."""

    @abstractmethod
    def preimages(self, points: Tensor, near: Tensor) -> Tensor:
        """Coordinates ``[number, ..., d]`` of points ``[..., n]`` near a place ``[..., d]``.

        Every angle with ``TURNS`` turns more and less.
        """

    @abstractmethod
    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Points ``[*shape, n]`` drawn uniformly with respect to volume.

        ``like`` is for dtype and device.
        """

    def rotated(self, points: Tensor, rotations: Tensor) -> Tensor:
        """The action of rotations ``[..., 3, 3]`` on points; it keeps volumes.

        Raises:
            ValueError: rotations do not act on this manifold.
        """
        raise ValueError(
            f"rotations do not act on {type(self).__name__}: shift the coordinates' mean instead"
        )


class _Angles(Embedding):
    """A product of unit circles; the coordinates are their angles."""

    @property
    def log_volume(self) -> float:
        return self.coordinates * math.log(2 * math.pi)

    def __call__(self, coordinates: Tensor) -> Tensor:
        return torch.stack([coordinates.cos(), coordinates.sin()], dim=-1).flatten(-2)

    def log_volume_element(self, coordinates: Tensor) -> Tensor:
        return torch.zeros_like(coordinates[..., 0])

    def preimages(self, points: Tensor, near: Tensor) -> Tensor:
        return _turned(torch.atan2(points[..., 1::2], points[..., ::2]), near)

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return self(_angles((*shape, self.coordinates), like))


class Circle(_Angles):
    """The unit circle in the plane; the coordinate is the angle."""

    coordinates, ambient = 1, 2


class FlatTorus(_Angles):
    """The product of two unit circles, in ``R^4``; the coordinates are their angles."""

    coordinates, ambient = 2, 4


class Torus(Embedding):
    """The ring in ``R^3``: a circle of radius ``tube`` carried around one of radius ``ring``.

    Coordinates are the angle around the axis and the angle around the tube, 0 on the outside.

    Args:
        ring, tube: radii, ``ring > tube > 0``.
    """

    coordinates, ambient = 2, 3

    def __init__(self, ring: float = 2.0, tube: float = 1.0) -> None:
        if not ring > tube > 0:
            raise ValueError(f"the radii must be ring > tube > 0; got {ring} and {tube}")
        self.ring, self.tube = ring, tube

    @property
    def log_volume(self) -> float:
        return math.log(4 * math.pi**2 * self.ring * self.tube)

    def __call__(self, coordinates: Tensor) -> Tensor:
        around, tube = coordinates.unbind(-1)
        radius = self._radius(tube)
        points = [radius * around.cos(), radius * around.sin(), self.tube * tube.sin()]
        return torch.stack(points, dim=-1)

    def log_volume_element(self, coordinates: Tensor) -> Tensor:
        return math.log(self.tube) + self._radius(coordinates[..., 1]).log()

    def preimages(self, points: Tensor, near: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        # The hole keeps the points away from the axis.
        tube = torch.atan2(z, (x.square() + y.square()).sqrt() - self.ring)
        return _turned(torch.stack([torch.atan2(y, x), tube], dim=-1), near)

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        around, tube = _angles((*shape, 2), like).unbind(-1)
        # The outside is larger: an angle goes over to the opposite one with the probability that
        # makes its density proportional to the radius there.
        stays = torch.rand_like(tube) < self._radius(tube) / (2 * self.ring)
        tube = torch.where(stays, tube, tube + math.pi)
        return self(torch.stack([around, tube], dim=-1))

    def _radius(self, tube: Tensor) -> Tensor:
        return self.ring + self.tube * tube.cos()


class Sphere(Embedding):
    """The unit sphere in ``R^3``; coordinates are the tangent plane's at the pole ``(0, 0, 1)``.

    ``f`` is the exponential map: go the distance ``|v|`` along the great circle that starts in
    the direction ``v``.
    """

    coordinates, ambient = 2, 3
    rotates = True

    @property
    def log_volume(self) -> float:
        return math.log(4 * math.pi)

    def __call__(self, coordinates: Tensor) -> Tensor:
        square = coordinates.square().sum(-1, keepdim=True)
        height = 1 - square * versine(square)
        return torch.cat([sinc(square) * coordinates, height], dim=-1)

    def log_volume_element(self, coordinates: Tensor) -> Tensor:
        return log_magnitude(sinc(coordinates.square().sum(-1)))

    def preimages(self, points: Tensor, near: Tensor) -> Tensor:
        direction, sine = direction_and_length(points[..., :2])
        return _along(direction, torch.atan2(sine, points[..., 2]))

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return normalize(_normal((*shape, 3), like), dim=-1)

    def rotated(self, points: Tensor, rotations: Tensor) -> Tensor:
        """``R p``."""
        return product(rotations, points.unsqueeze(-1)).squeeze(-1)


class Rotations(Embedding):
    """SO(3), the rotations of space, as flattened matrices in ``R^9``.

    Coordinates are axis times angle, ``f`` is the exponential map.  The metric is that of ``R^9``,
    in which a turn by a small angle ``w`` has the length ``sqrt(2) w``; the volume is the Haar
    measure but for a constant.
    """

    coordinates, ambient = 3, 9
    rotates = True

    @property
    def log_volume(self) -> float:
        return math.log(8 * math.pi**2) + 1.5 * math.log(2)

    def __call__(self, coordinates: Tensor) -> Tensor:
        return exponential(coordinates).flatten(-2)

    def log_volume_element(self, coordinates: Tensor) -> Tensor:
        haar = 2 * versine(coordinates.square().sum(-1))
        return 1.5 * math.log(2) + log_magnitude(haar)

    def preimages(self, points: Tensor, near: Tensor) -> Tensor:
        return _along(*axis_and_angle(points.unflatten(-1, (3, 3))))

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return from_quaternion(_normal((*shape, 4), like)).flatten(-2)

    def rotated(self, points: Tensor, rotations: Tensor) -> Tensor:
        """``R P``."""
        return product(rotations, points.unflatten(-1, (3, 3))).flatten(-2)


def _whole_turns(like: Tensor) -> Tensor:
    """``[2 TURNS + 1]`` angles."""
    return 2 * math.pi * torch.arange(-TURNS, TURNS + 1, dtype=like.dtype, device=like.device)


def _turned(angles: Tensor, near: Tensor) -> Tensor:
    """``[number, ..., d]``: all combinations of turns of the angles ``[..., d]``."""
    nearest = angles + 2 * math.pi * ((near - angles) / (2 * math.pi)).detach().round()
    turns = _whole_turns(angles)
    grid = torch.cartesian_prod(*[turns] * angles.size(-1)).reshape(-1, angles.size(-1))
    return nearest + grid.reshape(-1, *[1] * (angles.dim() - 1), angles.size(-1))


def _along(directions: Tensor, distances: Tensor) -> Tensor:
    """``[number, ..., d]``: distances ``[...]`` along closed geodesics of length 2 pi."""
    turns = _whole_turns(distances).reshape(-1, *[1] * distances.dim())
    return (distances + turns).unsqueeze(-1) * directions


def _angles(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return 2 * math.pi * torch.rand(shape, dtype=like.dtype, device=like.device)


def _normal(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device)
