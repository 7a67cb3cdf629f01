"""Random variables on manifolds, by reparameterization.

A variable on ``R^d`` that can be reparameterized is mapped onto a manifold in ``R^n``; its density
there is that on ``R^d`` over the change of volume, ``sqrt(det(J^T J))``::

    base = Independent(Normal(mean, deviation), 1)  # of angles, event shape [1]
    q = EmbeddedDistribution(base, Circle())
    point = q.rsample()  # [..., 2], with gradient
    kl = kl_divergence(q, UniformOnManifold(Circle(), like=mean[..., 0]))

On sphere and SO(3), where there is no formula, :func:`divergence_estimate` takes a draw.

Sources:
    Golikov, Kretov 2018, "Embedding-reparameterization procedure for manifold-valued latent
    variables in generative models", arXiv 1812.02769; Falorsi, de Haan, Davidson, Forré 2019,
    "Reparameterizing distributions on Lie groups", arXiv 1903.02958 (sum over the logarithms of a
    rotation, translation by a group element).
"""

from criterions.manifolds.distributions import EmbeddedDistribution, UniformOnManifold
from criterions.manifolds.divergences import divergence_estimate, wrapped_normal_entropy
from criterions.manifolds.embeddings import (
    TURNS,
    Circle,
    Embedding,
    FlatTorus,
    Rotations,
    Sphere,
    Torus,
)
from criterions.manifolds.rotations import rotation_from_numbers

# Former names.
EmbeddedLaw = EmbeddedDistribution
UniformLaw = UniformOnManifold

__all__ = [
    "TURNS",
    "Circle",
    "EmbeddedDistribution",
    "Embedding",
    "FlatTorus",
    "Rotations",
    "Sphere",
    "Torus",
    "UniformOnManifold",
    "divergence_estimate",
    "rotation_from_numbers",
    "wrapped_normal_entropy",
]
