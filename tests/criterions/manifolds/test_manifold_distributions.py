"""Densities on manifolds against integration over a grid, histograms and Fourier series."""

import math

import pytest
import torch
from host_reads import HostReads
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from criterions.manifolds import (
    Circle,
    EmbeddedDistribution,
    FlatTorus,
    Rotations,
    Sphere,
    Torus,
    UniformOnManifold,
    divergence_estimate,
    rotation_from_numbers,
    wrapped_normal_entropy,
)
from criterions.manifolds.divergences import mean_log_radius
from criterions.stochastic_graph import deterministic_value

DOUBLE = torch.float64
DISTRIBUTIONS = ["circle", "flat torus", "torus", "sphere", "so3"]
each = pytest.mark.parametrize("name", DISTRIBUTIONS)


def tensor(*numbers):
    return torch.tensor(numbers, dtype=DOUBLE)


def gaussian(mean, deviation):
    return Independent(Normal(mean, deviation, validate_args=False), 1, validate_args=False)


def distribution_of(name, narrow=1.0):
    """A distribution with its centre somewhere, and directions that differ."""
    rotation = rotation_from_numbers(tensor(0.3, -0.8, 0.4, 0.9, -1.2, 0.2))
    return {
        "circle": lambda: EmbeddedDistribution(
            gaussian(tensor(2.5), tensor(0.7) * narrow), Circle()
        ),
        "flat torus": lambda: EmbeddedDistribution(
            gaussian(tensor(2.5, -9.0), tensor(0.7, 1.1) * narrow), FlatTorus()
        ),
        "torus": lambda: EmbeddedDistribution(
            gaussian(tensor(2.5, -9.0), tensor(0.7, 1.1) * narrow), Torus()
        ),
        "sphere": lambda: EmbeddedDistribution(
            gaussian(tensor(0.0, 0.0), tensor(0.9, 0.5) * narrow), Sphere(), rotation
        ),
        "so3": lambda: EmbeddedDistribution(
            gaussian(tensor(0.0, 0.0, 0.0), tensor(0.9, 0.5, 0.7) * narrow), Rotations(), rotation
        ),
    }[name]()


def cells_of(embedding, steps):
    """Points all over a manifold, with the volumes of their cells: nothing of ``embedding`` used.

    Spherical coordinates for the sphere, Euler angles for SO(3), angles otherwise.
    """
    turn = 2 * math.pi * (torch.arange(steps, dtype=DOUBLE) + 0.5) / steps
    half = turn / 2
    if isinstance(embedding, Circle):
        return torch.stack([turn.cos(), turn.sin()], 1), torch.full_like(turn, 2 * math.pi / steps)
    if isinstance(embedding, Sphere):
        a, b = torch.cartesian_prod(turn, half).unbind(1)
        points = torch.stack([a.cos() * b.sin(), a.sin() * b.sin(), b.cos()], 1)
        return points, b.sin() * (2 * math.pi / steps) * (math.pi / steps)
    if isinstance(embedding, Rotations):
        a, b, c = torch.cartesian_prod(turn, half, turn).unbind(1)

        def about(axis, angle):
            matrix = torch.zeros(len(angle), 3, 3, dtype=DOUBLE)
            others = [i for i in range(3) if i != axis]
            matrix[:, axis, axis] = 1
            for i in others:
                matrix[:, i, i] = angle.cos()
            matrix[:, others[0], others[1]] = -angle.sin()
            matrix[:, others[1], others[0]] = angle.sin()
            return matrix

        points = (about(2, a) @ about(0, b) @ about(2, c)).flatten(1)
        # Turns by small angles are sqrt(2) times as long between matrices.
        cell = math.sqrt(2) ** 3 * (2 * math.pi / steps) ** 2 * (math.pi / steps)
        return points, b.sin() * cell
    a, b = torch.cartesian_prod(turn, turn).unbind(1)
    cell = (2 * math.pi / steps) ** 2
    if isinstance(embedding, FlatTorus):
        return torch.stack([a.cos(), a.sin(), b.cos(), b.sin()], 1), torch.full_like(a, cell)
    radius = embedding.ring + embedding.tube * b.cos()
    points = torch.stack([radius * a.cos(), radius * a.sin(), embedding.tube * b.sin()], 1)
    return points, radius * embedding.tube * cell


