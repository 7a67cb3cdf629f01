"""GLEU is the smaller of precision and recall of all n-grams of orders 1 to 4."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from criterions import BleuStatistics, counted_statistics, gleu, gleu_from_statistics

tokens = st.lists(st.integers(0, 4), max_size=10)
pairs = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=4)


def naive_gleu(hypothesis: list[int], reference: list[int], max_order: int) -> float:
    """Precision and recall by counting n-grams of all orders in one bag."""

    def bag(sentence: list[int]) -> Counter:
        return Counter(
            tuple(sentence[start : start + order])
            for order in range(1, max_order + 1)
            for start in range(len(sentence) - order + 1)
        )

    of_hypothesis, of_reference = bag(hypothesis), bag(reference)
    common = sum((of_hypothesis & of_reference).values())
    if not hypothesis or not reference:
        return 0.0
    return min(common / sum(of_hypothesis.values()), common / sum(of_reference.values()))


def padded(lists: list[list[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of equal length; what fills them up is a token like any other."""
    width = max(map(len, lists)) + padding
    rows = [row + [row[0] if row else 0] * (width - len(row)) for row in lists]
    tensor = torch.tensor(rows, dtype=torch.long).reshape(len(lists), width)
    return tensor, torch.tensor([len(row) for row in lists])


@example(batch=[([], [])], max_order=4)
@example(batch=[([], [1]), ([1], []), ([1], [1])], max_order=4)
@example(batch=[([1, 1, 1], [1])], max_order=1)
@given(batch=pairs, max_order=st.integers(1, 5))
def test_gleu_equals_its_definition(batch: list[tuple[list[int], list[int]]], max_order: int):
    hypotheses, lengths = padded([h for h, _ in batch], 1)
    references, reference_lengths = padded([y for _, y in batch], 2)
    scores = gleu(
        hypotheses,
        references,
        lengths=lengths,
        reference_lengths=reference_lengths,
        max_order=max_order,
    )
    expected = [naive_gleu(h, y, max_order) for h, y in batch]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)


@given(tokens.filter(len), tokens.filter(len))
def test_hypothesis_and_reference_may_change_places(first: list[int], second: list[int]):
    a, b = torch.tensor([first]), torch.tensor([second])
    assert gleu(a, b).item() == gleu(b, a).item()


@given(tokens.filter(len))
def test_the_reference_itself_scores_one_whatever_its_length(sentence: list[int]):
    assert gleu(torch.tensor([sentence]), torch.tensor([sentence])).item() == 1


def test_no_columns_at_all_score_zero():
    nothing, something = torch.zeros(2, 0, dtype=torch.long), torch.ones(2, 3, dtype=torch.long)
    for hypotheses, references in ((nothing, something), (something, nothing), (nothing, nothing)):
        assert gleu(hypotheses, references).tolist() == [0, 0]


def test_statistics_keep_leading_dimensions_and_dtype():
    generator = np.random.default_rng(3)
    hypotheses = torch.tensor(generator.integers(0, 3, (6, 7)))
    references = torch.tensor(generator.integers(0, 3, (6, 5)))
    statistics = counted_statistics(hypotheses, references)
    folded = BleuStatistics(*(item.reshape(2, 3, *item.shape[1:]).double() for item in statistics))
    scores = gleu_from_statistics(folded)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores.float(), gleu(hypotheses, references).reshape(2, 3))


def test_expected_statistics_get_a_gradient():
    matches = torch.tensor([[2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    totals = torch.tensor([[6.0, 5.0]], dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([6.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda m, t: gleu_from_statistics(BleuStatistics(m, t, *lengths)), (matches, totals)
    )


@pytest.mark.parametrize("max_order", [0, True, 1.5])
def test_an_order_that_is_none_is_refused(max_order):
    tokens = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="max_order must be an integer of at least 1"):
        gleu(tokens, tokens, max_order=max_order)


def test_statistics_that_do_not_belong_together_are_refused():
    statistics = counted_statistics(torch.ones(2, 3).long(), torch.ones(2, 3).long())
    with pytest.raises(ValueError, match=r"reference_length must have shape \[2\]"):
        gleu_from_statistics(statistics._replace(reference_length=torch.ones(3)))
