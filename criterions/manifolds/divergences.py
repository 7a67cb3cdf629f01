"""Kullback-Leibler divergences of distributions on manifolds.

Exact from the uniform distribution where there is a formula (wrapped Gaussians: the logarithm of
the volume minus the entropy), elsewhere estimated from a draw.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, register_kl

from criterions.manifolds.distributions import EmbeddedDistribution, UniformOnManifold
from criterions.manifolds.embeddings import Circle, FlatTorus, Torus
from criterions.stochastic_graph.distributions import deterministic_value

_NARROW = 0.4
"""Standard deviation below which a wrapped Gaussian's tails do not meet, in float64."""
_ENTROPY_TERMS = 24
"""``exp(-n ** 2 * _NARROW ** 2 / 2)`` is below 1e-20 from there on."""
_EULER_TERMS = 8
"""``exp(-2 pi n)`` is below 1e-24 from there on."""
_SMALLEST_TERM = 1e-17


def wrapped_normal_entropy(deviation: Tensor) -> Tensor:
    """Entropy, in nats, of a Gaussian angle modulo 2 pi, of standard deviation ``s`` above 0.

    Up to rounding: the logarithm of the density is a Fourier series by Jacobi's triple product
    (Mardia and Jupp 2000, "Directional statistics", section 3.5.7, for the density)::

        2 pi p(x) = phi(q) prod_n (1 + q^(n - 1/2) e^(ix)) (1 + q^(n - 1/2) e^(-ix)),
        q = exp(-s^2),  phi(q) = prod_n (1 - q^n)

    and its mean needs only the cosines' means, ``exp(-k^2 s^2 / 2)``.
    """
    plain = deviation.log() + 0.5 * (1 + math.log(2 * math.pi))
    variance = deviation.clamp(min=_NARROW).square()
    order = torch.arange(
        1, _ENTROPY_TERMS + 1, dtype=deviation.dtype, device=deviation.device
    ).reshape(-1, *[1] * deviation.dim())
    signs = 1 - 2 * (order % 2)
    exponents = -(order.square() + order) * variance / 2
    terms = signs / order * exponents.exp() / -torch.expm1(-order * variance)
    wide = math.log(2 * math.pi) - _log_euler_function(variance) + 2 * terms.sum(0)
    return torch.where(deviation < _NARROW, plain, wide)


def _log_euler_function(rate: Tensor) -> Tensor:
    """``log prod_n (1 - exp(-n rate))``, for rates of ``_NARROW ** 2`` or more."""
    # Slow for small rates; there eta's modular transformation turns the rate into its inverse.
    slow = rate < 2 * math.pi
    turned = torch.where(slow, 4 * math.pi**2 / rate, rate)
    order = torch.arange(1, _EULER_TERMS + 1, dtype=rate.dtype, device=rate.device)
    product = torch.log1p(-(-order.reshape(-1, *[1] * rate.dim()) * turned).exp()).sum(0)
    factor = 0.5 * (2 * math.pi / rate).log() - math.pi**2 / (6 * rate) + rate / 24
    return product + torch.where(slow, factor, torch.zeros_like(factor))


def mean_log_radius(torus: Torus, mean: Tensor, deviation: Tensor) -> Tensor:
    """``E[log(R + r cos v)]`` for a Gaussian angle ``v``: of the distance from a torus's axis.

    The logarithm's Fourier series has coefficients that fall geometrically.

    ``mean`` and ``deviation``, of any shape, are those of ``v``.
    """
    ring, tube = torus.ring, torus.tube
    root = math.sqrt(ring**2 - tube**2)
    ratio = (ring - root) / tube
    total = torch.full_like(mean, math.log((ring + root) / 2))
    for order in range(1, math.ceil(math.log(_SMALLEST_TERM) / math.log(ratio)) + 1):
        wave = (order * mean).cos() * (-((order * deviation) ** 2) / 2).exp()
        total = total - 2 * (-ratio) ** order / order * wave
    return total


