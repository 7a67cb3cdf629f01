"""Repetition and BLEU by length, against counting by hand and the sacrebleu command."""

import json
import random
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu_command import sacrebleu_command

from recipes.errors import ConfigError
from recipes.schema.checks import check_evaluation
from recipes.schema.recipe import Evaluation
from recipes.scoring.comparison import compare, describe
from recipes.scoring.metrics import MetricOptions
from recipes.scoring.output_statistics import consecutive_repeats, length_buckets
from recipes.text import read_lines, write_lines

quick = settings(max_examples=60, deadline=None)
sentences = st.lists(st.lists(st.sampled_from("abc"), max_size=8), max_size=5)


@quick
@given(sentences)
def test_consecutive_repeats_are_what_is_left_when_neighbours_are_merged(corpus):
    tokens = sum(map(len, corpus))
    merged = sum(len(list(groupby(sentence))) for sentence in corpus)
    found = consecutive_repeats(corpus)
    assert found == pytest.approx(100 * (tokens - merged) / tokens if tokens else 0)


def test_consecutive_repeats_are_told_per_100_tokens_of_outputs_and_references():
    result = compare({"a": ["the the cat", "a b"]}, [["the cat sat", "a a"]])
    describe(result, {"a": ["the the cat", "a b"]}, [["the cat sat", "a a"]])
    assert result.systems["a"].consecutive_repeats_per_100_tokens == 20
    assert result.reference_consecutive_repeats_per_100_tokens == 20


def test_repetition_is_counted_in_the_words_of_bleu():
    def repeats(line, **options):
        return consecutive_repeats(MetricOptions(**options).tokens([line]))

    assert repeats("Yes yes yes.") == 100 * 1 / 4
    assert repeats("Yes yes yes.", lowercase=True) == 100 * 2 / 4
    assert repeats("好好", tokenize="zh") == 50


@quick
@given(
    st.lists(st.integers(0, 70), min_size=1, max_size=60),
    st.sets(st.integers(1, 60), min_size=1).map(sorted),
    st.integers(1, 20),
)
def test_buckets_part_the_sentences_by_length(lengths, bounds, smallest):
    buckets = length_buckets(lengths, bounds, smallest)
    positions = [position for bucket in buckets for position in bucket.positions]
    assert sorted(positions) == list(range(len(lengths)))
    for bucket in buckets:
        assert all(bucket.shortest <= lengths[i] <= bucket.longest for i in bucket.positions)
        assert len(bucket.positions) >= min(smallest, len(lengths))
    for shorter, longer in pairwise(buckets):
        assert longer.shortest == shorter.longest + 1
        assert shorter.longest in bounds


def test_small_buckets_are_merged_with_a_neighbour():
    lengths = [5] * 3 + [15] + [25] * 3 + [35] * 2

    def sizes(smallest):
        buckets = length_buckets(lengths, (10, 20, 30), smallest)
        return [(b.shortest, b.longest, len(b.positions)) for b in buckets]

    assert sizes(1) == [(1, 10, 3), (11, 20, 1), (21, 30, 3), (31, 35, 2)]
    assert sizes(3) == [(1, 10, 3), (11, 35, 6)]
    assert sizes(100) == [(1, 35, 9)]


def test_bleu_of_a_bucket_is_that_of_the_sacrebleu_command_on_its_lines(tmp_path, data_dir):
    reference = read_lines(data_dir / "train.en")
    rng = random.Random(1)
    other = [" ".join(line.split()[::-1]) for line in reference]
    system = [" ".join(w for w in line.split() if rng.random() > 0.1) for line in reference]
    options = MetricOptions(["bleu"], length_buckets=[10, 14], smallest_bucket=20)
    buckets = length_buckets([len(row) for row in options.tokens(reference)], [10, 14], 20)
    assert len(buckets) > 1
    references, systems = [reference, other], {"system": system}
    result = compare(systems, references, None, options)
    describe(result, systems, references, None, options)
    scores = result.systems["system"].length_buckets
    for bucket, found in zip(buckets, scores, strict=True):
        for name, lines in (("ref", reference), ("other", other), ("system", system)):
            write_lines(tmp_path / name, [lines[i] for i in bucket.positions])
        theirs = json.loads(
            sacrebleu_command(
                *(tmp_path / "ref", tmp_path / "other", "-i", tmp_path / "system"),
                *("-m", "bleu", "-w", "10"),
            )
        )
        assert found["bleu"] == pytest.approx(theirs["score"], abs=1e-9)


@pytest.mark.parametrize(("bounds", "smallest"), [((20, 10), 1), ((0, 5), 1), ((), 1), ((5,), 0)])
def test_impossible_buckets_are_refused(bounds, smallest):
    given = Evaluation(length_buckets=list(bounds), smallest_bucket=smallest)
    with pytest.raises(ConfigError, match=r"evaluation\.(length_buckets|smallest_bucket): "):
        check_evaluation(given)
