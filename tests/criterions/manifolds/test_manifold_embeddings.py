"""Maps onto manifolds against autograd, numerical integration and textbook volumes."""

import math

import pytest
import torch
from host_reads import HostReads

from criterions.manifolds import (
    TURNS,
    Circle,
    FlatTorus,
    Rotations,
    Sphere,
    Torus,
    UniformOnManifold,
    rotation_from_numbers,
)
from criterions.manifolds.rotations import axis_and_angle, exponential, from_quaternion

EMBEDDINGS = [Circle(), FlatTorus(), Torus(), Torus(3.0, 0.5), Sphere(), Rotations()]
DOUBLE = torch.float64

each = pytest.mark.parametrize(
    "embedding", EMBEDDINGS, ids=lambda e: type(e).__name__ + str(getattr(e, "tube", ""))
)


def coordinates_of(embedding, number=7, seed=3):
    """Some at 0, near 0, and where the polynomials for small angles end; the rest anywhere."""
    torch.manual_seed(seed)
    found = 1.7 * torch.randn(number, embedding.coordinates, dtype=DOUBLE)
    found[0], found[1] = 0, 1e-5
    found[2] = 0.1 / math.sqrt(embedding.coordinates) * (1 - 1e-9)
    found[3] = 0.1 / math.sqrt(embedding.coordinates) * (1 + 1e-9)
    return found


def grid(*bounds, steps=400):
    """Midpoints of cells of a box, ``[cells, d]``, and a cell's volume."""
    axes = [
        low + (high - low) * (torch.arange(steps, dtype=DOUBLE) + 0.5) / steps
        for low, high in bounds
    ]
    cell = math.prod((high - low) / steps for low, high in bounds)
    return torch.cartesian_prod(*axes).reshape(-1, len(bounds)), cell


@each
def test_volume_element_is_that_of_the_derivative(embedding):
    coordinates = coordinates_of(embedding)
    derivative = torch.stack(
        [torch.autograd.functional.jacobian(embedding, c) for c in coordinates]
    )
    gram = derivative.transpose(1, 2) @ derivative
    torch.testing.assert_close(
        embedding.log_volume_element(coordinates), gram.det().log() / 2, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("embedding", "bounds", "volume"),
    [
        (Circle(), [(0, 2 * math.pi)], 2 * math.pi),
        (FlatTorus(), [(0, 2 * math.pi)] * 2, 4 * math.pi**2),
        (Torus(), [(0, 2 * math.pi)] * 2, 4 * math.pi**2 * 2),
        (Torus(3.0, 0.5), [(0, 2 * math.pi)] * 2, 4 * math.pi**2 * 3 * 0.5),
    ],
    ids=["circle", "flat torus", "torus", "thin torus"],
)
def test_volumes_of_manifolds_of_angles(embedding, bounds, volume):
    coordinates, cell = grid(*bounds, steps=200)
    integral = embedding.log_volume_element(coordinates).exp().sum() * cell
    assert float(integral) == pytest.approx(volume, rel=1e-12)
    assert embedding.log_volume == pytest.approx(math.log(volume), abs=1e-12)


@pytest.mark.parametrize(
    ("embedding", "volume"),
    # A rotation turns the frame's three unit vectors: of SO(3) with angles as lengths the volume is
    # 8 pi^2; matrices are sqrt(2) further apart, in three directions.
    [(Sphere(), 4 * math.pi), (Rotations(), 8 * math.pi**2 * math.sqrt(2) ** 3)],
    ids=["sphere", "so3"],
)
def test_volumes_of_balls_of_logarithms(embedding, volume):
    """Once over the manifold: all directions, distances up to pi."""
    steps = 2000
    distances = math.pi * (torch.arange(steps, dtype=DOUBLE) + 0.5) / steps
    coordinates = torch.zeros(steps, embedding.coordinates, dtype=DOUBLE)
    coordinates[:, 0] = distances
    shells = 2 * math.pi * distances if embedding.coordinates == 2 else 4 * math.pi * distances**2
    elements = embedding.log_volume_element(coordinates).exp()
    assert float((elements * shells).sum() * math.pi / steps) == pytest.approx(volume, rel=1e-6)
    assert embedding.log_volume == pytest.approx(math.log(volume), abs=1e-12)


