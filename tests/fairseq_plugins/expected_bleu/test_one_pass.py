"""Reference and own output as one pass of the model give what two passes give."""

import pytest
import torch
from fairseq_setup import ARCHITECTURES, setup

from fairseq_plugins.expected_bleu import autoregressive


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("feed", ["greedy", "sample"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_losses_logs_and_gradients_are_those_of_two_passes(
    corpus, learnt, arch, feed, prefix, training, monkeypatch
):
    options = {"feed": feed, "ignore_prefix_size": prefix, "max_decode_length": 9}
    built = setup(corpus, arch, weights=learnt(arch), label_smoothing=0.1, **options)
    compare(built, training, monkeypatch)


@pytest.mark.parametrize("left", [True, False], ids=["padding left", "padding right"])
def test_targets_may_have_their_padding_on_either_side(corpus, learnt, left, monkeypatch):
    built = setup(corpus, weights=learnt("transformer"), feed="greedy")
    built.batch(0)
    built.task.dataset("train").left_pad_target = left
    pad = built.task.target_dictionary.pad()
    assert built.batch(*range(6))["target"][:, 0].eq(pad).any() == left
    compare(built, True, monkeypatch)


def test_a_model_in_half_precision_gives_the_same(corpus, learnt, monkeypatch):
    built = setup(corpus, weights=learnt("transformer"), feed="greedy")
    built.model.bfloat16()
    compare(built, True, monkeypatch, atol=2e-2, rtol=5e-2)


def compare(built, training, monkeypatch, **tolerance):
    tolerance = tolerance or {"atol": 1e-6, "rtol": 1e-4}
    built.model.train(training)
    built.criterion.train(training)
    sample, results, encoded = built.batch(*range(6)), [], []
    built.model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    for together in (True, False):
        monkeypatch.setattr(autoregressive, "decodes_in_pieces", lambda _, own=together: own)
        torch.manual_seed(5)
        encoded.clear()
        results.append((*built.gradient(sample), len(encoded)))
    (loss, gradients, log, passes), (other_loss, other_gradients, other_log, other) = results
    assert passes + 1 == other
    torch.testing.assert_close(loss, other_loss, **tolerance)
    torch.testing.assert_close(gradients, other_gradients, **tolerance)
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())
    for name in log:
        torch.testing.assert_close(log[name], other_log[name], msg=name, **tolerance)
