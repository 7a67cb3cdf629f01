"""The distribution of sampled outputs, against enumeration and full passes; and the work done."""

import math

import pytest
import torch
from decoded_outputs import (
    Stub,
    decoded,
    exact_distribution,
    fed_by,
    outputs_of,
    p_value,
    policy_logits,
)
from fairseq_setup import ARCHITECTURES, evaluating, sample_of, setup

from fairseq_plugins import decoding
from fairseq_plugins.decoding import Sampling, draw

LEAST_P = 1e-4


@pytest.fixture
def symbols(corpus):
    dictionary = setup(corpus).task.target_dictionary
    return {"eos": dictionary.eos(), "pad": dictionary.pad()}


def first_source(batch):
    """Of a batch in which it is the longest."""
    return {key: batch["net_input"][key][:1] for key in ("src_tokens", "src_lengths")}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_whole_sampled_outputs_have_the_models_probabilities(corpus, learnt, symbols, arch):
    built = setup(corpus, arch, weights=learnt(arch))
    draws, limit = 6000, 2
    sample = built.batch(3, 5)
    torch.manual_seed(11)
    ours = decoded(built, sample, limit, sampling=Sampling(), samples=draws)
    with evaluating(built), torch.no_grad():
        expected = exact_distribution(built.model, first_source(sample), limit, **symbols)
    assert p_value(outputs_of(ours)[:draws], expected) > LEAST_P


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_token_after_dropped_rows_and_a_forced_prefix_has_the_models_probabilities(
    corpus, learnt, symbols, arch, monkeypatch
):
    """The samples of one source end early, so that those of the other are moved."""
    monkeypatch.setattr(decoding, "_LARGEST_SHARE_TO_SELECT", 1.0)
    built = setup(corpus, arch, weights=learnt(arch))
    draws, prefix = 3000, torch.tensor([[7, 8], [9, 6]])
    sample = built.batch(3, 5)
    limits = torch.tensor([3] * draws + [4] * draws)
    limits[:draws:2] = 1
    torch.manual_seed(12)
    forced = prefix.repeat_interleave(draws, dim=0)
    ours = decoded(built, sample, limits, sampling=Sampling(), samples=draws, forced=forced)
    with evaluating(built), torch.no_grad():
        fed = torch.cat([torch.full_like(prefix[:, :1], symbols["eos"]), prefix], dim=1)
        net_input = {**sample["net_input"], "prev_output_tokens": fed}
        logits = policy_logits(built.model(**net_input)[0], **symbols)
        distributions = logits[:, 2].softmax(-1).tolist()
    drawn = ours.tokens[:, 2].tolist()
    assert p_value(drawn[1:draws:2], dict(enumerate(distributions[0]))) > LEAST_P
    assert p_value(drawn[draws:], dict(enumerate(distributions[1]))) > LEAST_P


def distribution_by_sorting(logits, temperature=1.0, topk=0, topp=1.0):
    """Token -> probability, a token at a time."""
    weights = {token: math.exp(value / temperature) for token, value in enumerate(logits)}
    ranking = sorted(weights, key=weights.get, reverse=True)
    if topk:
        ranking = ranking[:topk]
    mass, kept = sum(weights[token] for token in ranking), []
    for token in ranking:
        kept.append(token)
        if sum(weights[other] for other in kept) >= topp * mass:
            break
    mass = sum(weights[token] for token in kept)
    return {token: weights[token] / mass for token in kept}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.4},
        {"temperature": 3.0},
        {"topk": 1},
        {"topk": 5},
        {"topk": 5, "temperature": 2.0},
        {"topp": 0.01},
        {"topp": 0.7},
        {"topp": 0.7, "temperature": 2.0},
        {"topk": 6, "topp": 0.7},
        {"topk": 10_000},
    ],
    ids=str,
)
def test_temperature_top_k_and_top_p_have_their_distributions(corpus, symbols, options):
    task = setup(corpus).task
    vocab, draws = len(task.target_dictionary), 4000
    logits = torch.randn(vocab, generator=torch.manual_seed(21)) * 1.5
    batch = sample_of([[4]] * draws, **symbols)
    stub = Stub(task, logits.expand(draws, 1, vocab))
    ours = decoded(stub, batch, 1, sampling=Sampling(**options), min_length=0)
    logits[symbols["pad"]] = -math.inf
    expected = distribution_by_sorting(logits.tolist(), **options)
    drawn = ours.tokens[:, 0].tolist()
    if len(expected) == 1:
        assert set(drawn) == set(expected)
    else:
        assert p_value(drawn, expected) > LEAST_P


