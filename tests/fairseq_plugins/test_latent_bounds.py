"""Objectives with a latent variable of one dimension, against quadrature over it."""

import itertools
from dataclasses import replace

import pytest
import torch
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
from test_layers_in_models import Table, gradient_of, reward_of
from torch.distributions import Normal

TARGET = [WORD, OTHER, WORD]
NODES = 24


def assert_same(actual, expected):
    assert sum(float(g.norm()) for g in expected) > 1e-2, "a gradient of 0 would show nothing"
    # fairseq's attention has its softmax in float32.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def at_node(monkeypatch):
    """Makes Gaussians draw a given number of standard deviations from their means."""
    node = [0.0]

    def rsample(law, sample_shape=()):
        assert sample_shape in ((), torch.Size())
        return law.loc + node[0] * law.scale

    monkeypatch.setattr(Normal, "rsample", rsample)
    monkeypatch.setattr(Normal, "sample", lambda law, shape=(): rsample(law, shape).detach())

    def choose(value):
        node[0] = float(value)

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
    criterion.cost_pass = _with_table(criterion)
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


def _with_table(criterion):
    reward_cost = replace(criterion.cost_pass.reward_cost, reward=Table())
    return replace(criterion.cost_pass, reward_cost=reward_cost)
