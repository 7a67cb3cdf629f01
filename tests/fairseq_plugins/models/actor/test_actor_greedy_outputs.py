"""``--emit greedy``: most probable tokens, of which what layers draw is the only random part."""

import itertools

import pytest
import torch
from estimates_in_models import (
    SOURCE,
    Table,
    assert_same,
    batch,
    decoders,
    drawn_by_layers,
    estimate,
    expected_reward_cost,
    mean_estimate,
    tiny,
)
from fairseq_setup import graph_criterion, setup
from stochastic_layer_models import DECODERS, EOS, PAD, UNK, WORD, Exact, Outcome
from torch.distributions import Normal

from criterions.stochastic_graph import StepwiseDraws

GREEDY = {"objective": "trainable_greedy"}


class Greedy(Exact):
    """Outcomes of the layers alone, each with the most probable tokens given it."""

    def _continue(self, so_far, memory, state, longest, forced, scored):
        step = len(so_far.attention)
        ended = forced is None and EOS in so_far.tokens
        if step == longest or ended:
            yield so_far
            return
        weights = self.model.decoder.weights
        fed = EOS if step == 0 else (so_far.tokens if forced is None else forced)[step - 1]
        state = weights.before(state, torch.tensor(fed))
        choices = (memory @ weights.query(state)).softmax(0)
        for position in range(len(choices)):
            attended = state + memory[position]
            logits = weights.output(attended).detach().clone()
            logits[[PAD] if step else [PAD, EOS]] = -torch.inf
            tokens = (
                so_far.tokens if EOS in so_far.tokens else (*so_far.tokens, int(logits.argmax()))
            )
            longer = Outcome(
                so_far.latent,
                (*so_far.attention, position),
                tokens,
                so_far.probability * choices[position],
                so_far.log_likelihood,
            )
            after = attended if self.model.feeds_choice else state
            yield from self._continue(longer, memory, after, longest, forced, scored)


def tiny_greedy(decoder="recurrent", latent=False, **options):
    """As ``tiny``; its most probable tokens depend on what was attended to."""
    model, criterion = tiny(decoder, latent, **{**GREEDY, **options})
    with torch.no_grad():
        model.decoder.weights.output.weight.mul_(4)
        model.encoder.embedding.weight.mul_(2)
    return model, criterion


def outcomes_of(model, longest, forced=None):
    outcomes = Greedy(model, SOURCE).outcomes(longest, forced=forced)
    assert len({outcome.tokens for outcome in outcomes}) > 1, "else nothing depends on the layers"
    return outcomes


@pytest.mark.parametrize(
    ("decoder", "options"),
    [
        *((name, {}) for name in sorted(DECODERS)),
        *((name, {"credit": "reward_to_go"}) for name in ("recurrent", "parallel")),
        ("recurrent", {"layer_baseline": "none"}),
        ("recurrent", {"layer_baseline": "greedy"}),
        ("parallel", {"layer_baseline": "greedy", "credit": "reward_to_go"}),
    ],
    ids=str,
)
def test_the_gradient_of_the_reward_is_unbiased_over_all_alignments(monkeypatch, decoder, options):
    """Of a discrete layer for all parameters: the most probable tokens do not move with them."""
    model, criterion = tiny_greedy(decoder, max_decode_length=3, **options)
    outcomes = outcomes_of(model, 3)
    estimates = mean_estimate(model, criterion, monkeypatch, outcomes, batch([WORD]))
    assert_same(estimates, expected_reward_cost(model, outcomes))


def test_a_layer_in_the_encoder_is_unbiased(monkeypatch):
    model, criterion = tiny_greedy(latent=True, max_decode_length=2)
    outcomes = outcomes_of(model, 2)
    estimates = mean_estimate(model, criterion, monkeypatch, outcomes, batch([WORD]))
    assert_same(estimates, expected_reward_cost(model, outcomes))


