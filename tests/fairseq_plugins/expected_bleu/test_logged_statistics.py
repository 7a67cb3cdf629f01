"""The statistics that the criterion logs, against sentences one by one and plain loops."""

from collections import Counter

import pytest
import torch
from fairseq_setup import (
    ARCHITECTURES,
    FEEDS,
    FixedRows,
    evaluating,
    sample_of,
    sentences_of,
    setup,
    statistics_of,
)

from fairseq_plugins import decoding
from fairseq_plugins.decoding import DecodedTokens

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
LOWEST_ID_OF_A_WORD = 4  # after <s>, <pad>, </s>, <unk>


def mixed_lengths(built, subset="train"):
    """A batch with padding on both sides."""
    sample = built.batch(*range(6), subset=subset)
    pad = built.task.target_dictionary.pad()
    assert sample["target"].eq(pad).any()
    assert sample["net_input"]["src_tokens"][:, 0].eq(pad).any(), "the source is left-padded"
    return sample


def summed_one_by_one(built, sample):
    pad = built.task.target_dictionary.pad()
    return sum(statistics_of(built.log(sentence)) for sentence in sentences_of(sample, pad))


@pytest.mark.parametrize("feed", ["teacher", "greedy"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padding_never_counts(corpus, learnt, arch, feed):
    built = setup(corpus, arch, weights=learnt(arch), feed=feed)
    sample = mixed_lengths(built)
    batched = statistics_of(built.log(sample))
    torch.testing.assert_close(batched, summed_one_by_one(built, sample), **TOLERANCE)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padding_never_counts_around_a_sampled_prefix(corpus, learnt, arch, monkeypatch):
    built = setup(corpus, arch, weights=learnt(arch), feed="sample")
    sample = mixed_lengths(built)
    drawn = []

    def draw(*arguments, **keywords):
        drawn.append(module_decode(*arguments, **keywords))
        return drawn[-1]

    module_decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", draw)
    batched = statistics_of(built.log(sample))
    (batch,) = drawn
    assert batch.emitted.unique().numel() > 1, "sampled prefixes of one length test nothing"

    def replay(model, net_input, limits, **keywords):
        index = next(indices)
        one = slice(index, index + 1)
        length = int(batch.emitted[index])
        return DecodedTokens(
            batch.tokens[one, :length], batch.emitted[one], batch.ended[one], batch.lengths[one]
        )

    indices = iter(range(len(batch.emitted)))
    monkeypatch.setattr(decoding, "decode", replay)
    torch.testing.assert_close(batched, summed_one_by_one(built, sample), **TOLERANCE)


@pytest.mark.parametrize("feed", ["teacher", "greedy"])
def test_left_padded_targets_give_the_same(corpus, learnt, feed):
    values = []
    for flags in ((), ("--left-pad-target",)):
        built = setup(corpus, flags=flags, weights=learnt("transformer"), feed=feed)
        sample = built.batch(*range(6))
        pad = built.task.target_dictionary.pad()
        assert bool(sample["target"][:, 0].eq(pad).any()) == bool(flags)
        loss, gradients, logged = built.gradient(sample)
        values.append([torch.tensor(loss), statistics_of(logged), *gradients.values()])
    torch.testing.assert_close(*values, **TOLERANCE)


def plain_statistics(rows, target, eos, overlap, expected_length, count_eos):
    """Matches and totals of orders 1 and 2, and the lengths, from the definitions.

    Args:
        rows: probabilities, a list of floats for each position, the last of which is that of
            ``</s>``.
        target: word ids, without ``</s>``.
    """
    count = len(rows) if expected_length or count_eos else len(rows) - 1
    target = [*target, eos] if count_eos else target
    alive = [1.0]  # alive[i]: no </s> at the positions before i
    for row in rows[:count]:
        alive.append(alive[-1] * (1 - row[eos] if expected_length else 1))
    tokens = alive[:-1] if count_eos else alive[1:]  # probability of a token at each position
    matches, totals = [], []
    for order in (1, 2):
        totals.append(sum(tokens[order - 1 :]))
        windows = zip(*(target[start:] for start in range(order)), strict=False)
        overlapping = 0.0
        for ngram, times in Counter(windows).items():
            if any(token < LOWEST_ID_OF_A_WORD and token != eos for token in ngram):
                continue
            hits = []
            for i in range(count - order + 1):
                hit = alive[i]
                for offset, token in enumerate(ngram):
                    hit *= rows[i + offset][token]
                hits.append(hit)
            if overlap == "upper":
                overlapping += min(sum(hits), times)
            elif expected_length and ngram[-1] == eos:
                overlapping += sum(hits)  # it occurs once at most
            else:
                overlapping += sum(
                    hit * min(1, times / (1 + sum(hits[:i]) + sum(hits[i + 1 :])))
                    for i, hit in enumerate(hits)
                )
        matches.append(overlapping)
    return [*matches, *totals, sum(tokens), len(target)]


@pytest.mark.parametrize("sentence_end", ["ngram", "ignore"])
@pytest.mark.parametrize("hypothesis_length", ["expected", "fixed"])
@pytest.mark.parametrize("overlap", ["upper", "paper"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_teacher_forced_statistics_are_those_of_plain_loops(
    corpus, learnt, arch, overlap, hypothesis_length, sentence_end
):
    built = setup(
        corpus,
        arch,
        weights=learnt(arch),
        overlap=overlap,
        hypothesis_length=hypothesis_length,
        sentence_end=sentence_end,
        max_order=2,
    )
    dictionary = built.task.target_dictionary
    sample = built.batch(*range(6), subset="test")
    assert sample["target"].eq(dictionary.unk()).any()
    expected = []
    for sentence in sentences_of(sample, dictionary.pad()):
        output = built.model(**sentence["net_input"])
        rows = built.model.get_normalized_probs(output, log_probs=False)[0].tolist()
        *words, last = sentence["target"][0].tolist()
        assert last == dictionary.eos()
        plain = plain_statistics(
            rows,
            words,
            dictionary.eos(),
            overlap,
            hypothesis_length == "expected",
            sentence_end == "ngram",
        )
        expected.append(torch.tensor(plain, dtype=torch.float64))
    logged = built.log(sample)
    names = [f"expected_{kind}_{order}" for kind in ("matches", "totals") for order in (1, 2)]
    names += ["expected_length", "reference_length"]
    actual = torch.stack([logged[name].double() for name in names])
    torch.testing.assert_close(actual, sum(expected), **TOLERANCE)
    assert "expected_matches_3" not in logged


@pytest.mark.parametrize("symbol", ["bos", "unk"])
@pytest.mark.parametrize("overlap", ["exact", "paper", "lower", "upper"])
def test_special_symbols_never_match(corpus, symbol, overlap):
    built = setup(corpus, overlap=overlap, hypothesis_length="fixed", sentence_end="ignore")
    dictionary = built.task.target_dictionary
    special = getattr(dictionary, symbol)()
    first, last = LOWEST_ID_OF_A_WORD, LOWEST_ID_OF_A_WORD + 1
    # The model is sure to say "first special last", which is the reference to the letter.
    rows = torch.full((1, 4, len(dictionary)), -200.0)
    rows[0, range(4), [first, special, last, dictionary.eos()]] = 0.0
    sample = sample_of([[first, special, last]], dictionary.eos(), dictionary.pad())
    logged = built.criterion(FixedRows(rows), sample)[2]
    expected = torch.tensor([2, 0, 0, 0, 3, 2, 1, 0, 3, 3], dtype=torch.float64)
    torch.testing.assert_close(statistics_of(logged), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("sentence_end", "statistics"),
    [("ignore", [2, 1, 0, 0, 2, 1, 0, 0, 2, 4]), ("ngram", [3, 1, 0, 0, 3, 2, 1, 0, 3, 5])],
)
@pytest.mark.parametrize("overlap", ["exact", "paper", "lower", "upper"])
@pytest.mark.parametrize("feed", FEEDS)
def test_nothing_counts_after_the_end_of_the_sentence(
    corpus, feed, overlap, sentence_end, statistics
):
    built = setup(corpus, feed=feed, overlap=overlap, sentence_end=sentence_end)
    dictionary = built.task.target_dictionary
    eos = dictionary.eos()
    a, b, c = range(LOWEST_ID_OF_A_WORD, LOWEST_ID_OF_A_WORD + 3)
    # The model is sure to say "a b" and to end there; after that its rows repeat the reference.
    rows = torch.full((1, 12, len(dictionary)), -50.0)
    rows[0, range(12), [a, b, eos, c, a, b, c, a, b, c, a, b]] = 50.0
    sample = sample_of([[a, b, c, a]], eos, dictionary.pad())
    logged = built.criterion(FixedRows(rows), sample)[2]
    expected = torch.tensor(statistics, dtype=torch.float64)
    torch.testing.assert_close(statistics_of(logged), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("prefix", [1, 4, 6])
def test_an_ignored_prefix_counts_nowhere(corpus, learnt, feed, prefix):
    built = setup(
        corpus, weights=learnt("transformer"), feed=feed, ignore_prefix_size=prefix, max_order=4
    )
    sample = built.batch(*range(6))
    dictionary = built.task.target_dictionary
    tokens = sample["target"].ne(dictionary.pad()).sum(1)
    with evaluating(built):
        batched = statistics_of(built.log(sample))
        one_by_one = summed_one_by_one(built, sample)
    torch.testing.assert_close(batched, one_by_one, **TOLERANCE)
    counted = (tokens - prefix).clamp(min=0).sum()
    assert batched[-1] == counted
    if feed == "teacher":
        assert batched[-2] <= counted, "longer than its positions"


@pytest.mark.parametrize("feed", FEEDS)
def test_a_prefix_longer_than_every_sentence_is_refused_in_training_alone(corpus, feed):
    built = setup(corpus, feed=feed, ignore_prefix_size=20)
    sample = built.batch(0, 1, 2)
    tokens = sample["target"].size(1)
    with pytest.raises(ValueError, match=f"--ignore-prefix-size 20 .* has {tokens} tokens"):
        built.criterion(built.model, sample)
    with evaluating(built):
        logged = built.log(sample)
    assert torch.isfinite(logged["loss"])
    assert float(logged["reference_length"]) == 0
    if feed == "teacher":
        assert float(logged["expected_length"]) == 0


def test_a_target_without_end_of_sentence_has_a_row_per_word(corpus, learnt):
    built = setup(corpus, weights=learnt("transformer"))
    dictionary = built.task.target_dictionary
    sample = built.batch(*range(6))
    target = sample["target"]
    words = target.ne(dictionary.pad()).sum(1) - 1
    target[target.eq(dictionary.eos())] = dictionary.pad()
    sample["net_input"]["prev_output_tokens"][target.eq(dictionary.pad())] = dictionary.pad()
    logged = built.log(sample)
    torch.testing.assert_close(statistics_of(logged), summed_one_by_one(built, sample), **TOLERANCE)
    assert float(logged["expected_length"]) <= float(words.sum())
