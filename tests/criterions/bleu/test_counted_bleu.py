"""Counted overlaps and BLEU are sacrebleu's."""

import numpy as np
import oracles
import pytest
import sacrebleu
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from criterions import bleu, bleu_from_statistics, clipped_overlap

SACREBLEU_SMOOTHING = {"none": ("none", None), "add-k": ("add-k", 1)}

tokens = st.lists(st.integers(0, 4), max_size=12)
# sacrebleu takes an empty reference for a missing one.
pairs = st.lists(st.tuples(tokens, tokens.filter(len)), min_size=1, max_size=5)


def padded(lists: list[list[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, lists)) + padding
    rows = [row + [row[0] if row else 0] * (width - len(row)) for row in lists]
    tensor = torch.tensor(rows, dtype=torch.long).reshape(len(lists), width)
    return tensor, torch.tensor([len(row) for row in lists])


def text(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


def metric(smoothing: str, max_order: int) -> sacrebleu.BLEU:
    method, value = SACREBLEU_SMOOTHING[smoothing]
    return sacrebleu.BLEU(
        tokenize="none",
        force=True,
        smooth_method=method,
        smooth_value=value,
        max_ngram_order=max_order,
        effective_order=False,
    )


def tensors(batch: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor, dict]:
    hypotheses, lengths = padded([h for h, _ in batch], 1)
    references, reference_lengths = padded([y for _, y in batch], 2)
    return hypotheses, references, {"lengths": lengths, "reference_lengths": reference_lengths}


@given(pairs)
def test_clipped_overlap_equals_sacrebleu(batch: list[tuple[list[int], list[int]]]):
    hypotheses, references, lengths = tensors(batch)
    counts = [clipped_overlap(hypotheses, references, n, **lengths) for n in (1, 2, 3, 4)]
    for b, (hypothesis, reference) in enumerate(batch):
        score = metric("none", 4).corpus_score([text(hypothesis)], [[text(reference)]])
        assert [count[b].item() for count in counts] == score.counts


@pytest.mark.parametrize("max_order", [1, 2, 4])
@pytest.mark.parametrize("smoothing", SACREBLEU_SMOOTHING)
@example(batch=[([], [0])])
@example(batch=[([], [0]), ([0, 1, 2, 3], [0, 1, 2, 3])])
@example(batch=[([0], [0])])
@example(batch=[([1], [0])])
@example(batch=[([0, 1, 2], [0, 1, 2])])
@example(batch=[([0, 1], [0, 1, 2, 3, 4])])
@given(batch=pairs)
def test_corpus_bleu_equals_sacrebleu(
    batch: list[tuple[list[int], list[int]]], smoothing: str, max_order: int
):
    hypotheses, references, lengths = tensors(batch)
    score = bleu(hypotheses, references, max_order=max_order, smoothing=smoothing, **lengths)
    expected = metric(smoothing, max_order).corpus_score(
        [text(h) for h, _ in batch], [[text(y) for _, y in batch]]
    )
    assert score.shape == ()
    assert 100 * score.item() == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.parametrize("max_order", [1, 2, 4])
@pytest.mark.parametrize("smoothing", SACREBLEU_SMOOTHING)
@example(batch=[([], [0]), ([0], [0]), ([1], [0]), ([0, 1, 2], [0, 1, 2]), ([0, 1], [1, 0, 1])])
@given(batch=pairs)
def test_sentence_bleu_equals_sacrebleu(
    batch: list[tuple[list[int], list[int]]], smoothing: str, max_order: int
):
    hypotheses, references, lengths = tensors(batch)
    scores = bleu(
        hypotheses,
        references,
        level="sentence",
        max_order=max_order,
        smoothing=smoothing,
        **lengths,
    )
    assert scores.shape == (len(batch),)
    for score, (hypothesis, reference) in zip(scores.tolist(), batch, strict=True):
        expected = metric(smoothing, max_order).corpus_score(
            [text(hypothesis)], [[text(reference)]]
        )
        assert 100 * score == pytest.approx(expected.score, abs=1e-4)


@given(pairs, st.integers(1, 5), st.sampled_from(["none", "add-k", "add-k-all"]))
def test_bleu_equals_its_definition(
    batch: list[tuple[list[int], list[int]]], max_order: int, smoothing: str
):
    hypotheses, references, lengths = tensors(batch)
    options = {"max_order": max_order, "smoothing": smoothing, **lengths}
    corpus = bleu(hypotheses, references, level="corpus", **options)
    expected = oracles.corpus_bleu(
        [h for h, _ in batch], [y for _, y in batch], max_order, smoothing
    )
    assert corpus.item() == pytest.approx(expected, abs=1e-6)
    sentences = bleu(hypotheses, references, level="sentence", **options)
    each = [oracles.sentence_bleu(h, y, max_order, smoothing) for h, y in batch]
    np.testing.assert_allclose(sentences.numpy(), each, atol=1e-6)


def test_bleu_defaults_to_the_whole_tensor_and_add_k():
    hypotheses = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 1]])
    references = torch.tensor([[0, 1, 2, 2, 4], [3, 2, 0, 1, 1]])
    expected = metric("add-k", 4).corpus_score(
        [text(row) for row in hypotheses.tolist()], [[text(row) for row in references.tolist()]]
    )
    assert 100 * bleu(hypotheses, references).item() == pytest.approx(expected.score, abs=1e-4)


