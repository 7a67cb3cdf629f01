"""``paper`` is the published formula to the letter, including where it is not a bound."""

import numpy as np
import oracles
import pytest
from cases import Sentence, arguments, sentences
from hypothesis import assume, given
from hypothesis import strategies as st

from criterions import expected_overlap


def overlap(sentence: Sentence, order: int, value: str) -> float:
    inputs = arguments([sentence], extra_rows=1, extra_columns=2)
    return expected_overlap(order=order, value=value, **inputs).item()


@given(sentences(), st.integers(1, 4))
def test_paper_equals_the_published_formula(sentence: Sentence, order: int):
    expected = sentence.expect(oracles.paper_overlap, order)
    assert overlap(sentence, order, "paper") == pytest.approx(expected, abs=1e-12)


@given(sentences(ends=False), st.integers(1, 4))
def test_paper_is_a_lower_bound_for_single_ngrams_that_cannot_overlap_themselves(
    sentence: Sentence, order: int
):
    assume(oracles.published_theorem_holds(sentence.reference, order))
    exact = sentence.expect(oracles.expected_overlap, order)
    assert overlap(sentence, order, "paper") <= exact + 1e-12


def test_paper_exceeds_the_expectation_of_a_repeated_word():
    sentence = Sentence(np.full((3, 2), 0.5), (0, 0), None)
    assert overlap(sentence, 1, "paper") == pytest.approx(1.5, abs=1e-15)
    assert overlap(sentence, 1, "exact") == pytest.approx(1.375, abs=1e-15)
    assert sentence.expect(oracles.expected_overlap, 1) == pytest.approx(1.375, abs=1e-15)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_paper_exceeds_the_expectation_of_a_bigram_that_overlaps_itself(q: float):
    sentence = Sentence(np.array([[q, 1 - q]] * 3), (0, 0), None)
    assert overlap(sentence, 2, "paper") == pytest.approx(2 * q**2 / (1 + q**2), abs=1e-15)
    assert overlap(sentence, 2, "exact") == pytest.approx(2 * q**2 - q**3, abs=1e-15)
    assert overlap(sentence, 2, "paper") > overlap(sentence, 2, "exact")


def test_paper_exceeds_the_expectation_when_the_sentence_may_end():
    # Windows of a sentence of random length are no longer independent, even for one word.
    rows = np.array([[0.1, 0.0, 0.9], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    sentence = Sentence(rows, (0,), 2)
    assert oracles.published_theorem_holds(sentence.reference, 1)
    assert overlap(sentence, 1, "exact") == pytest.approx(0.1, abs=1e-15)
    assert overlap(sentence, 1, "paper") == pytest.approx(0.3 / 1.2, abs=1e-15)