def integral_over(distribution, steps, integrand):
    points, volumes = cells_of(distribution.embedding, steps)
    return (integrand(distribution.log_prob(points)) * volumes).sum()


STEPS = {"circle": 200, "flat torus": 100, "torus": 100, "sphere": 300, "so3": 60}


@each
def test_density_integrates_to_1(name):
    # On sphere and SO(3) the density of a wide distribution has poles where geodesics meet.
    distribution = distribution_of(name, narrow=0.6 if name in ("sphere", "so3") else 1.0)
    total = integral_over(distribution, STEPS[name], torch.exp)
    # Their angles are no periodic functions: the rule of midpoints is as good as its steps.
    assert float(total) == pytest.approx(1, abs={"sphere": 2e-4, "so3": 1e-3}.get(name, 1e-10))


@each
def test_density_is_that_of_the_samples(name):
    """Means of functions of the samples, against their integrals with the density."""
    torch.manual_seed(11)
    number = 100_000
    distribution = distribution_of(name, narrow=0.6 if name in ("sphere", "so3") else 1.0)
    drawn = distribution.sample((number,))
    points, volumes = cells_of(distribution.embedding, STEPS[name])
    weights = distribution.log_prob(points).exp() * volumes
    centre = deterministic_value(distribution)

    def functions(values):
        distance = (values - centre).norm(dim=-1)
        bins = torch.linspace(0, float((points - centre).norm(dim=-1).max()), 13, dtype=DOUBLE)
        # A histogram with smooth bins, so that the grid can integrate it.
        width = bins[1] - bins[0]
        histogram = (-0.5 * ((distance.unsqueeze(-1) - bins) / width) ** 2).exp()
        return torch.cat([values, values[..., :1] * values, histogram], dim=-1)

    observed, expected = functions(drawn), (weights.unsqueeze(1) * functions(points)).sum(0)
    error = 5 * observed.std(0) / math.sqrt(number) + 3e-4
    assert ((observed.mean(0) - expected).abs() < error).all()


@pytest.mark.parametrize("deviation", [0.05, 0.7, 1.5, 3.0])
def test_circle_has_the_wrapped_normal_density(deviation):
    """By its Fourier series, which knows nothing of turns."""
    distribution = EmbeddedDistribution(gaussian(tensor(1.0), tensor(deviation)), Circle())
    angles = 1.0 + deviation * torch.linspace(-2, 2, 9, dtype=DOUBLE)
    order = torch.arange(1, 400, dtype=DOUBLE).unsqueeze(1)
    waves = (-(order**2) * deviation**2 / 2).exp() * (order * (angles - 1)).cos()
    series = (1 + 2 * waves.sum(0)) / (2 * math.pi)
    found = distribution.log_prob(torch.stack([angles.cos(), angles.sin()], 1)).exp()
    torch.testing.assert_close(found, series, rtol=1e-9, atol=1e-9)


def test_angles_may_depend_on_each_other():
    covariance = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=DOUBLE)
    distribution = EmbeddedDistribution(MultivariateNormal(tensor(0.5, 1.0), covariance), Torus())
    assert float(integral_over(distribution, 100, torch.exp)) == pytest.approx(1, abs=1e-10)
    with pytest.raises(NotImplementedError, match="no formula"):
        kl_divergence(distribution, UniformOnManifold(distribution.embedding, tensor(0.0)[0]))


