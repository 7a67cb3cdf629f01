"""Decoding in a training step, against fairseq's generator."""

import pytest
import torch
from decoded_outputs import Stub, decoded
from fairseq.sequence_generator import SequenceGenerator
from fairseq_setup import ARCHITECTURES, evaluating, sample_of, setup

from fairseq_plugins.decoding import Sampling, decode_limits, evaluation_mode


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_decoding_is_fairseqs_beam_search_of_one(corpus, learnt, arch, samples):
    built = setup(corpus, arch, weights=learnt(arch))
    dictionary = built.task.target_dictionary
    sample = built.batch(*range(10))
    ended = set()
    for limit in (1, 3, 6, 12):
        ours = decoded(built, sample, limit, samples=samples)
        with evaluating(built):
            # fairseq's limit does not count </s>, with which it ends every sentence.
            generator = SequenceGenerator(
                [built.model], dictionary, beam_size=1, max_len_a=0, max_len_b=limit
            )
            theirs = generator.generate([built.model], sample)
        assert len(ours.tokens) == samples * len(theirs)
        for index in range(samples * len(theirs)):
            tokens = theirs[index // samples][0]["tokens"][:limit].tolist()
            length = int(ours.emitted[index])
            assert ours.tokens[index, :length].tolist() == tokens
            assert bool(ours.ended[index]) == (tokens[-1] == dictionary.eos())
            assert int(ours.lengths[index]) == len([t for t in tokens if t != dictionary.eos()])
            assert ours.tokens[index, length:].eq(dictionary.pad()).all()
        ended.update(ours.ended.tolist())
    assert ended == {True, False}, "some sentences have to end by themselves, others not"


def test_every_sentence_has_its_own_limit(corpus):
    built = setup(corpus)
    sample = built.batch(*range(4))
    ours = decoded(built, sample, torch.tensor([2, 5, 3, 1]), min_length=9)
    assert ours.emitted.tolist() == [2, 5, 3, 1]
    assert not ours.ended.any()
    assert ours.tokens.ne(built.task.target_dictionary.pad()).sum(1).tolist() == [2, 5, 3, 1]


def test_every_sample_may_have_its_own_limit(corpus):
    built = setup(corpus)
    limits = torch.tensor([2, 5, 0, 3, 1, 4])
    ours = decoded(built, built.batch(0, 1), limits, samples=3, min_length=9)
    assert ours.emitted.tolist() == limits.tolist()
    assert ours.tokens.size(1) == 5


def test_limits_grow_with_the_source():
    limits = decode_limits(torch.tensor([1, 4, 100]), ratio=1.5, longest=60)
    assert limits.tolist() == [11, 16, 60]


@pytest.mark.parametrize("sampling", [None, Sampling()], ids=["greedy", "sample"])
def test_padding_is_never_emitted_and_the_end_never_first(corpus, sampling):
    task = setup(corpus).task
    dictionary = task.target_dictionary
    eos, pad = dictionary.eos(), dictionary.pad()
    rows = torch.zeros(50, 6, len(dictionary))
    rows[:, :, 7] = 20.0
    rows[:, :, eos] = 40.0
    rows[:, :, pad] = 60.0
    batch = sample_of([[4, 5]] * 50, eos, pad)
    ours = decoded(Stub(task, rows), batch, 6, sampling=sampling)
    assert ours.tokens.tolist() == [[7, eos]] * 50
    assert ours.lengths.tolist() == [1] * 50
    later = decoded(Stub(task, rows), batch, 6, sampling=sampling, min_length=3)
    assert later.tokens.tolist() == [[7, 7, 7, eos]] * 50


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("sampling", [None, Sampling()], ids=["greedy", "sample"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_prefix_is_forced_and_conditions_what_follows(corpus, learnt, arch, sampling, samples):
    built = setup(corpus, arch, weights=learnt(arch))
    dictionary = built.task.target_dictionary
    batch = built.batch(*range(10))
    prefix = torch.randint(4, len(dictionary), (10, 2), generator=torch.manual_seed(3))
    forced = prefix.repeat_interleave(samples, dim=0)
    ours = decoded(built, batch, 8, sampling=sampling, samples=samples, forced=forced)
    assert torch.equal(ours.tokens[:, :2], forced)
    if sampling is None:
        with evaluating(built):
            generator = SequenceGenerator(
                [built.model], dictionary, beam_size=1, max_len_a=0, max_len_b=8
            )
            theirs = generator.generate([built.model], batch, prefix_tokens=prefix)
        for index in range(samples * len(theirs)):
            length = int(ours.emitted[index])
            tokens = theirs[index // samples][0]["tokens"][:8].tolist()
            assert ours.tokens[index, :length].tolist() == tokens


def test_every_module_gets_its_mode_back(corpus):
    model = setup(corpus).model
    model.encoder.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert set(modes.values()) == {True, False}

    def inside():
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_recurrent_modules_keep_training_without_their_dropout(corpus, learnt):
    flags = ("--encoder-layers", 2, "--decoder-layers", 2, "--dropout", 0.5)
    built = setup(corpus, "lstm", flags=flags)
    model, net_input = built.model, built.batch(*range(4))["net_input"]
    lstm = model.encoder.lstm
    assert lstm.dropout == 0.5
    with evaluation_mode(model), torch.no_grad():
        wanted = model(**net_input)[0]
    with evaluation_mode(model, keep_recurrent=True):
        assert [module for module in model.modules() if module.training] == [lstm]
        logits = model(**net_input)[0]
        logits.sum().backward()
    assert torch.equal(logits, wanted)
    assert lstm.dropout == 0.5
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_dropout_on_request_is_that_of_the_models_mode(corpus, learnt, arch):
    built = setup(corpus, arch, flags=("--dropout", 0.5), weights=learnt(arch))
    batch = built.batch(*range(10))
    without = decoded(built, batch, 10, samples=2)
    torch.manual_seed(5)
    several = [decoded(built, batch, 10, samples=2, dropout=True).tokens.tolist() for _ in "ab"]
    assert several[0] != several[1]
    assert several[0][::2] != several[0][1::2], "the samples have their own dropout in the decoder"
    with evaluating(built):
        assert torch.equal(
            decoded(built, batch, 10, samples=2, dropout=True).tokens, without.tokens
        )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_decoding_is_without_dropout_and_without_gradient(corpus, learnt, arch):
    outputs = []
    for dropout in (0.0, 0.5):
        flags = ("--dropout", dropout)
        built = setup(corpus, arch, flags=flags, weights=learnt(arch))
        assert built.model.training
        ours = decoded(built, built.batch(*range(10)), 10)
        assert built.model.training
        assert all(parameter.grad is None for parameter in built.model.parameters())
        outputs.append(ours.tokens)
    assert torch.equal(*outputs)


def test_fairseqs_way_without_gradient_is_not_taken_in_passes_with_gradient():
    """Layers of fairseq 0.12.2 ask whether they were trained since they were loaded."""
    layer = torch.nn.Linear(1, 1)
    layer.ever_training = False
    with evaluation_mode(layer):
        assert not layer.ever_training
    with evaluation_mode(layer, keep_recurrent=True):
        assert layer.ever_training
