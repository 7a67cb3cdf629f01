"""Distributions on manifolds, with the interface of ``torch.distributions``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from criterions.manifolds.embeddings import Embedding
from criterions.stochastic_graph.distributions import deterministic_value


class _OnManifold(Distribution):
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (as torch declares it)

    @property
    def support(self) -> constraints.Constraint:
        """Points of space: there is no constraint for lying on a manifold."""
        return constraints.real_vector


class EmbeddedDistribution(_OnManifold):
    """Distribution of a point ``f(c)`` whose coordinates ``c`` are drawn from a base distribution.

    Golikov, Kretov, arXiv 1812.02769.  Reparameterized where the base is.  The density
    with respect to the manifold's volume is ``sum_c base(c) / sqrt(det(J^T J)(c))`` over the
    coordinates ``c`` of a point.

    Of the infinitely many coordinates, those within :data:`TURNS` turns of the base's mean (on
    sphere and SO(3): of 0) are summed.  The density's integral lacks the base's mass further than
    ``(2 TURNS + 1) pi`` away: for a Gaussian with standard deviation 3 about 1e-12.

    Args:
        base: of event shape ``[d]``.
        embedding: ``f``.
        rotation: ``[..., 3, 3]``, applied to the point, on manifolds that rotate: it moves the
            centre of a base around 0 anywhere, and keeps volumes and so the density.

    Raises:
        ValueError: the base does not fit, or the manifold does not rotate.
    """

    def __init__(
        self, base: Distribution, embedding: Embedding, rotation: Tensor | None = None
    ) -> None:
        if base.event_shape != (embedding.coordinates,):
            raise ValueError(
                f"{type(embedding).__name__} needs a base distribution of event shape "
                f"[{embedding.coordinates}]; got {list(base.event_shape)}"
            )
        if rotation is not None and not embedding.rotates:
            raise ValueError(
                f"rotations do not act on {type(embedding).__name__}: shift the base's mean"
            )
        self.base, self.embedding, self.rotation = base, embedding, rotation
        shape = base.batch_shape
        if rotation is not None:
            shape = torch.broadcast_shapes(shape, rotation.shape[:-2])
            self.base = base if shape == base.batch_shape else base.expand(shape)
        super().__init__(shape, Size((embedding.ambient,)), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the base has it."""
        return bool(self.base.has_rsample)

    def expand(self, batch_shape: Any, _instance: Any = None) -> EmbeddedDistribution:
        """The same distribution for a larger batch shape."""
        shape = Size(batch_shape)
        rotation = self.rotation
        if rotation is not None:
            rotation = rotation.expand(*shape, 3, 3)
        return EmbeddedDistribution(self.base.expand(shape), self.embedding, rotation)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Points ``[*sample_shape, *batch_shape, n]``, with gradient."""
        return self.point(self.base.rsample(Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Points ``[*sample_shape, *batch_shape, n]``."""
        with torch.no_grad():
            return self.point(self.base.sample(Size(sample_shape)))

    def point(self, coordinates: Tensor) -> Tensor:
        """Points ``[..., n]`` of coordinates ``[..., d]``."""
        points = self.embedding(coordinates)
        return points if self.rotation is None else self.embedding.rotated(points, self.rotation)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density with respect to volume, of points ``[..., n]`` on the manifold."""
        if self.rotation is not None:
            value = self.embedding.rotated(value, self.rotation.transpose(-1, -2))
        near = deterministic_value(self.base).detach()
        coordinates = self.embedding.preimages(value, near)
        volumes = self.embedding.log_volume_element(coordinates)
        densities: Tensor = self.base.log_prob(coordinates) - volumes
        return densities.logsumexp(0)


class UniformOnManifold(_OnManifold):
    """Points of a manifold, uniform with respect to its volume.

    Args:
        embedding: the manifold.
        like: of the batch shape; for dtype and device.
    """

    has_rsample = True
    """It has no parameters."""

    def __init__(self, embedding: Embedding, like: Tensor) -> None:
        self.embedding = embedding
        self._like = like
        super().__init__(like.shape, Size((embedding.ambient,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> UniformOnManifold:
        """The same distribution for a larger batch shape."""
        return UniformOnManifold(self.embedding, self._like.expand(Size(batch_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Points ``[*sample_shape, *batch_shape, n]``."""
        with torch.no_grad():
            shape = (*Size(sample_shape), *self.batch_shape)
            return self.embedding.uniform(shape, self._like)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the logarithm of the volume, ``[...]`` of ``[..., n]``."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self._like.new_full(shape, -self.embedding.log_volume)

    def entropy(self) -> Tensor:
        """Logarithm of the volume, of the batch shape."""
        return self._like.new_full(self.batch_shape, self.embedding.log_volume)


@deterministic_value.register
def _(distribution: EmbeddedDistribution) -> Tensor:
    return distribution.point(deterministic_value(distribution.base))


@deterministic_value.register
def _(distribution: UniformOnManifold) -> Tensor:
    """The image of 0: no point is likelier than another."""
    embedding = distribution.embedding
    shape = (*distribution.batch_shape, embedding.coordinates)
    return embedding(distribution._like.new_zeros(shape))
