"""Decoding in a training step, against fairseq's generator and the model's distribution."""

from collections import Counter

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from fairseq_setup import ARCHITECTURES, FixedRows, evaluating, sample_of, setup

from fairseq_plugins.decoding import ForcedTokens, Sampling, decode, decode_limits, evaluation_mode


def decoded(built, batch, limit, **keywords):
    dictionary = built.task.target_dictionary
    size = batch["target"].size(0)
    limits = torch.full((size,), limit) if isinstance(limit, int) else limit
    net_input = batch["net_input"]
    eos, pad = dictionary.eos(), dictionary.pad()
    return decode(built.model, net_input, limits, eos=eos, pad=pad, **keywords)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_decoding_is_fairseqs_beam_search_of_one(corpus, learnt, arch):
    built = setup(corpus, arch, weights=learnt(arch))
    dictionary = built.task.target_dictionary
    sample = built.batch(*range(10))
    ended = set()
    for limit in (1, 3, 6, 12):
        ours = decoded(built, sample, limit)
        with evaluating(built):
            # fairseq's limit does not count </s>, with which it ends every sentence.
            generator = SequenceGenerator(
                [built.model], dictionary, beam_size=1, max_len_a=0, max_len_b=limit
            )
            theirs = generator.generate([built.model], sample)
        for index, hypotheses in enumerate(theirs):
            tokens = hypotheses[0]["tokens"][:limit].tolist()
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


def test_limits_grow_with_the_source():
    limits = decode_limits(torch.tensor([1, 4, 100]), ratio=1.5, longest=60)
    assert limits.tolist() == [11, 16, 60]


def exact_distribution(model, sample, limit, eos, pad):
    """Probability of every output of at most ``limit`` tokens: the chain rule, by full passes."""
    source = {key: sample["net_input"][key][:1] for key in ("src_tokens", "src_lengths")}
    complete, open_prefixes = {}, {(): 1.0}
    for step in range(limit):
        following = {}
        for prefix, probability in open_prefixes.items():
            fed = torch.tensor([[eos, *prefix]])
            output = model(**source, prev_output_tokens=fed)
            row = model.get_normalized_probs(output, log_probs=False)[0, -1].tolist()
            allowed = [v for v in range(len(row)) if v != pad and (v != eos or step > 0)]
            mass = sum(row[v] for v in allowed)
            for v in allowed:
                target = complete if v == eos or step + 1 == limit else following
                target[(*prefix, v)] = probability * row[v] / mass
        open_prefixes = following
    return complete


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_whole_sampled_outputs_have_the_models_probabilities(corpus, learnt, arch):
    built = setup(corpus, arch, weights=learnt(arch))
    dictionary = built.task.target_dictionary
    draws, limit = 6000, 2
    sample = built.batch(*[0] * draws)
    torch.manual_seed(11)
    ours = decoded(built, sample, limit, sampling=Sampling())
    counts = Counter(
        tuple(row[: int(length)])
        for row, length in zip(ours.tokens.tolist(), ours.emitted.tolist(), strict=True)
    )
    with evaluating(built), torch.no_grad():
        expected = exact_distribution(
            built.model, sample, limit, dictionary.eos(), dictionary.pad()
        )
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    assert set(counts) <= set(expected)
    # Pearson's statistic; outputs expected fewer than 5 times are one class.
    frequent = {output for output, p in expected.items() if p * draws >= 5}
    classes = [(counts[output], expected[output] * draws) for output in frequent]
    seen, wanted = (sum(column) for column in zip(*classes, strict=True))
    if draws - wanted >= 5:
        classes.append((draws - seen, draws - wanted))
    freedom = len(classes) - 1
    assert freedom >= 5, "too few classes to tell anything"
    chi_square = sum((got - mean) ** 2 / mean for got, mean in classes)
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


class Stub:
    """A ``FixedRows`` model where ``decoded`` looks for one."""

    def __init__(self, task, rows):
        self.task, self.model = task, FixedRows(rows)


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


@pytest.mark.parametrize("sampling", [None, Sampling()], ids=["greedy", "sample"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_prefix_is_forced_and_conditions_what_follows(corpus, learnt, arch, sampling):
    built = setup(corpus, arch, weights=learnt(arch))
    dictionary = built.task.target_dictionary
    batch = built.batch(*range(10))
    prefix = torch.randint(4, len(dictionary), (10, 2), generator=torch.manual_seed(3))
    ours = decoded(
        built,
        batch,
        8,
        sampling=sampling,
        forced=ForcedTokens(prefix, torch.ones_like(prefix, dtype=torch.bool)),
    )
    assert torch.equal(ours.tokens[:, :2], prefix)
    if sampling is None:
        with evaluating(built):
            generator = SequenceGenerator(
                [built.model], dictionary, beam_size=1, max_len_a=0, max_len_b=8
            )
            theirs = generator.generate([built.model], batch, prefix_tokens=prefix)
        for index, hypotheses in enumerate(theirs):
            length = int(ours.emitted[index])
            tokens = hypotheses[0]["tokens"][:8].tolist()
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
