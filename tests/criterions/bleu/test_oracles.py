"""The oracles agree with each other before anything is held against them."""

import numpy as np
import oracles
import pytest
import sacrebleu
from cases import Sentence, random_sentence, sentences
from hypothesis import given
from hypothesis import strategies as st


@given(sentences(), st.integers(1, 4))
def test_enumeration_and_automaton_agree(sentence: Sentence, order: int):
    by_enumeration = sentence.expect(oracles.expected_overlap, order)
    by_automaton = sentence.expect(oracles.automaton_overlap, order)
    assert by_automaton == pytest.approx(by_enumeration, abs=1e-13)


@given(sentences())
def test_enumerated_probabilities_sum_to_one(sentence: Sentence):
    total = sum(p for _, p in oracles.enumerate_outputs(sentence.rows, sentence.eos))
    assert total == pytest.approx(1.0, abs=1e-12)


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=8),
    st.lists(st.integers(0, 2), min_size=1, max_size=8),
)
def test_counting_agrees_with_sacrebleu(hypothesis: list[int], reference: list[int]):
    score = sacrebleu.BLEU(tokenize="none", force=True).corpus_score(
        [" ".join(map(str, hypothesis))], [[" ".join(map(str, reference))]]
    )
    counts = [oracles.clipped_count(hypothesis, reference, n) for n in range(1, 5)]
    assert counts == score.counts


def test_enumerated_gradient_agrees_with_finite_differences():
    sentence = random_sentence(np.random.default_rng(3), 3, [0, 1, 0], words=2, ends=True)
    logits = np.log(sentence.rows)

    def value(z: np.ndarray) -> float:
        rows = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return oracles.expected_overlap(rows, sentence.eos, sentence.reference, 1)

    step = 1e-6
    numerical = np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        change = np.zeros_like(logits)
        change[index] = step
        numerical[index] = (value(logits + change) - value(logits - change)) / (2 * step)
    analytic = oracles.logit_gradient(
        lambda output: oracles.clipped_count(output, sentence.reference, 1),
        sentence.rows,
        sentence.eos,
    )
    np.testing.assert_allclose(analytic, numerical, atol=1e-9)
