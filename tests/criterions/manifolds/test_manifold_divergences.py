"""Estimates of divergences on sphere and SO(3), against integration over distances."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal
from torch_versions import HALF

from criterions.manifolds import (
    EmbeddedDistribution,
    Rotations,
    Sphere,
    UniformOnManifold,
    divergence_estimate,
    rotation_from_numbers,
)

DOUBLE = torch.float64
EMBEDDINGS = {"sphere": Sphere(), "so3": Rotations()}
each = pytest.mark.parametrize("name", sorted(EMBEDDINGS))


def distribution_of(name, deviation, rotation=None):
    """A distribution with the deviations ``[..., d]``."""
    base = Normal(torch.zeros_like(deviation), deviation, validate_args=False)
    return EmbeddedDistribution(
        Independent(base, 1, validate_args=False), EMBEDDINGS[name], rotation
    )


def divergence_from_uniform(name, deviation, steps=40_000):
    """Of equal deviations: by the distribution of the distance from the centre, a number.

    A Gaussian's length has a chi distribution; wrapped, it is compared with that of uniform points:
    ``sin(r) / 2`` on the sphere, ``(1 - cos(r)) / pi`` for the angle of rotations.
    """
    size = EMBEDDINGS[name].coordinates
    distance = math.pi * (torch.arange(steps, dtype=DOUBLE) + 0.5) / steps
    constant = math.log(1.0 if size == 2 else math.sqrt(2 / math.pi))
    density = 0
    for turn in range(-4, 5):
        length = (distance + 2 * math.pi * turn).abs()
        exponent = constant - (length / deviation).square() / 2 - size * deviation.log()
        density = density + exponent.exp() * length ** (size - 1)
    uniform = distance.sin() / 2 if size == 2 else (1 - distance.cos()) / math.pi
    density = density + 1e-200  # a narrow distribution's is 0 far away
    return (density * (density / uniform).log()).sum() * math.pi / steps


@each
@pytest.mark.parametrize("deviation", [0.05, 0.6, 1.0, 1.22, 1.63, 2.0])
def test_from_the_uniform_distribution_the_gradient_is_unbiased_with_a_small_variance(
    name, deviation
):
    """Of the logarithm of the deviation: derivatives along the draw have deviations of hundreds."""
    size, number = EMBEDDINGS[name].coordinates, 20_000
    exponent = torch.tensor(math.log(deviation), dtype=DOUBLE, requires_grad=True)
    expected = divergence_from_uniform(name, exponent.exp())
    (slope,) = torch.autograd.grad(expected, exponent)
    torch.manual_seed(7)
    rows = exponent.detach().expand(number, 1).clone().requires_grad_()
    distribution = distribution_of(name, rows.exp().expand(number, size))
    uniform = UniformOnManifold(distribution.embedding, rows.detach()[:, 0])
    estimates = divergence_estimate(distribution, uniform, distribution.rsample())
    (gradients,) = torch.autograd.grad(estimates.sum(), rows)
    for found, true in ((estimates.detach(), expected.detach()), (gradients, slope)):
        error = 4.5 * float(found.std()) / math.sqrt(number) + 1e-5
        assert float(found.mean()) == pytest.approx(float(true), abs=error)
    assert float(gradients.std()) < (0.02 if deviation == 0.05 else 4)
    assert float(gradients.abs().max()) < 200


def polar_nodes(size):
    """Of a standard normal, by distance and direction: ``[nodes, size]``; weights ``[nodes]``."""
    steps = 100 if size == 2 else 40
    distance = 8 * (torch.arange(steps, dtype=DOUBLE) + 0.5) / steps
    radial = distance ** (size - 1) * (-(distance**2) / 2).exp()
    angle = 2 * math.pi * (torch.arange(48 if size == 2 else 16, dtype=DOUBLE) + 0.5)
    angle = angle / len(angle)
    if size == 2:
        directions = torch.stack([angle.cos(), angle.sin()], 1)
    else:
        height = 2 * (torch.arange(12, dtype=DOUBLE) + 0.5) / 12 - 1
        height, angle = torch.cartesian_prod(height, angle).unbind(1)
        flat = (1 - height**2).sqrt()
        directions = torch.stack([flat * angle.cos(), flat * angle.sin(), height], 1)
    nodes = distance[:, None, None] * directions
    weights = radial[:, None].expand(-1, len(directions)).flatten()
    return nodes.reshape(-1, size), weights / weights.sum()


@each
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_from_another_distribution_the_gradient_is_unbiased(name, width):
    """Of both distributions' deviations and rotations, against differences of integrals."""
    size, number = EMBEDDINGS[name].coordinates, 20_000
    turn = torch.tensor([0.1, -0.4, 0.3, 0.2, -0.3, 0.5], dtype=DOUBLE)
    other_turn = torch.tensor([-0.2, 0.1, 0.6, 0.1, 0.3, -0.2], dtype=DOUBLE)
    directions = torch.tensor(
        [[0.4, 0.3, -0.2, 0.5, 0.1, 0.9], [0.1, -0.5, 0.3, -0.2, 0.6, 0.4]], dtype=DOUBLE
    )
    own = width * torch.tensor([1.0, 0.8, 1.1], dtype=DOUBLE)[:size]
    others = torch.tensor([0.9, 1.1, 0.8], dtype=DOUBLE)[:size]

    def distributions(numbers):
        """Of ``[..., 4]``: both scales, both rotations."""
        scale, other_scale, along, other_along = numbers.unsqueeze(-1).unbind(-2)
        return (
            distribution_of(
                name, own * scale.exp(), rotation_from_numbers(turn + along * directions[0])
            ),
            distribution_of(
                name,
                others * other_scale.exp(),
                rotation_from_numbers(other_turn + other_along * directions[1]),
            ),
        )

    nodes, weights = polar_nodes(size)

    def integral(numbers):
        distribution, other = distributions(numbers)
        points = distribution.point(nodes * distribution.base.base_dist.scale)
        return float((weights * (distribution.log_prob(points) - other.log_prob(points))).sum())

    step = 0.02 * torch.eye(4, dtype=DOUBLE)
    slopes = [(integral(row) - integral(-row)) / 0.04 for row in step]
    torch.manual_seed(8)
    rows = torch.zeros(number, 4, dtype=DOUBLE, requires_grad=True)
    distribution, other = distributions(rows)
    estimates = divergence_estimate(distribution, other, distribution.rsample())
    (gradients,) = torch.autograd.grad(estimates.sum(), rows)
    error = 4.5 * float(estimates.std()) / math.sqrt(number) + 2e-3
    assert float(estimates.mean()) == pytest.approx(integral(step[0] * 0), abs=error)
    errors = (4.5 * gradients.std(0) / math.sqrt(number) + 5e-3).tolist()
    assert sum(abs(slope) > 2 * error for slope, error in zip(slopes, errors, strict=True)) > 1
    for mean, slope, error in zip(gradients.mean(0).tolist(), slopes, errors, strict=True):
        assert mean == pytest.approx(slope, abs=error)
    assert (gradients.std(0) < 4).all()


