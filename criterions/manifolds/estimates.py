"""``KL(EmbeddedLaw || other)`` from a draw, where there is no formula: on sphere and SO(3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from criterions.manifolds.laws import EmbeddedLaw
from criterions.stochastic_graph.distributions import deterministic_value


def divergence_estimate(law: EmbeddedLaw, other: Distribution, points: Tensor) -> Tensor:
    """``log q(z) - log p(z)``, in nats, with a gradient that has a mean and a variance.

    The derivative of this difference along the draw has none: ``log q(z)`` contains ``-log |sin
    r|`` at the distance ``r`` of the coordinates from 0 (on SO(3) ``-2 log |sin(r / 2)|``), whose
    slope is that of ``1 / x`` where geodesics meet, and a law that is wide has a density there.
    So z is held fixed.  With the base law's ``b(c)`` and its entropy ``H``, the score function of
    the coordinates gives the gradient in the base law's parameters::

        d KL = E[(log q(z) - log p(z) - l (log b(c) - k)) d log b(c)] - l dH

    for any ``k``, as scores have the mean 0, and any ``l``, as ``E[log b(c) d log b(c)] = -dH``.
    Here ``k`` makes the factor vanish at the law's centre, but for turns, and ``l`` is 1 for a
    law that is narrower than ``p``, where the factor then is close to 0 everywhere, and 0 for one
    that is as wide.  Given ``z``, the mean over its coordinates ``c`` is taken exactly.

    The parameters of ``p`` and the rotation of ``q`` have the gradient of ``-log p(z)``, where z
    turns with the rotation: nothing, where ``p`` is uniform.

    Args:
        law: ``q``; the entropy of its base law must be known.
        other: ``p``, of the same batch shape.
        points: ``z`` ``[..., n]``, drawn from ``law``; the gradient does not go through it.

    Returns:
        ``[...]``.
    """
    base, embedding, rotation = law.base, law.embedding, law.rotation
    entropy = base.entropy()
    with torch.no_grad():
        own = points
        if rotation is not None:
            own = embedding.rotated(points, rotation.transpose(-1, -2))
        centre = deterministic_value(base)
        coordinates = embedding.preimages(own, centre)
        volumes = embedding.log_volume_element(coordinates)
    log_base = base.log_prob(coordinates)  # [turns, ...]
    turning = own if rotation is None else embedding.rotated(own, rotation)
    log_other = other.log_prob(turning)
    with torch.no_grad():
        log_law = (log_base - volumes).logsumexp(0)
        shares = (log_base - volumes - log_law).exp()
        at_centre = other.log_prob(deterministic_value(law)) + embedding.log_volume_element(centre)
        narrow = (-at_centre - entropy).clamp(min=0, max=1)
        value = log_law - log_other
        factors = shares * (value - narrow * (log_base - at_centre))
    replaced = (factors * log_base).sum(0) - narrow * entropy - log_other
    return value + (replaced - replaced.detach())
