"""``count_eos`` makes ``</s>`` a token of the hypothesis and of the reference."""

import numpy as np
import oracles
import pytest
import torch
from cases import Sentence, arguments, random_sentence, sentences
from hypothesis import given
from hypothesis import strategies as st

from criterions import expected_bleu, expected_overlap, expected_statistics

ORDERS = (1, 2, 3, 4)


def with_end(sentence: Sentence, output: tuple[int, ...]) -> tuple[int, ...]:
    """An output of enumeration with its ``</s>``; one of full length was not ended."""
    return (*output, sentence.eos) if len(output) < len(sentence.rows) else output


def enumerated(sentence: Sentence, order: int) -> tuple[float, float, float]:
    """Expected clipped count, expected number of n-grams and expected length."""
    reference = (*sentence.reference, sentence.eos)
    statistics = (
        lambda output: oracles.clipped_count(output, reference, order),
        lambda output: max(len(output) - order + 1, 0),
        len,
    )
    return tuple(
        oracles.expectation(
            lambda output, s=statistic: s(with_end(sentence, output)), sentence.rows, sentence.eos
        )
        for statistic in statistics
    )


@given(sentences(ends=True), st.sampled_from(ORDERS))
def test_statistics_equal_enumeration(sentence: Sentence, order: int):
    inputs = arguments([sentence], extra_rows=2, extra_columns=3)
    statistics = expected_statistics(max_order=order, count_eos=True, **inputs)
    count, total, length = enumerated(sentence, order)
    assert statistics.matches[0, -1].item() == pytest.approx(count, abs=1e-12)
    assert statistics.totals[0, -1].item() == pytest.approx(total, abs=1e-12)
    assert statistics.hypothesis_length.item() == pytest.approx(length, abs=1e-12)
    assert statistics.reference_length.item() == len(sentence.reference) + 1
    overlap = expected_overlap(order=order, count_eos=True, **inputs)
    assert overlap.item() == pytest.approx(count, abs=1e-12)


@pytest.mark.parametrize("value", ["lower", "upper"])
def test_bounds_hold(value: str):
    rng = np.random.default_rng(3)
    sign = 1 if value == "upper" else -1
    for _ in range(30):
        sentence = random_sentence(rng, 5, rng.integers(0, 2, 4), words=2, ends=True)
        for order in ORDERS:
            bound = expected_overlap(
                order=order, value=value, count_eos=True, **arguments([sentence])
            )
            assert sign * (bound.item() - enumerated(sentence, order)[0]) >= -1e-12


def test_gradient_equals_that_of_enumeration():
    """The derivative of an expectation to the logits, by enumeration of all outputs."""
    sentence = random_sentence(np.random.default_rng(7), 4, (0, 1, 0), words=2, ends=True)
    reference = (*sentence.reference, sentence.eos)
    logits = torch.tensor(np.log(sentence.rows), requires_grad=True)
    probabilities = logits.softmax(-1)
    for order in ORDERS:
        overlap = expected_overlap(
            probabilities[None][:, :, list(sentence.reference)],
            torch.tensor([sentence.reference]),
            order,
            eos_probabilities=probabilities[None, :, sentence.eos],
            count_eos=True,
        )
        (gradient,) = torch.autograd.grad(overlap.sum(), logits, retain_graph=True)
        expected = oracles.logit_gradient(
            lambda output, n=order: oracles.clipped_count(with_end(sentence, output), reference, n),
            sentence.rows,
            sentence.eos,
        )
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-12)


def test_gradcheck_through_saturated_ends():
    probabilities = torch.tensor(
        [[[0.5, 0.3], [0.2, 0.6], [0.0, 0.0]], [[0.1, 0.2], [0.0, 0.0], [0.3, 0.3]]],
        dtype=torch.float64,
        requires_grad=True,
    )
    ends = torch.tensor([[0.1, 0.0, 1.0], [0.5, 1.0, 0.2]], dtype=torch.float64)

    def score(p_ref: torch.Tensor) -> torch.Tensor:
        return expected_bleu(
            p_ref, torch.tensor([[0, 1], [1, 0]]), eos_probabilities=ends, count_eos=True
        )

    assert torch.autograd.gradcheck(score, probabilities)


def test_count_eos_needs_its_probabilities():
    with pytest.raises(ValueError, match="count_eos needs eos_probabilities"):
        expected_bleu(torch.full((1, 2, 2), 0.5), torch.tensor([[0, 1]]), count_eos=True)
