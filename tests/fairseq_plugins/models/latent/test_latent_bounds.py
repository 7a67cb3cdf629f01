"""Objectives with a latent variable of one dimension, against quadrature over it."""

import itertools

import pytest
import torch
from estimates_in_models import Table, gradient_of, reward_of
from latent_models import (
    BOS,
    EOS,
    OTHER,
    UNK,
    WORD,
    batch,
    gaussian_divergence,
    gaussian_nodes,
    log_likelihoods,
    posterior_of,
    prior_of,
    tiny,
)
from torch.distributions import Normal

TARGET = [WORD, OTHER, WORD]
NODES = 24


def assert_same(actual, expected):
    assert sum(float(g.norm()) for g in expected) > 1e-2, "a gradient of 0 would show nothing"
    # fairseq's attention has its softmax in float32.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def at_node(monkeypatch):
    """Makes Gaussians draw a given number of standard deviations from their means.

    One number for all, or one for each of the last axis.
    """
    node = [torch.tensor(0.0)]

    def rsample(distribution, sample_shape=()):
        assert sample_shape in ((), torch.Size())
        return distribution.loc + node[0] * distribution.scale

    monkeypatch.setattr(Normal, "rsample", rsample)
    monkeypatch.setattr(
        Normal, "sample", lambda distribution, shape=(): rsample(distribution, shape).detach()
    )

    def choose(value):
        node[0] = torch.as_tensor(value, dtype=torch.float64)

    return choose


def negative_elbo(model, sample, weight=1.0):
    """By quadrature over the posterior and the formula of the divergence of two Gaussians."""
    nodes, weights = gaussian_nodes(NODES)
    mean, deviation = posterior_of(model, sample)
    values = mean + deviation * nodes.unsqueeze(1)
    reconstruction = (weights * log_likelihoods(model, sample, values)).sum()
    divergence = gaussian_divergence((mean, deviation), prior_of(model, sample)).sum()
    return weight * divergence - reconstruction


@pytest.mark.parametrize("sentence_avg", [False, True])
def test_cross_entropy_and_divergence_are_the_negative_elbo(at_node, sentence_avg):
    """Value and gradient, whatever the loss is divided by."""
    model, criterion = tiny({"latent_dim": 1}, sentence_avg=sentence_avg)
    sample = batch(TARGET)
    losses, gradients = [], []
    nodes, weights = gaussian_nodes(NODES)
    for node in nodes:
        at_node(node)
        loss, sample_size, logged = criterion(model, sample)
        assert sample_size == (1 if sentence_avg else 4)
        losses.append(loss.detach())
        assert float(logged["loss"]) == pytest.approx(float(losses[-1]), rel=1e-6)
        gradients.append(gradient_of(model, loss))
    expected = negative_elbo(model, sample)
    assert float((weights * torch.stack(losses)).sum()) == pytest.approx(float(expected), rel=1e-5)
    mean = [
        sum(w * g for w, g in zip(weights, column, strict=True))
        for column in zip(*gradients, strict=True)
    ]
    assert_same(mean, gradient_of(model, expected))
    # It is a bound.
    values, weights = gaussian_nodes(NODES)
    center, deviation = prior_of(model, sample)
    values = center + deviation * values.unsqueeze(1)
    log_evidence = (weights.log() + log_likelihoods(model, sample, values)).logsumexp(0)
    gap = float(expected + log_evidence)
    assert 1e-3 < gap < 10


MANIFOLDS = ("circle", "torus", "sphere", "so3")


def narrowed(kind, **flags):
    """A model with one part and narrow distributions, for which few nodes are enough.

    Rotations and means are away from 0.
    """
    model, criterion = tiny({"latent": kind, "latent_dim": 1, **flags.pop("model", {})}, **flags)
    size = model.decoder.kind.embedding.coordinates
    torch.manual_seed(9)
    for network in (model.encoder.latent_prior, model.decoder.latent_posterior):
        if network is not None:
            bias = network[-1].bias.detach()
            bias[:-size] = 0.3 * torch.randn(len(bias) - size, dtype=bias.dtype)
            bias[-size:] = -2 + 0.2 * torch.arange(size)
    return model, criterion