@st.composite
def statistics(draw: st.DrawFn) -> tuple[list[int], list[int], int, int]:
    max_order = draw(st.integers(1, 5))
    totals = [draw(st.integers(0, 40)) for _ in range(max_order)]
    matches = [draw(st.integers(0, total)) for total in totals]
    return matches, totals, draw(st.integers(0, 45)), draw(st.integers(1, 45))


@pytest.mark.parametrize("smoothing", SACREBLEU_SMOOTHING)
@example(statistic=([0, 0], [4, 3], 4, 5))
@example(statistic=([4, 0], [4, 3], 4, 5))
@example(statistic=([0], [0], 0, 5))
@example(statistic=([1, 0, 0, 0], [1, 0, 0, 0], 1, 1))
@given(statistic=statistics())
def test_score_of_statistics_equals_sacrebleu(
    statistic: tuple[list[int], list[int], int, int], smoothing: str
):
    matches, totals, hypothesis_length, reference_length = statistic
    method, value = SACREBLEU_SMOOTHING[smoothing]
    expected = sacrebleu.BLEU.compute_bleu(
        # sacrebleu adds its smoothing to the lists it is given.
        list(matches),
        list(totals),
        hypothesis_length,
        reference_length,
        smooth_method=method,
        smooth_value=value,
        max_ngram_order=len(matches),
    ).score
    if smoothing == "add-k" and matches[0] == 0:
        expected = 0.0  # its early stop at "no match at all" and log(0) agree on this
    score = bleu_from_statistics(
        torch.tensor(matches, dtype=torch.float64),
        torch.tensor(totals, dtype=torch.float64),
        torch.tensor(hypothesis_length, dtype=torch.float64),
        torch.tensor(reference_length, dtype=torch.float64),
        smoothing=smoothing,
    )
    assert 100 * score.item() == pytest.approx(expected, abs=1e-9)


def test_score_of_statistics_keeps_leading_dimensions():
    rng = np.random.default_rng(0)
    totals = rng.random((2, 3, 4)) * 20 + 1
    matches = totals * rng.random((2, 3, 4))
    lengths = rng.random((2, 3)) * 20 + 1
    reference_lengths = rng.random((2, 3)) * 20 + 1
    for smoothing in ("none", "add-k", "add-k-all"):
        scores = bleu_from_statistics(
            *map(torch.tensor, (matches, totals, lengths, reference_lengths)), smoothing=smoothing
        )
        assert scores.shape == (2, 3)
        for index in np.ndindex(2, 3):
            expected = oracles.bleu_score(
                matches[index], totals[index], lengths[index], reference_lengths[index], smoothing
            )
            assert scores[index].item() == pytest.approx(expected, abs=1e-12)
