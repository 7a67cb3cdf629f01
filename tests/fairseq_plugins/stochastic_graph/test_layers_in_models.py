"""Stochastic layers inside a model: estimates are those of one model, whatever draws in it.

Every outcome of layers and tokens is forced in turn and weighted by its exact probability: the
estimates' mean has no sampling error.
"""

import itertools

import pytest
import torch
from estimates_in_models import (
    SOURCE,
    assert_same,
    batch,
    decoders,
    drawn_by_layers,
    estimate,
    estimate_of,
    expected_cross_entropy,
    expected_reward_cost,
    mean_estimate,
    tiny,
)
from stochastic_layer_models import (
    DECODERS,
    EOS,
    UNK,
    VOCAB,
    WORD,
    Exact,
)
from torch.distributions import Categorical, OneHotCategorical

from criterions.stochastic_graph import Enumeration, ScoreFunction, sample


@decoders
@pytest.mark.parametrize("latent", [False, True])
def test_cross_entropy_is_unbiased_over_all_alignments(monkeypatch, decoder, latent):
    model, criterion = tiny(decoder, latent)
    outcomes = Exact(model, SOURCE).outcomes(3, forced=[WORD, UNK, EOS])
    assert len(outcomes) == 2**3 * (2 if latent else 1)
    estimates = mean_estimate(model, criterion, monkeypatch, outcomes, batch([WORD, UNK]))
    assert_same(estimates, expected_cross_entropy(model, outcomes))


@pytest.mark.parametrize("baseline", ["leave_one_out", "moving_average"])
def test_cross_entropy_is_unbiased_over_pairs_of_alignments(monkeypatch, baseline):
    """Two samples of a source, whose prefix is the reference's."""
    model, criterion = tiny("recurrent", samples=2, layer_baseline=baseline)
    outcomes = Exact(model, SOURCE).outcomes(2, forced=[WORD, EOS])
    pairs = list(itertools.product(outcomes, repeat=2))
    estimates = mean_estimate(model, criterion, monkeypatch, pairs, batch([WORD]))
    assert_same(estimates, expected_cross_entropy(model, outcomes))


@pytest.mark.parametrize("sentences", [1, 2])
def test_a_layer_in_the_encoder_is_refused_with_several_samples(sentences):
    model, criterion = tiny("recurrent", latent=True, samples=2)
    with pytest.raises(ValueError, match=r"--samples 2 .*in the encoder.*--samples 1"):
        criterion(model, batch(*[[WORD]] * sentences))


def test_several_samples_do_not_change_the_likelihood_that_is_logged():
    model, criterion = tiny("recurrent", samples=3, layer_estimator="mode")
    with pytest.raises(ValueError, match=r"--samples 3 .*--feed teacher.*no layer that draws"):
        criterion(model, batch([WORD]))
    likelihoods = []
    for samples in (1, 3):
        model, criterion = tiny("recurrent", samples=samples)
        with torch.no_grad():  # one alignment is all but certain
            for parameter in model.parameters():
                parameter.mul_(60)
        likelihoods.append(float(criterion(model, batch([WORD, UNK]))[2]["nll_loss"]))
    assert likelihoods[0] == pytest.approx(likelihoods[1], rel=1e-6)


@pytest.mark.parametrize(
    ("decoder", "credit"),
    [*((name, "whole") for name in sorted(DECODERS)), ("recurrent", "reward_to_go")],
)
def test_reinforce_is_unbiased_over_all_alignments_and_outputs(monkeypatch, decoder, credit):
    model, criterion = tiny(decoder, objective="reinforce", max_decode_length=2, credit=credit)
    outcomes = Exact(model, SOURCE).outcomes(2)
    assert len(outcomes) == 2 * 3 * 2 * 4
    estimates = mean_estimate(model, criterion, monkeypatch, outcomes, batch([WORD]))
    assert_same(estimates, expected_reward_cost(model, outcomes))


def test_reinforce_is_unbiased_with_a_layer_in_the_encoder(monkeypatch):
    model, criterion = tiny(latent=True, objective="reinforce", max_decode_length=1)
    outcomes = Exact(model, SOURCE).outcomes(1)
    assert len(outcomes) == 2 * 2 * 3
    estimates = mean_estimate(model, criterion, monkeypatch, outcomes, batch([WORD]))
    assert_same(estimates, expected_reward_cost(model, outcomes))