@register_kl(EmbeddedDistribution, UniformOnManifold)  # type: ignore[untyped-decorator]
def _kl_embedded_uniform(distribution: EmbeddedDistribution, uniform: UniformOnManifold) -> Tensor:
    """Exact on circle and torus for Gaussian angles that are independent.

    Raises:
        NotImplementedError: there is no formula.
        ValueError: these are two manifolds.
    """
    _check_one_manifold(distribution, uniform)
    base, embedding = distribution.base, distribution.embedding
    normal = base.base_dist if isinstance(base, Independent) else None
    flat = isinstance(embedding, (Circle, FlatTorus, Torus))
    if not (isinstance(normal, Normal) and flat):
        raise NotImplementedError(
            f"no formula for the divergence on {type(embedding).__name__} with the base "
            f"{base}: average log_prob differences of samples"
        )
    entropy = wrapped_normal_entropy(normal.scale).sum(-1)
    if isinstance(embedding, Torus):
        tube = mean_log_radius(embedding, normal.loc[..., 1], normal.scale[..., 1])
        entropy = entropy + math.log(embedding.tube) + tube
    return embedding.log_volume - entropy


def _check_one_manifold(distribution: EmbeddedDistribution, other: Distribution) -> None:
    own, its = distribution.embedding, getattr(other, "embedding", None)
    if its is not None and (type(own) is not type(its) or vars(own) != vars(its)):
        raise ValueError(
            "a divergence needs distributions on one manifold; got "
            f"{type(own).__name__} {vars(own)} and {type(its).__name__} {vars(its)}"
        )


def divergence_estimate(
    distribution: EmbeddedDistribution, other: Distribution, points: Tensor
) -> Tensor:
    """Estimate ``KL(q || p)`` from a draw, with a score-function gradient of finite variance.

    The value is ``log q(z) - log p(z)``.  Its reparameterized gradient has infinite variance:
    ``log q(z)`` contains ``-log |sin r|`` at the distance ``r`` of the coordinates from 0 (on
    SO(3) ``-2 log |sin(r / 2)|``), whose slope is that of ``1 / x`` where geodesics meet, and a
    wide distribution has a density there.  So z is held fixed.  With the base's density ``b(c)``
    and entropy ``H``, the score function of the coordinates gives the gradient in the base's
    parameters::

        d KL = E[(log q(z) - log p(z) - l (log b(c) - k)) d log b(c)] - l dH

    for any ``k``, as scores have the mean 0, and any ``l``, as ``E[log b(c) d log b(c)] = -dH``.
    Here ``k`` makes the factor vanish at the centre of q (up to turns), and ``l`` is 1 for a ``q``
    narrower than ``p``, where the factor then is close to 0 everywhere, and 0 for one that is as
    wide.  Given ``z``, the mean over its coordinates ``c`` is taken exactly.

    The parameters of ``p`` and the rotation of ``q`` have the gradient of ``-log p(z)``, where z
    turns with the rotation: nothing, where ``p`` is uniform.

    Args:
        distribution: ``q``; its base must have an entropy.
        other: ``p``, of the same batch shape.
        points: ``z`` ``[..., n]``, drawn from ``q``; the gradient does not go through it.

    Returns:
        ``[...]``.

    Raises:
        ValueError: these are two manifolds.
    """
    _check_one_manifold(distribution, other)
    base, embedding, rotation = distribution.base, distribution.embedding, distribution.rotation
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
        log_density = (log_base - volumes).logsumexp(0)
        weights = (log_base - volumes - log_density).exp()
        at_centre = other.log_prob(deterministic_value(distribution))
        at_centre = at_centre + embedding.log_volume_element(centre)
        narrow = (-at_centre - entropy).clamp(min=0, max=1)
        value = log_density - log_other
        factors = weights * (value - narrow * (log_base - at_centre))
    replaced = (factors * log_base).sum(0) - narrow * entropy - log_other
    return value + (replaced - replaced.detach())