@decoders
@pytest.mark.parametrize("layer_baseline", ["leave_one_out", "greedy"])
def test_two_draws_of_the_layers_are_unbiased(monkeypatch, decoder, layer_baseline):
    options = {"samples": 2, "layer_baseline": layer_baseline, "max_decode_length": 2}
    model, criterion = tiny_greedy(decoder, **options)
    outcomes = outcomes_of(model, 2)
    pairs = itertools.product(outcomes, repeat=2)
    estimates = mean_estimate(model, criterion, monkeypatch, pairs, batch([WORD]))
    assert_same(estimates, expected_reward_cost(model, outcomes))


@decoders
def test_most_probable_tokens_after_the_reference_are_unbiased(monkeypatch, decoder):
    """``--feed teacher``: nothing that is emitted is fed."""
    model, criterion = tiny_greedy(decoder, feed="teacher")
    outcomes = outcomes_of(model, 3, forced=[WORD, UNK, EOS])
    estimates = mean_estimate(model, criterion, monkeypatch, outcomes, batch([WORD, UNK]))
    assert_same(estimates, expected_reward_cost(model, outcomes))


def test_the_emitted_tokens_are_no_node():
    model, criterion = tiny_greedy(max_decode_length=2)
    _, _, logged = criterion(model, batch([WORD]))
    names = {name.removeprefix("per_sentence/") for name in logged}
    assert {"reward", "sample_length", "entropy_attention", "advantage_attention"} <= names
    assert not {"entropy", "log_prob", "advantage"} & names


def test_the_greedy_baseline_of_layers_draws_nothing_and_is_logged():
    model, criterion = tiny_greedy(layer_baseline="greedy", max_decode_length=3)
    *_, outputs, greedy = drawn_by_layers(model, criterion, batch([WORD]))
    assert outputs.values
    assert greedy is None
    _, _, logged = criterion(model, batch([WORD]))
    baseline = logged["per_sentence/baseline_attention"]
    reward = logged["per_sentence/reward_greedy"]
    torch.testing.assert_close(baseline, 1 - reward.to(baseline))


def test_layers_are_compared_with_the_greedy_output_under_other_objectives(monkeypatch):
    options = {"objective": "reinforce", "layer_baseline": "greedy", "max_decode_length": 2}
    model, criterion = tiny(**options)
    outcomes = Exact(model, SOURCE).outcomes(2)
    estimates = mean_estimate(model, criterion, monkeypatch, outcomes, batch([WORD]))
    assert_same(estimates, expected_reward_cost(model, outcomes))


@pytest.mark.parametrize("layer_baseline", ["leave_one_out", "greedy"])
def test_the_added_cross_entropy_has_a_moving_average(layer_baseline):
    """It has one outcome a source, and no greedy output."""
    options = {"layer_baseline": layer_baseline, "samples": 2, "cross_entropy_weight": 0.5}
    model, criterion = tiny_greedy(max_decode_length=2, **options)
    average = criterion.estimators.layers["cross_entropy"].baseline
    average.train()
    average.weight.zero_()
    estimate(model, criterion, batch([WORD]))
    assert 0 < float(average.weight) < 1


def test_dropout_is_off_where_layers_draw_and_where_they_are_replayed(corpus):
    """``--sample-dropout off``: else their log-probabilities are those of another distribution."""
    flags = ("--arch", "actor_transformer", "--actor-train-all", "--dropout", 0.5)
    built = setup(corpus, flags=flags, name="stochastic_graph", **GREEDY)
    seen = []
    built.model.decoder.register_forward_hook(
        lambda module, arguments, output: seen.append(module.training)
    )
    for dropout, expected in [("off", {False}), ("scoring", {False, True}), ("both", {True})]:
        built.criterion = graph_criterion(built, **GREEDY, sample_dropout=dropout)
        seen.clear()
        built.gradient(built.batch(20, 24))
        assert set(seen) == expected


@pytest.mark.parametrize("feed", ["greedy", "teacher"])
def test_a_model_without_layers_is_told_that_nothing_would_learn(corpus, feed):
    built = setup(corpus, name="stochastic_graph", **GREEDY, feed=feed)
    with pytest.raises(ValueError, match=r"--emit greedy .* no layer that draws.*--actor gaussian"):
        built.gradient(built.batch(20, 24))