@decoders
def test_feeding_samples_is_unbiased_over_all_alignments_and_outputs(monkeypatch, decoder):
    """Cross-entropy of the reference after the model's own tokens."""
    model, criterion = tiny(decoder, objective="free_running", estimator="score_function")
    outcomes = Exact(model, SOURCE).outcomes(2, scored=[WORD, EOS])
    estimates = mean_estimate(model, criterion, monkeypatch, outcomes, batch([WORD]))
    assert_same(estimates, expected_cross_entropy(model, outcomes))


@decoders
def test_a_longer_neighbour_changes_nothing(monkeypatch, decoder):
    """Steps past the end of an output have no score term."""
    model, criterion = tiny(decoder, objective="reinforce", max_decode_length=3)
    outcomes = Exact(model, SOURCE).outcomes(3)
    longest = next(o for o in outcomes if len(o.tokens) == 3)
    ended = [o for o in outcomes if len(o.tokens) == 2]
    assert len(ended) == 12
    one, two = batch([WORD]), batch([WORD], [WORD])
    estimate(model, criterion, one)
    neighbour = estimate_of(model, criterion, monkeypatch, one, longest)
    for outcome in ended[::3]:
        alone = estimate_of(model, criterion, monkeypatch, one, outcome)
        together = estimate_of(model, criterion, monkeypatch, two, outcome, longest)
        half = [(a + b) / 2 for a, b in zip(alone, neighbour, strict=True)]
        assert_same(together, half)


@decoders
def test_two_samples_of_a_source_are_unbiased(monkeypatch, decoder):
    model, criterion = tiny(
        decoder,
        objective="leave_one_out",
        layer_baseline="leave_one_out",
        samples=2,
        max_decode_length=1,
    )
    outcomes = Exact(model, SOURCE).outcomes(1)
    pairs = itertools.product(outcomes, repeat=2)
    estimates = mean_estimate(model, criterion, monkeypatch, pairs, batch([WORD]))
    assert_same(estimates, expected_reward_cost(model, outcomes))


@decoders
def test_samples_of_a_source_differ_in_what_layers_draw(decoder):
    """From the first step on, which samples of a model without layers share."""
    model, criterion = tiny(decoder, objective="reinforce", samples=16, max_decode_length=2)
    values = drawn_by_layers(model, criterion, batch([WORD]))[-1].values
    first = values["attention", 0] if decoder == "recurrent" else values["attention", None][:, 0]
    assert first.shape == (16, len(SOURCE))
    assert 0 < float(first[:, 0].sum()) < 16


def test_enumerated_layers_give_the_exact_cross_entropy():
    model, criterion = tiny("parallel")
    criterion.estimators.layers["cost"] = Enumeration(independent_steps=True)
    outcomes = Exact(model, SOURCE).outcomes(3, forced=[WORD, UNK, EOS])
    estimates = estimate(model, criterion, batch([WORD, UNK]))
    assert_same(estimates, expected_cross_entropy(model, outcomes))


def test_validation_and_greedy_outputs_draw_nothing(monkeypatch):
    model, criterion = tiny(objective="self_critical", max_decode_length=3)

    def no_draw(distribution):
        raise AssertionError("drawn in validation")

    monkeypatch.setattr(OneHotCategorical, "sample", no_draw)
    criterion.eval()
    _, _, logged = criterion(model, batch([WORD]))
    assert "per_sentence/reward_greedy" in logged


@pytest.mark.parametrize("words", [1, 4])
def test_workers_speak_once_whatever_the_number_of_steps(monkeypatch, words):
    """Data-parallel workers have sentences of different lengths; a call too many would wait."""
    sums = []
    module = "fairseq_plugins.workers.sum_over_workers"
    monkeypatch.setattr(module, lambda local: sums.append(local) or local)
    model, criterion = tiny(baseline_decay=0.75)
    average = criterion.estimators.layers["cost"].baseline
    average.train()
    average.total.zero_(), average.weight.zero_()
    kept = []
    learn = type(criterion.estimators).learn
    monkeypatch.setattr(
        type(criterion.estimators), "learn", lambda self: kept.extend(average._sums) or learn(self)
    )
    estimate(model, criterion, batch([WORD] * words, [WORD]))
    assert len(kept) == words + 1  # a node for each step
    assert len(sums) == 2  # of sizes, and of what all averages learn
    cost, number = torch.stack(kept).sum(0)
    torch.testing.assert_close(average.total / average.weight, (cost / number).to(average.total))


