"""``exact`` is the expected clipped count, whatever the n-grams look like."""

import numpy as np
import oracles
import pytest
import torch
from cases import Sentence, arguments, one_hot_sentence, random_sentence, sentences
from hypothesis import example, given
from hypothesis import strategies as st

from criterions import expected_overlap

ORDERS = (1, 2, 3, 4)

# References on three words whose n-grams repeat (r >= 2), overlap themselves, or both.
REFERENCES = {
    "distinct": [0, 1, 2],
    "repeated word": [0, 1, 0, 2, 0],
    "repeated bigram": [0, 1, 2, 0, 1],
    "one word only": [0, 0, 0, 0, 0],
    "alternating": [0, 1, 0, 1, 0, 1],
    "period of three": [0, 0, 1, 0, 0, 1],
    "two periods": [0, 0, 1, 0, 0, 0],
    "one token": [1],
    "empty": [],
}


def assert_exact(sentence: Sentence, order: int, **padding: int) -> None:
    value = expected_overlap(order=order, value="exact", **arguments([sentence], **padding))
    assert value.shape == (1,)
    expected = sentence.expect(oracles.expected_overlap, order)
    assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES.keys())
def test_exact_equals_enumeration(reference: list[int], ends: bool):
    rng = np.random.default_rng(len(reference))
    for tgt_len in (1, 2, 3, 4, 5):
        sentence = random_sentence(rng, tgt_len, reference, ends=ends)
        for order in ORDERS:
            assert_exact(sentence, order)


@example(Sentence(np.full((3, 2), 0.5), (0, 0), None), 1)
@example(Sentence(np.full((3, 2), 0.5), (0, 0), None), 2)
@example(Sentence(np.zeros((0, 2)), (0, 0), None), 1)
@given(sentences(), st.sampled_from(ORDERS))
def test_exact_equals_enumeration_on_any_sentence(sentence: Sentence, order: int):
    assert_exact(sentence, order, extra_rows=2, extra_columns=3)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("order", ORDERS)
def test_exact_equals_the_automaton_on_longer_sentences(order: int, ends: bool):
    rng = np.random.default_rng(order)
    batch = [
        random_sentence(rng, tgt_len, rng.integers(0, words, ref_len), words=words, ends=ends)
        for tgt_len, ref_len in [(12, 10), (10, 12), (3, 9), (12, 2)]
        for words in [2]
    ]
    batch += [
        random_sentence(rng, 12, [0] * 10, words=2, ends=ends, sharpness=3.0),
        random_sentence(rng, 11, [0, 1] * 5, words=2, ends=ends, sharpness=0.2),
    ]
    values = expected_overlap(order=order, **arguments(batch, extra_rows=1, extra_columns=1))
    expected = [sentence.expect(oracles.automaton_overlap, order) for sentence in batch]
    np.testing.assert_allclose(values.numpy(), expected, rtol=0, atol=1e-12)


def test_exact_is_the_default():
    sentence = Sentence(np.full((3, 2), 0.5), (0, 0), None)
    assert expected_overlap(order=1, **arguments([sentence])).item() == pytest.approx(1.375)


@given(
    st.lists(st.integers(0, 2), max_size=9),
    st.lists(st.integers(0, 2), max_size=9),
    st.sampled_from(ORDERS),
)
def test_certain_rows_give_the_clipped_count(
    hypothesis: list[int], reference: list[int], order: int
):
    sentence = one_hot_sentence(hypothesis, reference, words=3)
    value = expected_overlap(order=order, **arguments([sentence], extra_rows=1))
    assert value.item() == oracles.clipped_count(hypothesis, reference, order)


@given(sentences(ends=False), st.sampled_from(ORDERS))
def test_end_probability_zero_means_fixed_length(sentence: Sentence, order: int):
    inputs = arguments([sentence], extra_rows=1)
    fixed = expected_overlap(order=order, **inputs)
    inputs["eos_probabilities"] = torch.zeros_like(inputs["p_ref"][:, :, :1].sum(-1))
    torch.testing.assert_close(expected_overlap(order=order, **inputs), fixed, rtol=0, atol=1e-13)


def test_lengths_default_to_the_full_width():
    rng = np.random.default_rng(0)
    batch = [random_sentence(rng, 4, [0, 1, 0, 1], ends=True) for _ in range(3)]
    inputs = arguments(batch)
    explicit = expected_overlap(order=2, **inputs)
    del inputs["lengths"], inputs["reference_lengths"]
    assert torch.equal(expected_overlap(order=2, **inputs), explicit)


@pytest.mark.parametrize("value", ["exact", "paper", "lower", "upper"])
@pytest.mark.parametrize(("tgt_len", "ref_len"), [(0, 3), (3, 0), (0, 0)])
def test_tensors_without_tokens_give_zero(tgt_len: int, ref_len: int, value: str):
    p_ref = torch.zeros(2, tgt_len, ref_len, dtype=torch.float64, requires_grad=True)
    references = torch.zeros(2, ref_len, dtype=torch.long)
    overlap = expected_overlap(p_ref, references, 1, value=value)
    assert overlap.tolist() == [0.0, 0.0]