@pytest.mark.parametrize("vocab", [2, 3, 4, 5, 11, 12, 16, 40])
def test_tokens_are_drawn_by_their_probability_whatever_the_size_of_the_vocabulary(vocab):
    """Excluded tokens at the beginning, at the end and between are never drawn."""
    generator = torch.manual_seed(vocab)
    logits = torch.randn(vocab, generator=generator)
    if vocab > 5:
        logits[[0, 1, vocab // 2, -1]] = -math.inf
    drawn = draw(logits.repeat(4000, 1), Sampling())
    expected = logits.double().softmax(0).tolist()
    assert p_value(drawn.tolist(), dict(enumerate(expected))) > LEAST_P


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        draw(torch.full((2, 7), math.nan), Sampling())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_pass_over_the_samples_gives_the_distribution_they_were_drawn_from(
    corpus, learnt, symbols, arch, temperature, monkeypatch
):
    built = setup(corpus, arch, weights=learnt(arch))
    batch, samples = built.batch(*range(6)), 3
    steps = []

    def spy(logits, sampling):
        steps.append(logits.log_softmax(1))
        return draw(logits, sampling)

    monkeypatch.setattr(decoding, "draw", spy)
    monkeypatch.setattr(decoding, "_LARGEST_SHARE_TO_SELECT", 0.0)
    options = {"min_length": 2, "sampling": Sampling(temperature)}
    torch.manual_seed(2)
    ours = decoded(built, batch, 7, samples=samples, **options)
    tokens = ours.tokens.unsqueeze(2)
    collected = torch.stack(steps, dim=1).gather(2, tokens).squeeze(2)
    with evaluating(built):
        source = {
            key: batch["net_input"][key].repeat_interleave(samples, dim=0)
            for key in ("src_tokens", "src_lengths")
        }
        logits = built.model(**source, prev_output_tokens=fed_by(ours, symbols["eos"]))[0]
        distribution = policy_logits(logits, **symbols, min_length=2, temperature=temperature)
    recomputed = distribution.log_softmax(2).gather(2, tokens).squeeze(2)
    emitted = torch.arange(tokens.size(1)) < ours.emitted.unsqueeze(1)
    assert ours.ended.any()
    assert not ours.ended.all()
    assert recomputed[emitted].isfinite().all()
    torch.testing.assert_close(collected[emitted], recomputed[emitted].detach())


@pytest.mark.parametrize("stop", [True, False], ids=["stop", "go on"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_forced_tokens_stand_where_they_are_given_and_the_rest_is_the_models(
    corpus, learnt, symbols, arch, stop
):
    """Every other token is the most probable one given all before it, forced ones included."""
    built = setup(corpus, arch, weights=learnt(arch))
    batch, samples = built.batch(*range(6)), 2
    generator = torch.manual_seed(8)
    vocab = len(built.task.target_dictionary)
    forced = torch.randint(4, vocab, (12, 6), generator=generator)
    given = torch.rand(12, 6, generator=generator) < 0.4
    given[:, :2] = True
    forced = forced.masked_fill(~given, symbols["pad"])
    forced[1, 3] = symbols["eos"]
    options = {"samples": samples, "forced": forced, "stop_at_eos": stop}
    ours = decoded(built, batch, 9, **options)
    with evaluating(built), torch.no_grad():
        source = {
            key: batch["net_input"][key].repeat_interleave(samples, dim=0)
            for key in ("src_tokens", "src_lengths")
        }
        logits = built.model(**source, prev_output_tokens=fed_by(ours, symbols["eos"]))[0]
        wanted = policy_logits(logits, **symbols).argmax(2)
    wanted[:, :6] = torch.where(forced.ne(symbols["pad"]), forced, wanted[:, :6])
    emitted = torch.arange(ours.tokens.size(1)) < ours.emitted.unsqueeze(1)
    assert torch.equal(ours.tokens[emitted], wanted[emitted])
    assert ours.tokens[~emitted].eq(symbols["pad"]).all()
    if not stop:
        assert ours.emitted.eq(9).all()
    is_end = ours.tokens.eq(symbols["eos"])
    assert torch.equal(ours.ended, is_end.any(1))
    assert ours.ended.any()
    firsts = [row.index(True) if True in row else 9 for row in is_end.tolist()]
    assert ours.lengths.tolist() == firsts


def test_decoding_stops_with_the_longest_output(corpus, symbols):
    task = setup(corpus).task
    rows = torch.zeros(3, 50, len(task.target_dictionary))
    rows[:, :, 7] = 20.0
    for row, end in enumerate((2, 5, 3)):
        rows[row, end, symbols["eos"]] = 40.0
    stub, calls = Stub(task, rows), []
    stub.model.decoder.register_forward_hook(lambda *_: calls.append(1))
    batch = sample_of([[4]] * 3, **symbols)
    ours = decoded(stub, batch, 50)
    assert ours.emitted.tolist() == [3, 6, 4]
    assert len(calls) == ours.tokens.size(1) == 6
    decoded(stub, batch, 50, stop_at_eos=False)
    assert len(calls) == 6 + 50


def count_rows(built, monkeypatch):
    """Lists that get the number of rows of every call of encoder and decoder."""
    encoder_rows, decoder_rows = [], []
    encoder, decoder = built.model.encoder, built.model.decoder
    encode, step = encoder.forward, decoder.forward

    def counting_encoder(src_tokens, **keywords):
        encoder_rows.append(len(src_tokens))
        return encode(src_tokens, **keywords)

    def counting_decoder(fed, **keywords):
        decoder_rows.append(len(fed))
        return step(fed, **keywords)

    monkeypatch.setattr(encoder, "forward", counting_encoder)
    monkeypatch.setattr(decoder, "forward", counting_decoder)
    return encoder_rows, decoder_rows


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_samples_share_the_encoder_and_the_first_step(corpus, arch, monkeypatch):
    built = setup(corpus, arch)
    encoder_rows, decoder_rows = count_rows(built, monkeypatch)
    batch, options = built.batch(*range(4)), {"sampling": Sampling(), "samples": 5}
    decoded(built, batch, 3, min_length=9, **options)
    assert encoder_rows == [4]
    assert decoder_rows == [4, 20, 20]
    decoder_rows.clear()
    decoded(built, batch, 3, min_length=9, dropout=True, **options)
    assert decoder_rows == [20, 20, 20]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rows_that_have_ended_are_dropped_without_any_effect(corpus, learnt, arch, monkeypatch):
    built = setup(corpus, arch, weights=learnt(arch))
    _, decoder_rows = count_rows(built, monkeypatch)
    batch, limits = built.batch(*range(10)), torch.arange(20) % 13
    results = []
    for share in (0.0, 1.0):
        decoder_rows.clear()
        monkeypatch.setattr(decoding, "_LARGEST_SHARE_TO_SELECT", share)
        ours = decoded(built, batch, limits, samples=2)
        results.append((ours.tokens, ours.emitted, ours.ended, ours.lengths))
        if share:
            running = [int((ours.emitted > step).sum()) for step in range(1, len(decoder_rows))]
            assert decoder_rows[1:] == running
        else:
            assert set(decoder_rows[1:]) == {20}
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"temperature": 0.0}, "--sample-temperature"),
        ({"temperature": math.nan}, "--sample-temperature"),
        ({"temperature": math.inf}, "--sample-temperature"),
        ({"topk": -1}, "--sample-topk"),
        ({"topp": 0.0}, "--sample-topp"),
        ({"topp": 1.1}, "--sample-topp"),
    ],
    ids=str,
)
def test_sampling_out_of_range_is_refused_by_the_flags_name(options, flag):
    with pytest.raises(ValueError, match=f"^{flag} must be"):
        Sampling(**options)


def test_shapes_that_do_not_fit_are_refused(corpus):
    built = setup(corpus)
    batch = built.batch(0, 1, 2)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        decoded(built, batch, 3, samples=0)
    with pytest.raises(ValueError, match=r"limits must have 6 rows, 2 for each of 3 .*; got 2"):
        decoded(built, batch, torch.tensor([3, 3]), samples=2)
    with pytest.raises(ValueError, match=r"forced tokens must have 6 rows.*; got 4"):
        decoded(built, batch, 3, samples=2, forced=torch.full((4, 1), 5))