def test_two_manifolds_have_no_divergence():
    """Of two tori, too, whose areas are the same."""
    distribution, like = distribution_of("torus"), tensor(0.0)[0]
    for other in (Torus(4.0, 0.5), Circle(), FlatTorus()):
        uniform = UniformOnManifold(other, like)
        with pytest.raises(ValueError, match="one manifold; got Torus"):
            kl_divergence(distribution, uniform)
        with pytest.raises(ValueError, match="one manifold; got Torus"):
            divergence_estimate(distribution, uniform, distribution.sample())


@pytest.mark.parametrize("deviation", [1e-3, 0.1, 0.399, 0.401, 1.0, 2.4, 2.6, 3.0])
def test_entropy_of_wrapped_normal(deviation):
    """Against integration, over as much of the circle as matters."""
    distribution = EmbeddedDistribution(gaussian(tensor(0.0), tensor(deviation)), Circle())
    reach = min(math.pi, 12 * deviation)
    steps = 4000
    angles = reach * (2 * (torch.arange(steps, dtype=DOUBLE) + 0.5) / steps - 1)
    log_prob = distribution.log_prob(torch.stack([angles.cos(), angles.sin()], 1))
    entropy = -(log_prob.exp() * log_prob).sum() * 2 * reach / steps
    # The density leaves out turns (see EmbeddedDistribution): the integral is off by about 1e-12.
    assert float(wrapped_normal_entropy(tensor(deviation)[0])) == pytest.approx(
        float(entropy), abs=1e-10
    )


def test_entropy_of_wrapped_normal_ends_at_the_uniform_distribution():
    entropy = wrapped_normal_entropy(tensor(5.0, 8.0, 50.0))
    assert (entropy <= math.log(2 * math.pi) + 1e-14).all()
    torch.testing.assert_close(entropy[1:], torch.full_like(entropy[1:], math.log(2 * math.pi)))


def test_gradient_of_entropy():
    deviations = tensor(0.01, 0.3, 0.45, 1.0, 2.5, 2.6, 9.0).requires_grad_()
    assert torch.autograd.gradcheck(wrapped_normal_entropy, deviations)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.3), (3.0, 0.8), (1.0, 2.5)])
def test_mean_distance_from_the_axis(mean, deviation):
    torus = Torus(3.0, 2.5)
    standard = torch.linspace(-12, 12, 20_001, dtype=DOUBLE)
    weights = torch.softmax(-(standard**2) / 2, 0)
    values = (torus.ring + torus.tube * (mean + deviation * standard).cos()).log()
    found = mean_log_radius(torus, tensor(mean)[0], tensor(deviation)[0])
    assert float(found) == pytest.approx(float((weights * values).sum()), abs=1e-10)


@pytest.mark.parametrize("name", ["circle", "flat torus", "torus"])
def test_divergence_from_uniform_is_exact_for_angles(name):
    distribution = distribution_of(name)
    uniform = UniformOnManifold(distribution.embedding, tensor(0.0)[0])
    expected = integral_over(
        distribution,
        STEPS[name],
        lambda log_prob: log_prob.exp() * (log_prob + distribution.embedding.log_volume),
    )
    assert float(kl_divergence(distribution, uniform)) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("name", ["sphere", "so3"])
def test_divergence_without_a_formula_is_the_mean_over_samples(name):
    """The value that a step estimates with one sample: here many, against integration."""
    torch.manual_seed(12)
    distribution = distribution_of(name, narrow=0.6)
    uniform = UniformOnManifold(distribution.embedding, tensor(0.0)[0])
    with pytest.raises(NotImplementedError, match="no formula"):
        kl_divergence(distribution, uniform)
    expected = integral_over(
        distribution,
        STEPS[name],
        lambda log_prob: log_prob.exp() * (log_prob + distribution.embedding.log_volume),
    )
    drawn = distribution.sample((40_000,))
    estimates = distribution.log_prob(drawn) - uniform.log_prob(drawn)
    error = 5 * float(estimates.std()) / 200 + 1e-3
    assert float(estimates.mean()) == pytest.approx(float(expected), abs=error)