def test_a_deterministic_actor_is_no_layer_that_draws(corpus, learnt):
    flags = ("--arch", "actor_transformer", "--actor", "deterministic")
    weights = learnt("transformer")
    built = setup(corpus, flags=flags, name="stochastic_graph", weights=weights, **GREEDY)
    with pytest.raises(ValueError, match=r"no layer that draws.*--actor gaussian"):
        built.gradient(built.batch(20, 24))


@pytest.mark.parametrize("estimator", ["mode", "none", "straight_through"])
def test_layers_without_a_score_are_told_so(estimator):
    model, criterion = tiny_greedy(layer_estimator=estimator, max_decode_length=2)
    with pytest.raises(ValueError, match=r"Of its layers \(attention\) none has that estimator"):
        estimate(model, criterion, batch([WORD]))


REFUSED = [
    ({"objective": "reinforce", "emit": "greedy"}, "--emit greedy", "--feed sample"),
    ({**GREEDY, "feed": "sample"}, "--emit greedy", "--feed sample"),
    ({**GREEDY, "feed": "gumbel"}, "--emit greedy", "--feed gumbel"),
    ({**GREEDY, "emit": "sample"}, "--emit sample", "--feed greedy"),
    ({**GREEDY, "estimator": "score_function"}, "--estimator score_function", "--emit greedy"),
    ({**GREEDY, "estimator": "candidate_set"}, "--estimator candidate_set", "--emit greedy"),
    ({**GREEDY, "baseline": "greedy"}, "--baseline greedy", "--emit greedy"),
    ({**GREEDY, "sample_temperature": 2.0}, "--sample-temperature 2.0", "--emit greedy"),
    ({**GREEDY, "sample_topk": 3}, "--sample-topk 3", "--emit greedy"),
    ({**GREEDY, "sample_topp": 0.5}, "--sample-topp 0.5", "--emit greedy"),
    ({"layer_baseline": "greedy"}, "--layer-baseline greedy", "--cost cross_entropy"),
    (
        {**GREEDY, "layer_baseline": "greedy", "reward_normalization": "batch"},
        "--layer-baseline greedy",
        "--reward-normalization batch",
    ),
    (
        {**GREEDY, "layer_baseline": "greedy", "baseline_decay": 0.5},
        "--baseline-decay 0.5",
        "--baseline none",
    ),
]


@pytest.mark.parametrize(("options", "one", "other"), REFUSED)
def test_flags_that_do_not_go_together_are_both_named(options, one, other):
    with pytest.raises(ValueError, match="does not go with") as caught:
        tiny(**options)
    assert str(caught.value).startswith(one)
    assert f" does not go with {other}" in str(caught.value)


def lstm_of_one_number(corpus, learnt_seed=3):
    """``actor_lstm`` whose embeddings, and so the perturbations, have one dimension; float64."""
    flags = ("--arch", "actor_lstm", "--decoder-embed-dim", 1, "--actor-std", 0.7)
    flags += ("--actor-hidden-size", 2)
    options = {**GREEDY, "layer_baseline": "none", "max_decode_length": 1}
    built = setup(corpus, "lstm", flags=flags, name="stochastic_graph", **options)
    torch.manual_seed(learnt_seed)
    for name, value in built.model.named_parameters():
        if "encoder" not in name:
            torch.nn.init.normal_(value, std=0.8)
    built.model.load_state_dict(built.model.state_dict())
    built.model.double()
    built.criterion.cost.reward = Table()
    return built


