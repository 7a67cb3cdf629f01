"""The cross-entropy part against fairseq's ``label_smoothed_cross_entropy``."""

import pytest
import torch
from fairseq_setup import ARCHITECTURES, setup


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_it_is_fairseqs_own(corpus, learnt, arch, label_smoothing, prefix):
    options = {"label_smoothing": label_smoothing, "ignore_prefix_size": prefix}
    fairseqs = setup(
        corpus, arch, name="label_smoothed_cross_entropy", weights=learnt(arch), **options
    )
    sample = fairseqs.batch(*range(20, 26))
    assert sample["target"].eq(fairseqs.task.target_dictionary.pad()).any()
    loss, gradients, logged = fairseqs.gradient(sample)

    with_it, without = (
        setup(corpus, arch, weights=learnt(arch), cross_entropy_weight=weight, **options)
        for weight in (1.0, 0.0)
    )
    both, both_gradients, both_logged = with_it.gradient(sample)
    bleu, bleu_gradients, bleu_logged = without.gradient(sample)
    assert both - bleu == pytest.approx(loss, rel=1e-5)
    assert float(both_logged["nll_loss"]) == pytest.approx(float(logged["nll_loss"]), rel=1e-5)
    assert float(both_logged["loss"] - bleu_logged["loss"]) == pytest.approx(
        float(logged["loss"]), rel=1e-5
    )
    difference = {name: both_gradients[name] - bleu_gradients[name] for name in gradients}
    torch.testing.assert_close(difference, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feed", ["greedy", "sample"])
def test_its_rows_are_teacher_forced_whatever_is_fed(corpus, learnt, feed):
    weights = learnt("transformer")
    fairseqs = setup(corpus, name="label_smoothed_cross_entropy", weights=weights)
    sample = fairseqs.batch(*range(20, 26))
    built = setup(corpus, weights=weights, feed=feed, cross_entropy_weight=0.5)
    expected = float(fairseqs.gradient(sample)[2]["nll_loss"])
    assert float(built.gradient(sample)[2]["nll_loss"]) == pytest.approx(expected, rel=1e-5)