@each
def test_preimages_are_all_coordinates_nearby(embedding):
    coordinates = coordinates_of(embedding)
    points = embedding(coordinates)
    angles = embedding.coordinates if isinstance(embedding, (Circle, FlatTorus, Torus)) else 1
    found = embedding.preimages(points, torch.zeros_like(coordinates))
    assert found.shape == ((2 * TURNS + 1) ** angles, *coordinates.shape)
    torch.testing.assert_close(embedding(found), points.expand(len(found), -1, -1))
    nearest = (found - coordinates).norm(dim=-1).amin(0)
    # The coordinates of the rows at 0 and beyond pi are among them, too.
    assert float(nearest.max()) < 1e-8
    for row in found.unbind(1):
        apart = torch.cdist(row, row) + 10 * torch.eye(len(row), dtype=DOUBLE)
        assert float(apart.min()) > 1


def test_angles_are_sought_near_the_mean():
    mean = torch.tensor([[100.0]], dtype=DOUBLE)
    found = Circle().preimages(Circle()(mean + 0.25), mean)
    assert float((found - mean).abs().min()) == pytest.approx(0.25)
    assert float(found.mean() - mean) == pytest.approx(0.25)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_exponentials_are_rotations(dtype):
    torch.manual_seed(1)
    lengths = torch.tensor([0.0, 1e-20, 1e-8, 1e-3, 0.1, 1.0, 3.0, math.pi, 5.0, 40.0], dtype=dtype)
    directions = torch.nn.functional.normalize(torch.randn(10, 3, dtype=dtype), dim=1)
    matrices = exponential(lengths.unsqueeze(1) * directions)
    identity = torch.eye(3, dtype=dtype).expand(10, 3, 3)
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrices.det(), torch.ones(10, dtype=dtype), atol=1e-5, rtol=0)
    torch.testing.assert_close(matrices.diagonal(dim1=1, dim2=2).sum(1), 1 + 2 * lengths.cos())


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 1.0, 3.0, math.pi - 1e-3, math.pi - 1e-7])
def test_axis_and_angle_undo_the_exponential_at_all_angles(angle):
    torch.manual_seed(2)
    axes = torch.nn.functional.normalize(torch.randn(20, 3, dtype=DOUBLE), dim=1)
    axis, found = axis_and_angle(exponential(angle * axes))
    torch.testing.assert_close(found, torch.full_like(found, angle), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(axis, axes, rtol=1e-8, atol=1e-8)


def test_half_a_turn_has_two_axes():
    axes = torch.eye(3, dtype=DOUBLE)
    axis, angle = axis_and_angle(exponential(math.pi * axes))
    torch.testing.assert_close(angle, torch.full((3,), math.pi, dtype=DOUBLE))
    torch.testing.assert_close(axis.abs(), axes)


def test_numbers_of_a_network_give_every_rotation():
    torch.manual_seed(4)
    numbers = torch.randn(50, 6, dtype=DOUBLE)
    matrices = rotation_from_numbers(numbers)
    identity = torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), identity.expand(50, 3, 3))
    torch.testing.assert_close(matrices.det(), torch.ones(50, dtype=DOUBLE))
    torch.testing.assert_close(rotation_from_numbers(torch.zeros(6, dtype=DOUBLE)), identity)
    any_rotation = from_quaternion(torch.randn(4, dtype=DOUBLE))
    columns = (any_rotation[:, :2].T - identity[:2]).flatten()
    torch.testing.assert_close(rotation_from_numbers(columns), any_rotation)
    assert torch.autograd.gradcheck(rotation_from_numbers, numbers[:3].requires_grad_())


@each
def test_gradients_at_and_near_0(embedding):
    coordinates = coordinates_of(embedding).requires_grad_()
    assert torch.autograd.gradcheck(embedding, coordinates)
    assert torch.autograd.gradcheck(embedding.log_volume_element, coordinates)
    assert torch.autograd.gradgradcheck(embedding, coordinates)