def test_the_gaussian_actors_gradient_is_that_of_the_expected_reward(corpus, monkeypatch):
    """One token, one dimension: a sum over intervals of noise that give the same token."""
    built = lstm_of_one_number(corpus)
    one = built.batch(20)
    rows = 4000
    many = {
        "target": one["target"].expand(rows, -1),
        "ntokens": one["ntokens"] * rows,
        "nsentences": rows,
        "net_input": {
            name: value.expand(rows, *value.shape[1:]) for name, value in one["net_input"].items()
        },
    }
    # Noise whose rows have the same probability each: their mean is an integral.
    quantiles = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    noise = Normal(0.0, 1.0).icdf(quantiles).unsqueeze(1)
    drawn = []

    def quantile(distribution, shape=()):
        drawn.append(
            (
                distribution,
                (distribution.loc + distribution.scale * noise[: len(distribution.loc)]).detach(),
            )
        )
        return drawn[-1][1]

    outputs = watched_rewards(built, monkeypatch)
    monkeypatch.setattr(Normal, "sample", quantile)
    _, gradients, _ = built.gradient(many)
    tokens, rewards = outputs[-1][0].tokens[:, 0], outputs[-1][1]
    assert len(set(tokens.tolist())) > 1
    assert len(set(rewards.tolist())) > 1
    # E[reward] = sum of rewards times the Gaussian's mass between the values where tokens change.
    distribution, values = drawn[-1]
    mean, std, values = distribution.loc[0, 0], distribution.scale[0, 0].detach(), values[:, 0]
    built.model.zero_grad()
    mean = mean_of_the_actor(built, one)
    change = tokens[1:].ne(tokens[:-1]).nonzero().squeeze(1)
    bounds = (values[change] + values[change + 1]) / 2
    masses = Normal(mean, std).cdf(bounds)
    masses = torch.cat([masses.new_zeros(1), masses, masses.new_ones(1)]).diff()
    each = torch.cat([rewards[change], rewards[-1:]]).double()
    (masses * (1 - each)).sum().backward()
    for name, value in built.model.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(
                gradients[name].double(), value.grad, rtol=0.01, atol=1e-5, msg=name
            )
    assert float(built.model.decoder.actor.write.bias.grad.abs()) > 1e-3


def watched_rewards(built, monkeypatch):
    """A list to which all outputs that are rewarded are added, each with its reward."""
    seen = []
    kind = type(built.criterion.cost.reward)
    rewarded = kind.__call__

    def watched(self, outputs):
        seen.append((outputs, rewarded(self, outputs)))
        return seen[-1][1]

    monkeypatch.setattr(kind, "__call__", watched)
    return seen


def mean_of_the_actor(built, sample):
    """Of the first step, with gradient."""
    kept = []
    actor = built.model.decoder.actor
    handle = actor.write.register_forward_hook(lambda module, given, output: kept.append(output))
    built.model.eval()
    built.model(**sample["net_input"])
    handle.remove()
    return kept[0][0, 0]


@pytest.mark.parametrize("base", ["transformer", "lstm"])
def test_the_score_is_that_of_the_noise_that_the_outputs_were_decoded_with(
    corpus, learnt, monkeypatch, base
):
    """The gradient of the actor's bias by hand: (z - mean) / variance times the cost, summed."""
    options = {**GREEDY, "layer_baseline": "none", "samples": 3, "max_decode_length": 6}
    flags = ("--arch", f"actor_{base}", "--actor-std", 0.5)
    weights = learnt(base)
    built = setup(corpus, base, flags=flags, name="stochastic_graph", weights=weights, **options)
    sample = built.batch(20, 24)
    found = []
    seen = StepwiseDraws.values.fget
    monkeypatch.setattr(
        StepwiseDraws, "values", property(lambda self: found.append(seen(self)) or found[-1])
    )
    rewards = watched_rewards(built, monkeypatch)
    _, gradients, _ = built.gradient(sample)
    drawn = found[-1]
    outputs, values = rewards[-1]
    if base == "lstm":
        steps = [drawn["actor", step] for step in range(outputs.tokens.size(1))]
        noise = torch.stack(steps, dim=1)
    else:
        noise = drawn["actor", None]
    exists = outputs.tokens.ne(PAD).unsqueeze(2)
    # The actor's mean is still 0.  Two sources of three samples each.
    by_hand = (noise / 0.25 * (1 - values).view(-1, 1, 1) * exists).sum((0, 1)) / 6
    assert len(set(values.tolist())) > 1
    torch.testing.assert_close(gradients["decoder.actor.write.bias"], by_hand, rtol=1e-4, atol=1e-6)
    others = [name for name, value in gradients.items() if "actor" not in name and value.any()]
    assert not others
