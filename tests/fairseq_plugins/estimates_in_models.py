"""Gradient estimates of models with stochastic layers, averaged over all of their outcomes."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary
from fairseq_setup import graph_criterion, sample_of
from stochastic_layer_models import EOS, PAD, WORD, Forced, Model, Outcome

from criterions.stochastic_graph import Baseline
from fairseq_plugins import decoding

SOURCE = [WORD, EOS]


def tiny(decoder="recurrent", latent=False, **options):
    """Model and criterion, with moving averages that stay at an arbitrary number."""
    dictionary = Dictionary()
    dictionary.add_symbol("word")
    task = SimpleNamespace(
        target_dictionary=dictionary, source_dictionary=dictionary, train_step=lambda: None
    )
    criterion = graph_criterion(SimpleNamespace(task=task), **options).double()
    for module in criterion.modules():
        if isinstance(module, Baseline):
            module.eval()
            if hasattr(module, "total"):
                module.total.fill_(0.375)
                module.weight.fill_(1)
    if criterion.settings.cost == "reward":
        criterion.cost.reward = Table()
    return Model(dictionary, decoder, latent), criterion


def reward_of(tokens):
    """An arbitrary number from 0 to 1 that float32 holds exactly."""
    value = 3
    for token in tokens:
        value = (value * 29 + token * 41 + 11) % 61
    return value / 64


class Table:
    """A reward without rhyme or reason."""

    per_token = True

    def __call__(self, outputs):
        rows = outputs.tokens.tolist()
        return torch.tensor([reward_of([v for v in row if v != PAD]) for row in rows])

    def increments(self, outputs):
        return torch.tensor([self._increments(row) for row in outputs.tokens.tolist()])

    def _increments(self, row):
        prefixes = [0.0, *(reward_of(row[: i + 1]) for i in range(len(row)))]
        steps = zip(row, itertools.pairwise(prefixes), strict=True)
        return [0.0 if token == PAD else after - before for token, (before, after) in steps]


def batch(*targets):
    made = sample_of(targets, EOS, PAD, source_length=len(SOURCE))
    made["net_input"]["src_tokens"] = torch.tensor([SOURCE] * len(targets))
    return made


def gradient_of(model, loss):
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)
    ]


def estimate(model, criterion, batch):
    """Of the mean reward of the batch's sentences, or of the sum of their cross-entropy."""
    loss, sample_size, _ = criterion(model, batch)
    return gradient_of(model, loss / (sample_size if criterion.settings.cost == "reward" else 1))


def estimate_of(model, criterion, monkeypatch, batch, *rows):
    """The estimate from given outcomes, whose probability must be that of their being drawn."""
    with monkeypatch.context() as patch:
        forced = Forced(patch, in_one_pass=criterion.settings.feed == "teacher")
        forced.draw_next(*rows)
        gradient = estimate(model, criterion, batch)
    exact = math.prod(float(row.probability.detach()) for row in rows)
    assert forced.probability == pytest.approx(exact, rel=1e-5)
    return gradient


def mean_estimate(model, criterion, monkeypatch, outcomes, batch):
    """Over all outcomes, or over all tuples of them."""
    total = [torch.zeros_like(p) for p in model.parameters()]
    mass = 0.0
    estimate(model, criterion, batch)  # the first batch shows whether there are layers
    for outcome in outcomes:
        rows = (outcome,) if isinstance(outcome, Outcome) else outcome
        probability = math.prod(float(row.probability.detach()) for row in rows)
        gradient = estimate_of(model, criterion, monkeypatch, batch, *rows)
        total = [sum_ + probability * g for sum_, g in zip(total, gradient, strict=True)]
        mass += probability
    assert mass == pytest.approx(1, abs=1e-12)
    return total


def expected_reward_cost(model, outcomes):
    return gradient_of(model, sum(o.probability * (1 - reward_of(o.tokens)) for o in outcomes))


def expected_cross_entropy(model, outcomes):
    return gradient_of(model, sum(-o.probability * o.log_likelihood for o in outcomes))


def assert_same(actual, expected):
    assert sum(float(g.norm()) for g in expected) > 1e-2, "a gradient of 0 would show nothing"
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


def drawn_by_layers(model, criterion, batch):
    """What a training step gave to ``decode`` for layers to draw into, and what it ends up with."""
    given = []
    decode = decoding.decode

    def watched(*arguments, layers=None, **keywords):
        given.append(layers)
        return decode(*arguments, layers=layers, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "decode", watched)
        estimate(model, criterion, batch)
    return given


decoders = pytest.mark.parametrize("decoder", ["recurrent", "parallel"])
