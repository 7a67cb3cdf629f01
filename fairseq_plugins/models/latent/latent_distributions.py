"""Distributions of a latent variable, from the outputs of a network."""

from __future__ import annotations

import math
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
_WIDEST_ANGLE = math.pi
"""Upper bound of those of angles.  A Gaussian this wide on the circle is uniform but for 1 part in
100; on the torus angles that are uniform leave more points on the inside than on the outside."""
_WIDEST_TANGENT = 2.0
"""Upper bound of those on sphere and SO(3): wider is no closer to uniform."""


class LatentKind:
    """A family of distributions of a latent variable that has independent parts.

    The parts are the dimensions of a vector, each Gaussian, or points on several copies of a
    manifold: a Gaussian of a point's coordinates, embedded in space.  On circle and torus the
    coordinates are angles modulo 2 pi, located by their means.  On sphere and SO(3) they are those
    of the tangent space, located by a rotation of six numbers, see :func:`rotation_from_numbers`;
    on the sphere one of its degrees of freedom turns the directions of the standard deviations.

    All distributions are ``Independent(part, 1)``, of batch shape ``[batch]``.

    ``parameters``: outputs of a network that a distribution needs.
    ``features``: size of a value.
    ``widest``: on a manifold, upper bound of the coordinates' standard deviations.
    """

    def __init__(self, parts: int, embedding: Embedding | None = None) -> None:
        self.parts, self.embedding = parts, embedding
        self._coordinates, ambient, location = 1, 1, 1
        if embedding is not None:
            self._coordinates, ambient = embedding.coordinates, embedding.ambient
            location = 6 if embedding.rotates else embedding.coordinates
            self.widest = _WIDEST_TANGENT if embedding.rotates else _WIDEST_ANGLE
        self.parameters = parts * (location + self._coordinates)
        self.features = parts * ambient

    def distribution(self, parameters: Tensor) -> Independent:
        """Of any numbers ``[batch, parameters]``; in float32 at least."""
        numbers = at_least_float32(parameters).unflatten(1, (self.parts, -1))
        location, spread = numbers.tensor_split([-self._coordinates], dim=-1)
        # Deviations are 1 where the numbers are 0.
        if self.embedding is None:
            deviation = softplus(spread + _SOFTPLUS_INVERSE_OF_1) + _SMALLEST
            part: Distribution = _normal(location.squeeze(-1), deviation.squeeze(-1))
        else:
            deviation = _SMALLEST + self.widest * (spread - math.log(self.widest - 1)).sigmoid()
            mean, rotation = location, None
            if self.embedding.rotates:
                mean, rotation = torch.zeros_like(deviation), rotation_from_numbers(location)
            coordinates = Independent(_normal(mean, deviation), 1, validate_args=False)
            part = EmbeddedDistribution(coordinates, self.embedding, rotation)
        return Independent(part, 1, validate_args=False)

    def prior(self, source: Tensor, parameters: Sequence[Tensor]) -> Independent:
        """p(z | x), with one tensor ``[batch, parameters]``; with none standard normal or uniform.

        ``source`` has the batch's size, dtype and device.
        """
        if parameters:
            return self.distribution(*parameters)
        zeros = at_least_float32(source.new_zeros(source.size(0), self.parts))
        if self.embedding is None:
            part: Distribution = _normal(zeros, zeros + 1)
        else:
            part = UniformOnManifold(self.embedding, zeros)
        return Independent(part, 1, validate_args=False)


def _normal(mean: Tensor, deviation: Tensor) -> Normal:
    return Normal(mean, deviation, validate_args=False)


KINDS: dict[str, Callable[[int], LatentKind]] = {
    "gaussian": LatentKind,
    "circle": partial(LatentKind, embedding=Circle()),
    "torus": partial(LatentKind, embedding=Torus()),
    "sphere": partial(LatentKind, embedding=Sphere()),
    "so3": partial(LatentKind, embedding=Rotations()),
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
