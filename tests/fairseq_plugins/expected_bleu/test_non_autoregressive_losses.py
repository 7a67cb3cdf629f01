"""The losses beside expected BLEU are those of fairseq's ``nat_loss``."""

import copy
from pathlib import Path

import pytest
import torch
from fairseq.distributed import ModuleProxyWrapper
from fairseq_setup import evaluating, logged_metrics
from non_autoregressive_models import (
    FAMILIES,
    heads_of,
    learn,
    learnt_weights,
    logged_by,
    nat_setup,
    noisy,
)

from fairseq_plugins.expected_bleu import criterion as module

LENGTH_HEAD = {"decoder.embed_length.weight"}
OWN_PARAMETERS = {
    "levenshtein_transformer": {"decoder.embed_mask_ins.weight", "decoder.embed_word_del.weight"}
}
"""Parameters that only the other heads use, where these are not the length's."""
NAMES = {"length": "length_loss", "mask_ins": "mask_ins_loss", "word_del": "word_del_loss"}
"""nat_loss's names in the log, and ours."""


def pair(corpus, arch, flags=("--label-smoothing", 0.1), **options):
    """A model with ``nat_loss`` and the same with expected BLEU."""
    weights = learnt_weights(corpus, arch)
    return (
        nat_setup(corpus, arch, flags=flags, weights=weights, name="nat_loss"),
        nat_setup(corpus, arch, flags=flags, weights=weights, **options),
    )


def gradients(built, sample):
    torch.manual_seed(5)
    return built.gradient(copy.copy(sample))


def without_bleu(monkeypatch):
    def perfect(matches, *_, smoothing):
        return 1 + 0 * matches.sum(-1)

    monkeypatch.setattr(module, "bleu_from_statistics", perfect)


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("arch", FAMILIES)
def test_what_is_left_without_bleu_is_nat_loss(corpus, arch, sentence_avg, monkeypatch):
    fairseqs, ours = pair(corpus, arch, cross_entropy_weight=1.0, sentence_avg=sentence_avg)
    without_bleu(monkeypatch)
    sample = noisy(fairseqs, *range(20, 26))
    expected, expected_gradients, expected_log = gradients(fairseqs, sample)
    loss, actual_gradients, log = gradients(ours, sample)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(actual_gradients, expected_gradients, rtol=1e-4, atol=1e-5)

    expected, actual = (
        logged_metrics(built.criterion, log)
        for built, log in ((fairseqs, expected_log), (ours, log))
    )
    heads = NAMES.keys() & expected.keys()
    assert heads == ({"mask_ins", "word_del"} if arch in OWN_PARAMETERS else {"length"})
    for name in heads:
        assert actual[NAMES[name]] == pytest.approx(expected[name], abs=0.0011)
    assert actual["nll_loss"] == pytest.approx(expected["nll_loss"], abs=0.0011)
    assert actual["ppl"] == pytest.approx(2 ** expected["nll_loss"], rel=0.01)


