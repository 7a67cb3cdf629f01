"""Statistics and scores of prefixes are those of each prefix taken alone."""

import pytest
import torch
from host_reads import HostReads
from hypothesis import example, given
from hypothesis import strategies as st

from criterions import (
    bleu,
    bleu_from_statistics,
    counted_statistics,
    gleu,
    gleu_from_statistics,
    increments,
    prefix_statistics,
)


def prefix_bleu(*tokens, smoothing: str = "add-k", **options) -> torch.Tensor:
    return bleu_from_statistics(*prefix_statistics(*tokens, **options), smoothing=smoothing)


def prefix_gleu(*tokens, **options) -> torch.Tensor:
    return gleu_from_statistics(prefix_statistics(*tokens, **options))


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Hypotheses, references and both lengths; what is past the lengths could match."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(0, 8))
    ref_len = draw(st.integers(0, 7))

    def ids(columns: int) -> torch.Tensor:
        row = st.lists(st.integers(0, 2), min_size=columns, max_size=columns)
        rows = draw(st.lists(row, min_size=batch, max_size=batch))
        return torch.tensor(rows, dtype=torch.long).reshape(batch, columns)

    def lengths(columns: int) -> torch.Tensor:
        numbers = st.integers(0, columns)
        return torch.tensor(draw(st.lists(numbers, min_size=batch, max_size=batch)))

    both = {"lengths": lengths(length), "reference_lengths": lengths(ref_len)}
    return ids(length), ids(ref_len), both


REPEATS = (
    torch.tensor([[0, 0, 0, 0, 0], [0, 1, 0, 1, 0]]),
    torch.tensor([[0, 0, 0, 1], [1, 0, 1, 0]]),
    {"lengths": torch.tensor([5, 4]), "reference_lengths": torch.tensor([4, 4])},
)


def prefix(lengths: torch.Tensor, size: int) -> torch.Tensor:
    return lengths.clamp(max=size)


@pytest.mark.parametrize("max_order", [4, 2])
@example(case=REPEATS)
@given(case=batches())
def test_statistics_are_those_of_each_prefix_alone(case, max_order: int):
    hypotheses, references, both = case
    statistics = prefix_statistics(hypotheses, references, max_order=max_order, **both)
    assert statistics.matches.shape == (*hypotheses.shape, max_order)
    assert statistics.matches.dtype == torch.int64
    for t in range(hypotheses.size(1)):
        alone = counted_statistics(
            hypotheses[:, : t + 1],
            references,
            max_order=max_order,
            lengths=prefix(both["lengths"], t + 1),
            reference_lengths=both["reference_lengths"],
        )
        for got, expected in zip(statistics, alone, strict=True):
            assert got[:, t].tolist() == expected.tolist()


@example(case=REPEATS, max_order=4, smoothing="none")
@example(case=REPEATS, max_order=4, smoothing="add-k")
@given(
    case=batches(),
    max_order=st.integers(1, 4),
    smoothing=st.sampled_from(["none", "add-k", "add-k-all"]),
)
def test_scores_are_those_of_each_prefix_alone(case, max_order: int, smoothing: str):
    hypotheses, references, both = case
    of_bleu = {"max_order": max_order, "smoothing": smoothing}
    bleus = prefix_bleu(hypotheses, references, **of_bleu, **both)
    gleus = prefix_gleu(hypotheses, references, max_order=max_order, **both)
    for t in range(hypotheses.size(1)):
        cut = {**both, "lengths": prefix(both["lengths"], t + 1)}
        alone = bleu(hypotheses, references, level="sentence", **of_bleu, **cut)
        assert bleus[:, t].tolist() == pytest.approx(alone.tolist(), abs=1e-6)
        alone = gleu(hypotheses, references, max_order=max_order, **cut)
        assert gleus[:, t].tolist() == pytest.approx(alone.tolist(), abs=1e-6)


@given(case=batches())
def test_increments_add_up_to_the_prefix_and_to_the_whole(case):
    hypotheses, references, both = case
    scores = prefix_bleu(hypotheses, references, **both)
    added = increments(scores)
    torch.testing.assert_close(added.cumsum(1), scores)
    whole = bleu(hypotheses, references, level="sentence", **both)
    torch.testing.assert_close(added.sum(1), whole)
    past_the_end = torch.arange(hypotheses.size(1)) >= both["lengths"].unsqueeze(1)
    assert added[past_the_end].eq(0).all()


def test_the_token_that_completes_a_match_gets_the_credit():
    references = torch.tensor([[1, 2, 3]])
    added = increments(prefix_gleu(torch.tensor([[1, 2, 9, 3]]), references, max_order=2))
    # The reference has 5 n-grams of orders 1 and 2.  (1), (2) and (1, 2), nothing, (3): 1/5, 3/5,
    # 3/5, then 4 of the hypothesis' 7.
    assert added[0].tolist() == pytest.approx([1 / 5, 2 / 5, 0, 4 / 7 - 3 / 5], abs=1e-6)


def test_an_occurrence_more_than_the_reference_has_adds_nothing():
    statistics = prefix_statistics(
        torch.tensor([[5, 5, 5, 5]]), torch.tensor([[5, 6, 5]]), max_order=1
    )
    assert statistics.matches[0, :, 0].tolist() == [1, 2, 2, 2]


def test_integer_scores_are_refused():
    with pytest.raises(ValueError, match="prefix_scores must be a floating tensor"):
        increments(torch.ones(2, 3, dtype=torch.long))


def test_an_order_that_is_none_is_refused():
    tokens = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="max_order must be an integer of at least 1"):
        prefix_statistics(tokens, tokens, max_order=0)


def test_lengths_of_another_batch_are_refused():
    tokens = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"lengths must have shape \[2\]"):
        prefix_statistics(tokens, tokens, lengths=torch.tensor([1]))


def test_nothing_is_read_back_from_the_device():
    tokens = torch.zeros(2, 5, dtype=torch.long)
    both = {"lengths": tokens[:, 0], "reference_lengths": tokens[:, 0]}
    with HostReads() as reads:
        increments(prefix_bleu(tokens, tokens, **both))
        prefix_gleu(tokens, tokens, **both)
        gleu(tokens, tokens, **both)
    assert reads.operations == []