@each
def test_from_the_uniform_distribution_rotations_have_no_gradient_nor_has_the_draw(name):
    size = EMBEDDINGS[name].coordinates
    numbers = torch.tensor([0.1, -0.4, 0.3, 0.2, -0.3, 0.5], dtype=DOUBLE, requires_grad=True)
    deviation = torch.ones(5, size, dtype=DOUBLE, requires_grad=True)
    distribution = distribution_of(name, deviation, rotation_from_numbers(numbers))
    points = distribution.rsample().detach().requires_grad_()
    estimates = divergence_estimate(
        distribution, UniformOnManifold(distribution.embedding, deviation[:, 0]), points
    )
    torch.testing.assert_close(
        estimates, distribution.log_prob(points) + distribution.embedding.log_volume
    )
    gradients = torch.autograd.grad(
        estimates.sum(), (deviation, numbers, points), allow_unused=True
    )
    assert gradients[0].any()
    assert gradients[1:] == (None, None)


@each
@pytest.mark.parametrize("kind", [torch.bfloat16, *HALF])
def test_autocast_changes_nothing(name, kind):
    """A narrow distribution, whose density is high, needs all digits of a rotation turned back."""
    size = EMBEDDINGS[name].coordinates
    numbers = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    found = []
    for enabled in (False, True):
        torch.manual_seed(2)
        deviation = torch.full((50, size), 1e-3, requires_grad=True)
        with torch.autocast("cpu", dtype=kind, enabled=enabled):
            distribution = distribution_of(name, deviation, rotation_from_numbers(numbers))
            uniform = UniformOnManifold(distribution.embedding, deviation.detach()[:, 0])
            drawn = distribution.rsample()
            estimates = divergence_estimate(distribution, uniform, drawn)
            along = distribution.log_prob(drawn)
        (gradient,) = torch.autograd.grad(estimates.sum(), deviation)
        assert {value.dtype for value in (drawn, estimates, along)} == {torch.float32}
        found.append((drawn.detach(), estimates.detach(), along.detach(), gradient))
    for plain, cast in zip(*found, strict=True):
        torch.testing.assert_close(cast, plain)
