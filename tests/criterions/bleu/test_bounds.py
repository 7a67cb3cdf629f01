"""``lower <= exact <= upper`` everywhere, and neither bound is vacuous."""

import numpy as np
import oracles
import pytest
from cases import Sentence, arguments, one_hot_sentence, random_sentence, sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from criterions import expected_overlap

TOLERANCE = 1e-12


def overlap(sentence: Sentence, order: int, value: str) -> float:
    inputs = arguments([sentence], extra_rows=1, extra_columns=2)
    return expected_overlap(order=order, value=value, **inputs).item()


@settings(max_examples=200)
@given(sentences(), st.integers(1, 4))
def test_bounds_hold_against_enumeration(sentence: Sentence, order: int):
    exact = sentence.expect(oracles.expected_overlap, order)
    assert overlap(sentence, order, "lower") <= exact + TOLERANCE
    assert overlap(sentence, order, "upper") >= exact - TOLERANCE


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 14),
    st.integers(1, 14),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([0.3, 1.0, 3.0, 10.0]),
)
def test_bounds_hold_on_longer_sentences(
    seed: int, tgt_len: int, ref_len: int, words: int, ends: bool, sharpness: float
):
    rng = np.random.default_rng(seed)
    batch = [
        random_sentence(
            rng,
            tgt_len,
            rng.integers(0, words, ref_len),
            words=words,
            ends=ends,
            sharpness=sharpness,
        )
        for _ in range(8)
    ]
    for order in (1, 2, 3, 4):
        lower, exact, upper = (
            expected_overlap(order=order, value=value, **arguments(batch)).numpy()
            for value in ("lower", "exact", "upper")
        )
        assert (lower <= exact + TOLERANCE).all()
        assert (exact <= upper + TOLERANCE).all()


@given(sentences(), st.integers(1, 4))
def test_upper_is_the_clipped_expectation(sentence: Sentence, order: int):
    expected = sentence.expect(oracles.concave_overlap, order)
    assert overlap(sentence, order, "upper") == pytest.approx(expected, abs=TOLERANCE)


@given(sentences(), st.integers(1, 4))
def test_lower_bound_is_positive_where_the_expectation_is(sentence: Sentence, order: int):
    lower = overlap(sentence, order, "lower")
    exact = sentence.expect(oracles.expected_overlap, order)
    assert lower >= 0.0
    assert (lower > 0.0) == (exact > 0.0)


@given(
    st.permutations([0, 1, 2, 3, 4]),
    st.lists(st.integers(0, 4), min_size=1, max_size=7),
    st.integers(1, 4),
)
def test_bounds_are_tight_on_certain_rows_and_distinct_ngrams(
    reference: list[int], hypothesis: list[int], order: int
):
    sentence = one_hot_sentence(hypothesis, reference, words=5)
    count = oracles.clipped_count(hypothesis, reference, order)
    assert overlap(sentence, order, "lower") == pytest.approx(count, abs=TOLERANCE)
    assert overlap(sentence, order, "upper") == pytest.approx(count, abs=TOLERANCE)
