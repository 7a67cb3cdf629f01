"""Distributions of a latent variable, from the outputs of a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from torch.nn.functional import softplus

from criterions.manifolds import (
    Circle,
    EmbeddedDistribution,
    Embedding,
    Rotations,
    Sphere,
    Torus,
    UniformOnManifold,
    divergence_estimate,
    rotation_from_numbers,
)
from fairseq_plugins.models.extending import at_least_float32

_SOFTPLUS_INVERSE_OF_1 = math.log(math.e - 1)
"""With it, a network whose output is 0 has a standard deviation of 1."""
_SMALLEST = 1e-4
"""Lower bound of standard deviations."""


class LatentKind(ABC):
    """A family of distributions of a latent variable that has independent parts.

    The parts are the dimensions of a vector, or points on several copies of a manifold; each has
    ``part_parameters``, outputs of a network, and a value of size ``part_features``.  All
    distributions are ``Independent(part, 1)``, of batch shape ``[batch]``.
    """

    def __init__(self, parts: int, part_parameters: int, part_features: int) -> None:
        self.parts = parts
        self.parameters = parts * part_parameters
        """Outputs of a network that a distribution needs."""
        self.features = parts * part_features
        """Size of a value."""

    def distribution(self, parameters: Tensor) -> Independent:
        """Of any numbers ``[batch, parameters]``; in float32 at least."""
        parameters = at_least_float32(parameters).unflatten(1, (self.parts, -1))
        return Independent(self._part(parameters), 1, validate_args=False)

    def prior(self, source: Tensor, parameters: Sequence[Tensor]) -> Independent:
        """p(z | x), with one tensor ``[batch, parameters]``, or p(z), with none."""
        if parameters:
            return self.distribution(*parameters)
        zeros = at_least_float32(source.new_zeros(source.size(0), self.parts))
        return Independent(self._fixed_part(zeros), 1, validate_args=False)

    @abstractmethod
    def _part(self, parameters: Tensor) -> Distribution:
        """Of batch shape ``[batch, parts]``, from ``[batch, parts, part_parameters]``."""

    @abstractmethod
    def _fixed_part(self, zeros: Tensor) -> Distribution:
        """Standard normal or uniform, of the batch shape ``[batch, parts]`` of ``zeros``."""


class GaussianKind(LatentKind):
    """A vector with independent Gaussian components; each is a part."""

    def __init__(self, parts: int) -> None:
        super().__init__(parts, part_parameters=2, part_features=1)

    def _part(self, parameters: Tensor) -> Distribution:
        mean, numbers = parameters.unbind(-1)
        deviation = softplus(numbers + _SOFTPLUS_INVERSE_OF_1) + _SMALLEST
        return Normal(mean, deviation, validate_args=False)

    def _fixed_part(self, zeros: Tensor) -> Distribution:
        return Normal(zeros, zeros + 1, validate_args=False)


class ManifoldKind(LatentKind):
    """Points on copies of a manifold: a Gaussian of its coordinates, embedded in space.

    ``location_parameters`` of a part's parameters say where the Gaussian is.
    """

    widest: float
    """Upper bound of the coordinates' standard deviations."""

    def __init__(self, embedding: Embedding, location_parameters: int, parts: int) -> None:
        super().__init__(parts, location_parameters + embedding.coordinates, embedding.ambient)
        self.embedding = embedding

    def _fixed_part(self, zeros: Tensor) -> Distribution:
        return UniformOnManifold(self.embedding, zeros)

    def _part(self, parameters: Tensor) -> Distribution:
        coordinates = self.embedding.coordinates
        location, numbers = parameters[..., :-coordinates], parameters[..., -coordinates:]
        # 1 where the numbers are 0.
        deviation = _SMALLEST + self.widest * (numbers - math.log(self.widest - 1)).sigmoid()
        return self._located(location, deviation)

    @abstractmethod
    def _located(self, location: Tensor, deviation: Tensor) -> EmbeddedDistribution:
        """From ``[batch, parts, location_parameters]`` and ``[batch, parts, coordinates]``."""


class AnglesKind(ManifoldKind):
    """Circle or torus: Gaussian angles modulo 2π, located by their means."""

    widest = math.pi
    """A Gaussian this wide on the circle is uniform but for 1 part in 100.

    On the torus angles that are uniform leave more points on the inside than on the outside.
    """

    def _located(self, location: Tensor, deviation: Tensor) -> EmbeddedDistribution:
        return EmbeddedDistribution(_gaussian(location, deviation), self.embedding)


class RotatedKind(ManifoldKind):
    """Sphere or SO(3): a Gaussian in the tangent space, located by a rotation.

    The rotation has six numbers, see :func:`rotation_from_numbers`; on the sphere one of its
    degrees of freedom turns the directions of the standard deviations.
    """

    widest = 2.0
    """Wider is no closer to uniform."""

    def _located(self, location: Tensor, deviation: Tensor) -> EmbeddedDistribution:
        gaussian = _gaussian(torch.zeros_like(deviation), deviation)
        return EmbeddedDistribution(gaussian, self.embedding, rotation_from_numbers(location))


def _gaussian(mean: Tensor, deviation: Tensor) -> Independent:
    return Independent(Normal(mean, deviation, validate_args=False), 1, validate_args=False)


KINDS: dict[str, Callable[[int], LatentKind]] = {
    "gaussian": GaussianKind,
    "circle": partial(AnglesKind, Circle(), 1),
    "torus": partial(AnglesKind, Torus(), 2),
    "sphere": partial(RotatedKind, Sphere(), 6),
    "so3": partial(RotatedKind, Rotations(), 6),
}
"""By value of ``--latent``; called with the number of parts."""


def divergence(posterior: Independent, prior: Independent, value: Tensor) -> tuple[Tensor, bool]:
    """``KL(posterior || prior)`` of each part, in nats, ``[batch, parts]``.

    Where there is no formula, it is the estimate ``log q(z) - log p(z)``: unbiased, and so is its
    gradient.  On circle and torus the gradient goes through the value, which has to be
    reparameterized; on sphere and SO(3) it does not, see
    :func:`criterions.manifolds.divergence_estimate`.

    Both are of one :class:`LatentKind`, and ``value`` is sampled from the posterior, with gradient.
    Returns the divergence, and whether its gradient goes through ``value``.
    """
    posterior, prior = posterior.base_dist, prior.base_dist
    try:
        return kl_divergence(posterior, prior), False
    except NotImplementedError:
        if posterior.embedding.rotates:
            return divergence_estimate(posterior, prior, value), False
        return posterior.log_prob(value) - prior.log_prob(value), True