@pytest.mark.parametrize("name", ["circle", "sphere", "so3"])
def test_gradient_of_the_estimated_divergence_is_unbiased(name):
    """Of every parameter, against the derivative of the integral.

    On the circle along the draw; on sphere and SO(3), of one that ends before the far side, see
    test_manifold_estimates.py for the others.
    """
    torch.manual_seed(13)
    embedding = distribution_of(name).embedding
    size = embedding.coordinates
    deviation = (0.55 + 0.1 * torch.arange(size, dtype=DOUBLE)).requires_grad_()

    def distribution(deviation):
        rotation = torch.eye(3, dtype=DOUBLE) if embedding.rotates else None
        return EmbeddedDistribution(
            gaussian(torch.zeros_like(deviation), deviation), embedding, rotation
        )

    def divergence(deviation):
        return integral_over(
            distribution(deviation), STEPS[name], lambda log_prob: log_prob.exp() * log_prob
        )

    (expected,) = torch.autograd.grad(divergence(deviation), deviation)
    number = 10_000
    rows = deviation.detach().expand(number, -1).clone().requires_grad_()
    base = gaussian(torch.zeros_like(rows), rows)
    drawn = EmbeddedDistribution(base, embedding).rsample()
    if embedding.rotates:
        uniform = UniformOnManifold(embedding, rows.detach()[:, 0])
        values = divergence_estimate(EmbeddedDistribution(base, embedding), uniform, drawn)
    else:
        values = EmbeddedDistribution(base, embedding).log_prob(drawn)
    (estimates,) = torch.autograd.grad(values.sum(), rows)
    error = 5 * estimates.std(0) / math.sqrt(number) + 2e-3
    assert ((estimates.mean(0) - expected).abs() < error).all()


@each
def test_gradients_of_samples_and_densities(name):
    plain = distribution_of(name)
    values = plain.rsample((4,)).detach()

    def distribution(mean, deviation, numbers):
        rotation = rotation_from_numbers(numbers) if plain.embedding.rotates else None
        return EmbeddedDistribution(gaussian(mean, deviation), plain.embedding, rotation)

    def density(mean, deviation, numbers):
        return distribution(mean, deviation, numbers).log_prob(values)

    def draw(mean, deviation, numbers):
        torch.manual_seed(3)
        return distribution(mean, deviation, numbers).rsample((3,))

    normal = plain.base.base_dist
    parameters = (normal.loc, normal.scale, tensor(0.3, -0.8, 0.4, 0.9, -1.2, 0.2))
    parameters = tuple(p.clone().requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(density, parameters)
    assert torch.autograd.gradcheck(draw, parameters)


@each
def test_densities_are_finite_with_gradient_everywhere(name):
    """At the centre, opposite of it, and for distributions from needles to the widest."""
    for narrow in (2e-4, 1.0, 2.0):
        for dtype in (torch.float32, DOUBLE):
            wide = distribution_of(name, narrow)
            normal, rotation = wide.base.base_dist, wide.rotation
            deviation = normal.scale.to(dtype).requires_grad_()
            rotation = None if rotation is None else rotation.to(dtype).requires_grad_()
            distribution = EmbeddedDistribution(
                gaussian(normal.loc.to(dtype), deviation), wide.embedding, rotation
            )
            opposite = torch.zeros(distribution.embedding.coordinates, dtype=dtype)
            opposite[-1] = math.pi
            points = torch.stack(
                [
                    distribution.point(opposite),
                    deterministic_value(distribution),
                    distribution.rsample(),
                ]
            )
            log_prob = distribution.log_prob(points)
            assert log_prob.dtype == dtype
            # Opposite of a needle the probability may be 0.
            assert not log_prob.isnan().any()
            assert log_prob[1:].isfinite().all()
            parameters = [p for p in (deviation, rotation) if p is not None]
            for gradient in torch.autograd.grad(log_prob[1:].sum(), parameters):
                assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["sphere", "so3"])