@each
def test_float32_is_float64_rounded(embedding):
    coordinates = coordinates_of(embedding)
    half = coordinates.float()
    for function in (embedding, embedding.log_volume_element):
        rounded = function(half)
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, function(half.double()).float(), rtol=1e-4, atol=1e-5)


@each
def test_float32_derivatives_are_those_of_float64(embedding):
    """Also just above the angle where the polynomials for small angles end."""
    lengths = torch.tensor([1e-3, 0.0999, 0.1001, 0.15, 1.0], dtype=DOUBLE)
    coordinates = torch.zeros(5, embedding.coordinates, dtype=DOUBLE)
    coordinates[:, 0] = lengths

    def derivatives(at):
        return torch.stack([torch.autograd.functional.jacobian(embedding, c) for c in at])

    found = derivatives(coordinates.float()).double()
    torch.testing.assert_close(found, derivatives(coordinates), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("embedding", [Sphere(), Rotations()], ids=["sphere", "so3"])
def test_rotating_keeps_distances(embedding):
    torch.manual_seed(5)
    points = embedding.uniform((40,), torch.zeros((), dtype=DOUBLE))
    turned = embedding.rotated(points, from_quaternion(torch.randn(4, dtype=DOUBLE)))
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(points, points))


@each
def test_uniform_points_have_the_moments_of_the_volume(embedding):
    """Means of the coordinates and of their squares and products, against integration."""
    torch.manual_seed(6)
    number = 40_000
    distribution = UniformOnManifold(embedding, torch.zeros((), dtype=DOUBLE))
    points = distribution.sample((number,))
    bounds = [(0, 2 * math.pi)] * embedding.coordinates
    if isinstance(embedding, (Sphere, Rotations)):
        # The volume element is that of logarithms of at most half a turn.
        bounds = [(-math.pi, math.pi)] * embedding.coordinates
    coordinates, _ = grid(*bounds, steps=40 if embedding.coordinates == 3 else 100)
    weights = embedding.log_volume_element(coordinates).exp()
    if isinstance(embedding, (Sphere, Rotations)):
        weights = weights * (coordinates.norm(dim=1) < math.pi)
    weights = weights / weights.sum()
    images = embedding(coordinates)

    def moments(values):
        return torch.cat([values, (values.unsqueeze(1) * values.unsqueeze(2)).flatten(1)], dim=1)

    drawn = moments(points)
    expected = (weights.unsqueeze(1) * moments(images)).sum(0)
    error = 5 * drawn.std(0) / math.sqrt(number) + 2e-3
    assert ((drawn.mean(0) - expected).abs() < error).all()


@each
def test_uniform_distribution_has_the_logarithm_of_the_volume_for_entropy(embedding):
    distribution = UniformOnManifold(embedding, torch.zeros(3, 2, dtype=DOUBLE))
    points = distribution.sample((4,))
    assert points.shape == (4, 3, 2, embedding.ambient)
    assert not points.requires_grad
    torch.testing.assert_close(
        -distribution.log_prob(points), distribution.entropy().expand(4, 3, 2)
    )
    assert distribution.expand((5, 3, 2)).rsample().shape == (5, 3, 2, embedding.ambient)


def test_radii_of_a_torus_are_checked():
    with pytest.raises(ValueError, match=r"ring > tube > 0; got 1\.0 and 2\.0"):
        Torus(1.0, 2.0)


@pytest.mark.parametrize("embedding", [Circle(), FlatTorus(), Torus()])
def test_angles_are_not_rotated(embedding):
    with pytest.raises(ValueError, match="shift the coordinates' mean"):
        embedding.rotated(torch.zeros(embedding.ambient), torch.eye(3))


@each
def test_nothing_waits_for_the_device(embedding):
    coordinates = coordinates_of(embedding)
    with HostReads() as reads:
        points = embedding(coordinates)
        embedding.log_volume_element(embedding.preimages(points, coordinates))
        embedding.uniform((3,), coordinates)
    assert reads.operations == []