@pytest.mark.parametrize("arch", FAMILIES)
def test_heads_of_their_own_get_the_gradient_of_nat_loss_whatever_the_weight(corpus, arch):
    fairseqs, ours = pair(corpus, arch, cross_entropy_weight=0.0)
    sample = noisy(fairseqs, *range(20, 26))
    expected, actual = (gradients(built, sample)[1] for built in (fairseqs, ours))
    for name in OWN_PARAMETERS.get(arch, LENGTH_HEAD):
        assert actual[name].abs().max() > 0
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("flags", [(), ("--left-pad-target",)], ids=["pad right", "pad left"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_ends_keep_their_loss_whatever_the_weight(corpus, weight, flags, monkeypatch):
    """The first pass says ``<s>`` and ``</s>`` itself; no word of the candidate is there."""
    arch, flags = "nonautoregressive_transformer", ("--label-smoothing", 0.1, *flags)
    weights = learnt_weights(corpus, arch)
    built = nat_setup(corpus, arch, flags=flags, weights=weights, cross_entropy_weight=weight)
    without_bleu(monkeypatch)
    sample = noisy(built, *range(20, 26))
    dictionary, heads = built.task.target_dictionary, heads_of(built, sample)
    target = sample["target"]
    assert target.eq(dictionary.pad()).any()
    losses = torch.nn.functional.cross_entropy(
        heads["word_ins"]["out"].transpose(1, 2), target, reduction="none", label_smoothing=0.1
    )
    ends = losses[target.eq(dictionary.bos()) | target.eq(dictionary.eos())]
    words = losses[target.ge(dictionary.nspecial)]
    assert (len(ends), len(ends) + len(words)) == (2 * 6, sample["ntokens"])
    length = torch.nn.functional.cross_entropy(heads["length"]["out"], heads["length"]["tgt"])
    factor = built.model.decoder.length_loss_factor
    expected = (weight * words.sum() + ends.sum()) / sample["ntokens"] + factor * length
    assert gradients(built, sample)[0] == pytest.approx(float(expected), rel=1e-5)


def test_words_of_two_batches_of_an_update_weigh_as_those_of_one(corpus, monkeypatch):
    """``--update-freq 2``: fairseq adds what two batches give, and divides by all tokens."""
    arch = "nonautoregressive_transformer"
    flags = ("--length-loss-factor", 0, "--label-smoothing", 0.1)
    weights = learnt_weights(corpus, arch)
    built = nat_setup(corpus, arch, flags=flags, weights=weights, cross_entropy_weight=0.3)
    without_bleu(monkeypatch)
    whole, *parts = (noisy(built, *indices) for indices in (range(20, 26), (20, 21), range(22, 26)))
    shares = [part["ntokens"] / whole["ntokens"] for part in parts]
    assert shares[0] != pytest.approx(2 / 6)
    each = [gradients(built, part)[1] for part in parts]
    together = {
        name: sum(share * part[name] for share, part in zip(shares, each, strict=True))
        for name in each[0]
    }
    expected = gradients(built, whole)[1]
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-6)


def test_without_label_smoothing_a_logit_may_be_minus_infinity(corpus, monkeypatch):
    """Of the words and of the lengths, as in a model that never says padding."""

    def never(function, index):
        def masked(*arguments, **options):
            return function(*arguments, **options).index_fill(-1, torch.tensor([index]), -torch.inf)

        return masked

    arch = "nonautoregressive_transformer"
    fairseqs, ours = pair(corpus, arch, flags=(), cross_entropy_weight=1.0)
    for built in (fairseqs, ours):
        decoder = built.model.decoder
        decoder.output_layer = never(decoder.output_layer, built.task.target_dictionary.pad())
        decoder.forward_length = never(decoder.forward_length, 0)
    sample = noisy(ours, *range(20, 26))
    loss, with_bleu, _ = gradients(ours, sample)
    assert 0 < loss < torch.inf
    assert all(gradient.isfinite().all() for gradient in with_bleu.values())
    without_bleu(monkeypatch)
    expected, expected_gradients, _ = gradients(fairseqs, sample)
    loss, actual_gradients, _ = gradients(ours, sample)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(actual_gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_the_length_factor_is_the_models(corpus):
    arch = "nonautoregressive_transformer"
    gradient = []
    for factor in (0.1, 0.3):
        built = nat_setup(
            corpus,
            arch,
            flags=("--length-loss-factor", factor),
            weights=learnt_weights(corpus, arch),
        )
        gradient.append(gradients(built, noisy(built, *range(6)))[1])
    for name in LENGTH_HEAD:
        torch.testing.assert_close(gradient[1][name], 3 * gradient[0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arch", FAMILIES)
def test_bleu_alone_trains_the_decoder(corpus, arch):
    built = nat_setup(corpus, arch, weights=learnt_weights(corpus, arch), cross_entropy_weight=0)
    sample = noisy(built, *range(20, 28))

    def score():
        with evaluating(built):
            return logged_metrics(built.criterion, logged_by(built, sample))["expected_bleu"]

    before = score()
    assert gradients(built, sample)[1]["decoder.layers.0.fc1.weight"].abs().max() > 0
    learn(built, sample, steps=15, learning_rate=0.002)
    assert score() > before + 0.5


@pytest.mark.parametrize("level", ["corpus", "sentence"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_the_gradient_is_the_slope_of_the_loss(corpus, arch, level, monkeypatch):
    """Along the gradient, by differences of the model in float64."""
    built = nat_setup(corpus, arch, weights=learnt_weights(corpus, arch), bleu_level=level)
    # fairseq's attention takes its softmax in float32 whatever the model.
    monkeypatch.setattr("fairseq.utils.softmax", lambda x, dim, onnx_trace=False: x.softmax(dim))
    built.model.double()
    sample = noisy(built, *range(6))
    gradient = gradients(built, sample)[1]
    name = "decoder.layers.0.fc2.weight"
    parameter = dict(built.model.named_parameters())[name]
    direction = gradient[name].double()
    direction /= direction.norm()
    start, losses = parameter.detach().clone(), []
    for step in (1e-5, -1e-5):
        parameter.data = start + step * direction
        torch.manual_seed(5)
        loss, sample_size, _ = built.criterion(built.model, copy.copy(sample))
        losses.append(float(loss.detach()) / sample_size)
    slope = (losses[0] - losses[1]) / 2e-5
    assert slope == pytest.approx(float((gradient[name].double() * direction).sum()), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("arch", FAMILIES)
def test_16_bits_are_near_float32(corpus, arch, dtype):
    full, half = (nat_setup(corpus, arch) for _ in range(2))
    half.model.to(dtype)
    sample = noisy(full, *range(20, 26))
    expected, _, _ = gradients(full, sample)
    loss, actual_gradients, logged = gradients(half, sample)
    assert loss == pytest.approx(expected, rel=0.03)
    assert logged["loss"].dtype == logged["expected_matches_1"].dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in actual_gradients.values())


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_criterion_reads_nothing_back_from_the_device(corpus, arch, monkeypatch):
    """What comes after the model's own pass; on a CPU exact overlaps look for repeated tokens."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "criterions")
    from host_reads import HostReads

    built = nat_setup(corpus, arch, label_smoothing=0.1, overlap="upper")
    sample = noisy(built, *range(6))
    heads = heads_of(built, sample)
    for head in heads.values():
        head["out"].requires_grad_()
    built.model.forward = lambda *_: heads
    with HostReads() as reads:
        built.criterion(built.model, sample)[0].backward()
    assert reads.operations == []
    assert all(head["out"].grad is not None for head in heads.values())


@pytest.mark.parametrize("feed", ["teacher", "greedy"])
def test_pytorchs_wrapper_gets_the_same_gradient(corpus, feed, lone_worker):
    arch = "nonautoregressive_transformer"
    built, wrapped = (
        nat_setup(corpus, arch, weights=learnt_weights(corpus, arch), feed=feed) for _ in range(2)
    )
    sample = noisy(built, *range(6))
    proxy = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(wrapped.model))
    for _ in range(2):
        expected = gradients(built, sample)[1]
        wrapped.model.zero_grad()
        loss, sample_size, _ = wrapped.criterion(proxy, copy.copy(sample))
        loss.backward()
        actual = {
            name: parameter.grad / sample_size
            for name, parameter in wrapped.model.named_parameters()
        }
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