def test_a_worker_whose_layers_recorded_nothing_takes_part_in_the_sum(monkeypatch):
    """As with a layer that is left out at random: the other workers wait for its part."""
    sums = []
    module = "fairseq_plugins.workers.sum_over_workers"
    monkeypatch.setattr(module, lambda local: sums.append(local) or local)
    _, criterion = tiny(baseline_decay=0.75)
    size = criterion.estimators.learned_size
    average = criterion.estimators.layers["cost"].baseline
    before = average.total.clone()
    with criterion.train_step.sums([size], torch.device("cpu"), training=True):
        criterion.estimators.begin()
        criterion.estimators.learn()
    assert [local.tolist() for local in sums] == [[0] * size]
    assert size > 0
    assert average.total == before


def test_the_greedy_baseline_draws_nothing():
    model, criterion = tiny(objective="self_critical", max_decode_length=3)
    samples, greedy = drawn_by_layers(model, criterion, batch([WORD]))
    assert samples.values
    assert greedy is None


def test_a_layer_that_draws_only_later_is_drawn_from_then_on():
    model, criterion = tiny(objective="reinforce", layer_estimator="mode")
    estimate(model, criterion, batch([WORD]))
    criterion.estimators.layers["cost"] = ScoreFunction()
    (drawn,) = drawn_by_layers(model, criterion, batch([WORD]))
    assert drawn.values


@decoders
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "reinforce", "layer_estimator": "gumbel_softmax"},
            "--layer-estimator.*'attention'.*GumbelSoftmax has no outcome",
        ),
        (
            {"objective": "reinforce", "layer_estimator": "enumeration"},
            "--layer-estimator.*'attention'.*Enumeration has no outcome",
        ),
        (
            {"objective": "minimum_risk"},
            "--estimator candidate_set does not go with the score function of node 'attention'",
        ),
        (
            {"objective": "minimum_risk", "layer_estimator": "none", "candidate_reference": True},
            "--candidate-reference does not go with stochastic layers",
        ),
    ],
    ids=["noise", "enumeration", "candidates", "reference"],
)
def test_what_would_be_biased_is_refused(decoder, options, message):
    model, criterion = tiny(decoder, **options)
    with pytest.raises(ValueError, match=message):
        estimate(model, criterion, batch([WORD]))


def test_a_layer_that_samples_would_share_is_refused():
    model, criterion = tiny(latent=True, objective="leave_one_out")
    with pytest.raises(ValueError, match=r"'latent' is drawn before decoding.*--samples 1"):
        estimate(model, criterion, batch([WORD]))


def test_a_layer_outside_encoder_and_decoder_is_refused():
    model, criterion = tiny(objective="reinforce")
    forward = model.forward

    def with_layer(*arguments, **keywords):
        sample("outside", Categorical(logits=torch.zeros(1, 2)))
        return forward(*arguments, **keywords)

    model.forward = with_layer
    with pytest.raises(ValueError, match="'outside' was not drawn when the outputs were decoded"):
        estimate(model, criterion, batch([WORD]))


def test_a_layer_whose_value_is_given_goes_with_the_greedy_baseline():
    """It has a score term but draws nothing; the greedy output is decoded outside the graph."""
    model, criterion = tiny(
        "parallel", objective="self_critical", max_decode_length=3, layer_estimator="mode"
    )
    scores = torch.nn.Parameter(torch.zeros(VOCAB, dtype=torch.float64))

    def observe(module, arguments, output):
        distribution = OneHotCategorical(logits=output[0].detach() + scores)
        first = torch.nn.functional.one_hot(torch.zeros_like(output[0][..., 0]).long(), VOCAB)
        value = sample("observed", distribution, estimator=ScoreFunction(), value=first.double())
        return (output[0] + value, *output[1:])

    handle = model.decoder.register_forward_hook(observe)
    loss, _, logged = criterion(model, batch([WORD]))
    handle.remove()
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.isfinite().all()
    assert gradient.ne(0).any()
    assert "per_sentence/reward_greedy" in logged