def distributions_of(model, sample):
    """Posterior and prior of the one sentence, of the one part."""
    net_input = sample["net_input"]
    encoded = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    source = encoded["latent_source"][0]
    prior = model.decoder.kind.prior(source, encoded["latent_prior"]).base_dist
    if model.decoder.latent_posterior is None:
        return None, prior
    return model.decoder.posterior(source, net_input["prev_output_tokens"]).base_dist, prior


def product_nodes(size, number):
    """``[nodes, size]``, and weights."""
    nodes, weights = gaussian_nodes(number)
    return (
        torch.cartesian_prod(*[nodes] * size).reshape(-1, size),
        torch.cartesian_prod(*[weights] * size).reshape(-1, size).prod(1),
    )


def points_of(distribution, nodes):
    """``[nodes, features]`` of a distribution with one part, of one sentence."""
    normal = distribution.base.base_dist
    return distribution.point(
        (normal.loc + nodes.unsqueeze(1) * normal.scale).unsqueeze(1)
    ).flatten(1)


NUMBER = {"circle": 16, "torus": 6, "sphere": 5, "so3": 3}


@pytest.mark.parametrize("prior", ["fixed", "conditional"])
@pytest.mark.parametrize("kind", MANIFOLDS)
def test_on_manifolds_cross_entropy_and_divergence_are_the_negative_elbo(at_node, kind, prior):
    """Value and gradient: the divergence by quadrature of the densities alone."""
    model, criterion = narrowed(kind, model={"latent_prior": prior})
    sample = batch(TARGET)
    nodes, weights = product_nodes(model.decoder.kind.embedding.coordinates, NUMBER[kind])
    value, total = 0.0, [torch.zeros_like(p) for p in model.parameters()]
    for node, weight in zip(nodes, weights, strict=True):
        at_node(node)
        loss = criterion(model, sample)[0]
        value += float(weight) * float(loss)
        gradients = gradient_of(model, loss)
        total = [t + weight * g for t, g in zip(total, gradients, strict=True)]
    posterior, against = distributions_of(model, sample)
    points = points_of(posterior, nodes)
    values = points.unsqueeze(1)
    divergence = (posterior.log_prob(values) - against.log_prob(values)).flatten()
    assert float((weights * divergence).sum()) > 0.1
    expected = (weights * (divergence - log_likelihoods(model, sample, points))).sum()
    assert value == pytest.approx(float(expected), rel=1e-4)
    expected = gradient_of(model, expected)
    assert sum(float(g.norm()) for g in expected) > 1e-2
    torch.testing.assert_close(total, expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("kind", ["gaussian", "circle", "sphere"])
def test_of_the_prior_the_cross_entropy_is_the_mean_over_its_draws(at_node, kind):
    """``--latent-from prior``: the gradient goes through the draw."""
    model_flags = {"latent_prior": "conditional", "latent_from": "prior"}
    if kind == "gaussian":
        model, criterion = tiny({"latent_dim": 1, **model_flags})
        nodes, weights = product_nodes(1, NODES)
    else:
        model, criterion = narrowed(kind, model=model_flags)
        nodes, weights = product_nodes(model.decoder.kind.embedding.coordinates, NUMBER[kind])
    sample = batch(TARGET)
    value, total = 0.0, [torch.zeros_like(p) for p in model.parameters()]
    for node, weight in zip(nodes, weights, strict=True):
        at_node(node)
        loss, _, logged = criterion(model, sample)
        assert "per_sentence/kl" not in logged
        value += float(weight) * float(loss)
        gradients = gradient_of(model, loss)
        total = [t + weight * g for t, g in zip(total, gradients, strict=True)]
    if kind == "gaussian":
        mean, deviation = prior_of(model, sample)
        points = mean + deviation * nodes
    else:
        points = points_of(distributions_of(model, sample)[1], nodes)
    expected = -(weights * log_likelihoods(model, sample, points)).sum()
    assert value == pytest.approx(float(expected), rel=1e-5)
    expected = gradient_of(model, expected)
    names = [name for name, _ in model.named_parameters()]
    assert expected[names.index("encoder.latent_prior.2.bias")].norm() > 1e-3
    torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kind", "prior"), [("sphere", "fixed"), ("circle", "conditional")])
def test_weight_and_free_bits_apply_to_an_estimated_divergence(at_node, kind, prior):
    at_node(0.4)
    sample = batch(TARGET)

    def step(**flags):
        model, criterion = narrowed(kind, model={"latent_prior": prior, **flags})
        loss, _, logged = criterion(model, sample)
        return float(loss), gradient_of(model, loss), float(logged["per_sentence/kl"])

    without, plain, quarter = (step(kl_weight=weight) for weight in ("0", "1", "0.25"))
    divergence = plain[2]
    assert divergence > 0.5
    assert {without[2], quarter[2]} == {divergence}, "as it is"
    assert plain[0] - without[0] == pytest.approx(divergence, rel=1e-5)
    assert quarter[0] - without[0] == pytest.approx(divergence / 4, rel=1e-5)
    mixed = [0.75 * a + 0.25 * b for a, b in zip(without[1], plain[1], strict=True)]
    assert_same(quarter[1], mixed)
    assert max(float((a - b).abs().max()) for a, b in zip(plain[1], without[1], strict=True)) > 0.1
    # Below what is free it is that number, without a gradient; above it, it is itself.
    free, below = step(free_bits=50.0), step(free_bits=0.3)
    assert free[0] - without[0] == pytest.approx(50, rel=1e-5)
    assert_same(free[1], without[1])
    assert below[0] == pytest.approx(plain[0], rel=1e-6)
    assert_same(below[1], plain[1])


def test_the_bound_is_tight_for_the_true_posterior():
    """The gap is the divergence from it, which an optimised posterior makes small."""
    model, _ = tiny({"latent_dim": 1})
    sample = batch(TARGET)
    before = float(negative_elbo(model, sample))
    optimiser = torch.optim.Adam(model.decoder.latent_posterior.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        loss = negative_elbo(model, sample)
        loss.backward()
        optimiser.step()
    values, weights = gaussian_nodes(NODES)
    center, deviation = prior_of(model, sample)
    values = center + deviation * values.unsqueeze(1)
    evidence = (weights.log() + log_likelihoods(model, sample, values)).logsumexp(0)
    assert 0 <= float(loss + evidence) < float(before + evidence) / 4


def test_the_mean_of_many_draws_is_the_bound():
    """Nothing forced: one batch of many copies of a sentence."""
    model, criterion = tiny({"latent_dim": 3})
    copies, sample = 4000, batch(TARGET)
    torch.manual_seed(1)
    with torch.no_grad():
        loss, _, logged = criterion(model, batch(*[TARGET] * copies))
        mean, deviation = posterior_of(model, sample)
        divergence = gaussian_divergence((mean, deviation), prior_of(model, sample)).sum()
        torch.manual_seed(2)
        draws = mean + deviation * torch.randn(copies, 3, dtype=torch.float64)
        rows = -log_likelihoods(model, sample, draws)
    error = 5 * float(rows.std()) * (2 / copies) ** 0.5
    assert float(loss) / copies == pytest.approx(float(rows.mean() + divergence), abs=error)
    assert float(logged["per_sentence/kl"]) / copies == pytest.approx(float(divergence))


def test_the_weight_of_the_divergence_follows_the_updates(at_node):
    model, criterion = tiny({"latent_dim": 1, "kl_weight": "linear:0:1:10"})
    sample = batch(TARGET)
    at_node(0.3)
    found = []
    for update in (0, 5, 10, 15):
        criterion.train_step.update = update
        loss, _, logged = criterion(model, sample)
        found.append(float(loss))
        assert float(logged["per_sentence/kl_weight"]) == pytest.approx(min(update / 10, 1))
    divergence = float(
        gaussian_divergence(posterior_of(model, sample), prior_of(model, sample)).sum()
    )
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert steps == pytest.approx([divergence / 2, divergence / 2, 0], abs=1e-6)


def test_free_bits_of_a_dimension_cost_nothing_and_have_no_gradient(at_node):
    at_node(0.3)
    sample = batch(TARGET)
    model, criterion = tiny({"latent_dim": 4})
    plain = criterion(model, sample)[0]
    parts = gaussian_divergence(posterior_of(model, sample), prior_of(model, sample))
    free = float(parts.sort().values[1:3].mean())  # more than two of the dimensions have
    model, criterion = tiny({"latent_dim": 4, "free_bits": free})
    loss, _, logged = criterion(model, sample)
    kept = parts.clamp(min=free)
    assert float(loss - plain) == pytest.approx(float((kept - parts).sum()), abs=1e-6)
    assert float(logged["per_sentence/kl"]) == pytest.approx(float(parts.sum())), "as it is"
    reconstruction = loss - kept.sum()
    parts = gaussian_divergence(posterior_of(model, sample), prior_of(model, sample))
    expected = gradient_of(model, parts[parts > free].sum())
    found = gradient_of(model, loss)
    assert float(logged["per_sentence/latent_active"]) == int((parts > 0.1).sum())
    assert reconstruction.isfinite()
    last = [name for name, _ in model.named_parameters()].index("encoder.latent_prior.2.bias")
    torch.testing.assert_close(found[last], expected[last])  # the prior is not in the other term
    assert int((expected[last].reshape(-1, 2).abs().sum(1) == 0).sum()) == 2


ALLOWED = (BOS, UNK, WORD, OTHER)


def expected_cost(model, sample, longest):
    """``E[1 - reward]`` over z of the prior and all outputs, differentiable."""
    nodes, weights = gaussian_nodes(NODES)
    mean, deviation = prior_of(model, sample)
    total = 0
    for node, weight in zip(nodes, weights, strict=True):
        value = (mean + deviation * node).unsqueeze(0)
        total = total + weight * _cost_of_outputs(model, sample, value, (), longest)
    return total


def _cost_of_outputs(model, sample, value, so_far, longest):
    if len(so_far) == longest or EOS in so_far:
        return 1 - reward_of(so_far)
    return sum(
        p * _cost_of_outputs(model, sample, value, (*so_far, token), longest)
        for token, p in _next(model, sample, value, so_far)
    )


def _next(model, sample, value, so_far):
    net_input = sample["net_input"]
    encoded = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    fed = torch.tensor([[EOS, *so_far]])
    logits = model.decoder(fed, encoder_out={**encoded, "latent_value": [value]})[0][0, -1]
    allowed = [*ALLOWED, EOS] if so_far else list(ALLOWED)
    return list(zip(allowed, logits[allowed].softmax(0), strict=True))


@pytest.mark.parametrize("source", ["posterior", "prior"])
def test_reward_gradient_is_unbiased_over_latent_and_outputs(at_node, monkeypatch, source):
    """Quadrature over z of the prior, every output for each of its values."""
    nodes, weights = gaussian_nodes(NODES)
    model, criterion = tiny(
        {"latent_dim": 1, "latent_from": source},
        objective="reinforce",
        max_decode_length=1,
    )
    criterion.cost.reward = Table()
    sample = batch([WORD])
    total = [torch.zeros_like(p) for p in model.parameters()]
    mass = 0.0
    forced = []
    monkeypatch.setattr("fairseq_plugins.decoding.draw", lambda logits, _: forced[0])
    forced.append(torch.tensor([WORD]))
    criterion(model, sample)  # shows that there is a layer that draws
    center, deviation = prior_of(model, sample)
    for node, weight in zip(nodes, weights, strict=True):
        at_node(node)
        value = (center + deviation * node).unsqueeze(0).detach()
        for token, p in _next(model, sample, value, ()):
            forced[0] = torch.tensor([token])
            loss, sample_size, _ = criterion(model, sample)
            probability = float(weight * p)
            gradients = gradient_of(model, loss / sample_size)
            total = [t + probability * g for t, g in zip(total, gradients, strict=True)]
            mass += probability
    assert mass == pytest.approx(1, abs=1e-6)
    assert_same(total, gradient_of(model, expected_cost(model, sample, 1)))


@pytest.mark.parametrize("kind", ["circle", "sphere", "so3"])
def test_on_manifolds_the_reward_gradient_is_unbiased(at_node, monkeypatch, kind):
    """With a conditional prior: quadrature over z, every output for each of its values."""
    model, criterion = narrowed(
        kind,
        model={"latent_prior": "conditional", "latent_from": "prior"},
        objective="reinforce",
        max_decode_length=1,
    )
    criterion.cost.reward = Table()
    sample = batch([WORD])
    number = {"circle": 12, "sphere": 5, "so3": 3}[kind]
    nodes, weights = product_nodes(model.decoder.kind.embedding.coordinates, number)
    forced = [torch.tensor([WORD])]
    monkeypatch.setattr("fairseq_plugins.decoding.draw", lambda logits, _: forced[0])
    criterion(model, sample)  # shows that there is a layer that draws
    points = points_of(distributions_of(model, sample)[1], nodes)
    total = [torch.zeros_like(p) for p in model.parameters()]
    mass = 0.0
    for node, weight, value in zip(nodes, weights, points.detach(), strict=True):
        at_node(node)
        for token, p in _next(model, sample, value.unsqueeze(0), ()):
            forced[0] = torch.tensor([token])
            loss, sample_size, _ = criterion(model, sample)
            probability = float(weight * p)
            gradients = gradient_of(model, loss / sample_size)
            total = [t + probability * g for t, g in zip(total, gradients, strict=True)]
            mass += probability
    assert mass == pytest.approx(1, abs=1e-6)
    costs = [_cost_of_outputs(model, sample, value.unsqueeze(0), (), 1) for value in points]
    expected = gradient_of(model, (weights * torch.stack(costs)).sum())
    names = [name for name, _ in model.named_parameters()]
    assert expected[names.index("encoder.latent_prior.2.bias")].norm() > 1e-3
    torch.testing.assert_close(total, expected, rtol=1e-2, atol=2e-3)


def test_samples_of_a_source_have_latents_of_their_own():
    model, criterion = tiny({"latent_dim": 1}, objective="leave_one_out", samples=16)
    values = []
    projection = model.decoder.latent_projection
    projection.register_forward_pre_hook(lambda module, inputs: values.append(inputs[0].detach()))
    criterion(model, batch(TARGET))
    decoded, scored = values[-2], values[-1]
    assert scored.shape == (16, 1)
    assert len(scored.unique()) == 16
    # What was drawn while decoding is what is scored.
    torch.testing.assert_close(decoded, scored)


def test_candidates_are_refused_with_the_score_function_of_the_latent():
    model, criterion = tiny({}, objective="minimum_risk")
    with pytest.raises(ValueError, match="score function of node 'latent': use --layer-estimator"):
        criterion(model, batch(TARGET))


def test_candidates_with_the_mode_are_decoded_and_scored_at_the_priors_mean():
    model, criterion = tiny({}, objective="minimum_risk", layer_estimator="mode")
    values = []
    projection = model.decoder.latent_projection
    sample = batch(TARGET)
    mean, _ = prior_of(model, sample)
    criterion(model, sample)
    projection.register_forward_pre_hook(lambda module, inputs: values.append(inputs[0].detach()))
    _, _, logged = criterion(model, sample)
    assert len(values) > 1
    for value in values:
        torch.testing.assert_close(value, mean.expand_as(value))
    assert "per_sentence/kl" not in logged


def test_relaxed_feeding_is_refused():
    model, criterion = tiny({}, feed="gumbel", cost="expected_bleu")
    with pytest.raises(ValueError, match="'latent' is in the decoder, which relaxed feeding"):
        criterion(model, batch(TARGET))
