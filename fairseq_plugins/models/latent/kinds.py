"""From the numbers that a network puts out to the law of a latent variable."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from torch.nn.functional import softplus

from criterions.manifolds import (
    Circle,
    EmbeddedLaw,
    Embedding,
    Rotations,
    Sphere,
    Torus,
    UniformLaw,
    divergence_estimate,
    rotation_from_numbers,
)

_SOFTPLUS_INVERSE_OF_1 = 0.5413248546129181
"""``log(e - 1)``: a network that puts out 0 says 1."""
_SMALLEST = 1e-4


def positive(numbers: Tensor) -> Tensor:
    """Standard deviations from any numbers; 1 for 0."""
    return softplus(numbers + _SOFTPLUS_INVERSE_OF_1) + _SMALLEST


class LatentKind(ABC):
    """A latent variable of several independent parts: dimensions, or copies of a manifold.

    All laws are ``Independent(part, 1)`` with the parts on the second axis.

    Args:
        parts: their number.
    """

    parameters_of_part: int
    """What a network has to put out for each part."""

    features_of_part: int
    """Size of the value of each part."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    @property
    def parameters(self) -> int:
        """Of a law, all parts together."""
        return self.parts * self.parameters_of_part

    @property
    def features(self) -> int:
        """Of a value, all parts together."""
        return self.parts * self.features_of_part

    def law(self, parameters: Tensor) -> Independent:
        """The law, of batch shape ``[rows]``, in float32 at least.

        Args:
            parameters: ``[rows, parameters]``, any numbers.
        """
        if parameters.dtype in (torch.float16, torch.bfloat16):
            parameters = parameters.float()
        part = self._part(parameters.unflatten(1, (self.parts, self.parameters_of_part)))
        return Independent(part, 1, validate_args=False)

    def fixed(self, rows: int, like: Tensor) -> Independent:
        """The prior that depends on nothing, of batch shape ``[rows]``.

        Args:
            rows: of the batch.
            like: for the device and, unless it has less than 32 bits, the dtype.
        """
        dtype = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
        zeros = torch.zeros(rows, self.parts, dtype=dtype, device=like.device)
        return Independent(self._fixed_part(zeros), 1, validate_args=False)

    def prior(self, source: Tensor, parameters: Sequence[Tensor]) -> Independent:
        """p(z | x), of batch shape ``[rows]``.

        Args:
            source: ``[rows, channels]``.
            parameters: of a conditional prior one tensor ``[rows, parameters]``, of a fixed none.
        """
        return self.law(*parameters) if parameters else self.fixed(source.size(0), source)

    @abstractmethod
    def _part(self, parameters: Tensor) -> Distribution:
        """Of batch shape ``[rows, parts]``, from ``[rows, parts, parameters_of_part]``."""

    @abstractmethod
    def _fixed_part(self, zeros: Tensor) -> Distribution:
        """Of batch shape ``[rows, parts]``, the shape of ``zeros``."""


class GaussianKind(LatentKind):
    """A vector with independent Gaussian components; each is a part."""

    parameters_of_part = 2
    features_of_part = 1

    def _part(self, parameters: Tensor) -> Distribution:
        mean, deviation = parameters.unbind(-1)
        return Normal(mean, positive(deviation), validate_args=False)

    def _fixed_part(self, zeros: Tensor) -> Distribution:
        return Normal(zeros, zeros + 1, validate_args=False)


class ManifoldKind(LatentKind):
    """Points on copies of a manifold: a Gaussian of the coordinates, embedded.

    Args:
        parts: number of copies.
    """

    embedding: Embedding
    widest: float
    """Bound of the coordinates' standard deviations; 1 is what a network says with 0."""

    @property
    def features_of_part(self) -> int:
        """Coordinates of space."""
        return self.embedding.ambient

    def _fixed_part(self, zeros: Tensor) -> Distribution:
        return UniformLaw(self.embedding, zeros)

    def _deviation(self, numbers: Tensor) -> Tensor:
        return _SMALLEST + self.widest * (numbers - math.log(self.widest - 1)).sigmoid()


class AnglesKind(ManifoldKind):
    """Circle or torus: Gaussian angles, modulo a turn."""

    widest = math.pi
    """A Gaussian of this width on the circle is uniform but for 1 part in 100.

    On the torus angles that are uniform leave more points on the inside than on the outside.
    """

    @property
    def parameters_of_part(self) -> int:
        """Mean and deviation of every angle."""
        return 2 * self.embedding.coordinates

    def _part(self, parameters: Tensor) -> Distribution:
        mean, deviation = parameters.chunk(2, dim=-1)
        base = Normal(mean, self._deviation(deviation), validate_args=False)
        return EmbeddedLaw(Independent(base, 1, validate_args=False), self.embedding)


class RotatedKind(ManifoldKind):
    """Sphere or SO(3): a Gaussian in the tangent space, and a rotation that says where.

    The rotation has six numbers, see :func:`rotation_from_numbers`; of the sphere one of its
    degrees of freedom turns the directions of the deviations.
    """

    widest = 2.0
    """Wider is no closer to uniform."""

    @property
    def parameters_of_part(self) -> int:
        """Rotation and deviations."""
        return 6 + self.embedding.coordinates

    def _part(self, parameters: Tensor) -> Distribution:
        rotation = rotation_from_numbers(parameters[..., :6])
        deviation = self._deviation(parameters[..., 6:])
        base = Normal(torch.zeros_like(deviation), deviation, validate_args=False)
        return EmbeddedLaw(Independent(base, 1, validate_args=False), self.embedding, rotation)


class CircleKind(AnglesKind):
    """Points on circles."""

    embedding = Circle()


class TorusKind(AnglesKind):
    """Points on rings in space."""

    embedding = Torus()


class SphereKind(RotatedKind):
    """Points on spheres."""

    embedding = Sphere()


class RotationsKind(RotatedKind):
    """Rotations of space, as matrices."""

    embedding = Rotations()


KINDS: dict[str, type[LatentKind]] = {
    "gaussian": GaussianKind,
    "circle": CircleKind,
    "torus": TorusKind,
    "sphere": SphereKind,
    "so3": RotationsKind,
}


def divergence(posterior: Independent, prior: Independent, value: Tensor) -> tuple[Tensor, bool]:
    """``KL(posterior || prior)`` of each part, in nats, ``[rows, parts]``.

    Where there is no formula, it is the estimate ``log q(z) - log p(z)``: unbiased, and so is its
    gradient.  On circle and torus that goes through the value, which has to be reparameterized; on
    sphere and SO(3) it does not, see :func:`criterions.manifolds.divergence_estimate`.

    Args:
        posterior, prior: laws of one kind.
        value: drawn from the posterior, with gradient.

    Returns:
        the divergence; whether its gradient goes through ``value``.
    """
    posterior, prior = posterior.base_dist, prior.base_dist
    try:
        return kl_divergence(posterior, prior), False
    except NotImplementedError:
        if posterior.embedding.rotates:
            return divergence_estimate(posterior, prior, value), False
        return posterior.log_prob(value) - prior.log_prob(value), True