def test_deterministic_value_is_the_centre(name):
    distribution = distribution_of(name)
    pole = distribution.embedding(torch.zeros(distribution.embedding.coordinates, dtype=DOUBLE))
    torch.testing.assert_close(
        deterministic_value(distribution),
        distribution.embedding.rotated(pole, distribution.rotation),
    )
    torch.testing.assert_close(
        deterministic_value(
            UniformOnManifold(distribution.embedding, torch.zeros(2, dtype=DOUBLE))
        ),
        pole.expand(2, -1),
    )


@pytest.mark.parametrize("name", ["circle", "flat torus", "torus"])
def test_deterministic_value_is_the_image_of_the_mean(name):
    distribution = distribution_of(name)
    torch.testing.assert_close(
        deterministic_value(distribution), distribution.embedding(distribution.base.mean)
    )


@each
def test_rows_of_a_batch_are_distributions_of_their_own(name):
    one = distribution_of(name)
    batch = one.expand((3, 2))
    assert batch.batch_shape == (3, 2)
    points = batch.rsample((4,))
    assert points.shape == (4, 3, 2, one.embedding.ambient)
    torch.testing.assert_close(batch.log_prob(points), one.log_prob(points))
    assert Independent(batch, 1).log_prob(points).shape == (4, 3)


def test_base_distributions_are_checked():
    with pytest.raises(ValueError, match=r"event shape \[2\]; got \[1\]"):
        EmbeddedDistribution(gaussian(tensor(0.0), tensor(1.0)), Sphere())
    with pytest.raises(ValueError, match="shift the base's mean"):
        EmbeddedDistribution(
            gaussian(tensor(0.0), tensor(1.0)), Circle(), torch.eye(3, dtype=DOUBLE)
        )


@each
def test_nothing_waits_for_the_device(name):
    distribution = distribution_of(name)
    uniform = UniformOnManifold(distribution.embedding, tensor(0.0)[0])
    with HostReads() as reads:
        distribution.log_prob(distribution.rsample((2,)))
        if not distribution.embedding.rotates:
            kl_divergence(distribution, uniform)
    assert reads.operations == []


@pytest.mark.parametrize(
    ("embedding", "deviation", "least"),
    [(Sphere(), 1.22, 0.042), (Rotations(), 1.63, 0.010)],
    ids=["sphere", "so3"],
)
def test_distributions_by_the_exponential_map_come_this_close_to_uniform(
    embedding, deviation, least
):
    """Nats that a posterior network cannot go below; at which width."""
    steps, size = 4000, embedding.coordinates
    distances = math.pi * (torch.arange(steps, dtype=DOUBLE) + 0.5) / steps
    coordinates = torch.zeros(steps, size, dtype=DOUBLE)
    coordinates[:, 0] = distances
    points, elements = embedding(coordinates), embedding.log_volume_element(coordinates).exp()
    shells = elements * (2 * math.pi * distances if size == 2 else 4 * math.pi * distances**2)
    widths = torch.arange(0.5, 2.5, 0.01, dtype=DOUBLE)
    deviations = widths.unsqueeze(1).expand(-1, size)
    distributions = EmbeddedDistribution(
        gaussian(torch.zeros_like(deviations), deviations), embedding
    )
    log_prob = distributions.log_prob(points.unsqueeze(1))  # [steps, widths]
    weights = log_prob.exp() * shells.unsqueeze(1) * math.pi / steps
    divergences = (weights * (log_prob + embedding.log_volume)).sum(0)
    best = int(divergences.argmin())
    assert float(divergences[best]) == pytest.approx(least, abs=1e-3)
    assert float(widths[best]) == pytest.approx(deviation, abs=0.015)
