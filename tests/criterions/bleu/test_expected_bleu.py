"""Expected BLEU is BLEU's formula on expected statistics."""

import itertools
import math

import numpy as np
import oracles
import pytest
import torch
from cases import Sentence, arguments, one_hot_sentence, random_sentence, sentences
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from criterions import bleu, expected_bleu

SMOOTHINGS = ("none", "add-k", "add-k-all")
OVERLAPS = {
    "exact": oracles.expected_overlap,
    "paper": oracles.paper_overlap,
    "upper": oracles.concave_overlap,
}


def plug_in(
    batch: list[Sentence], max_order: int, smoothing: str, overlap=oracles.expected_overlap
) -> float:
    """BLEU of the summed expected statistics of ``batch``."""
    orders = range(1, max_order + 1)
    return oracles.bleu_score(
        [sum(s.expect(overlap, n) for s in batch) for n in orders],
        [sum(oracles.expected_total(s.rows, s.eos, n) for s in batch) for n in orders],
        sum(oracles.expected_length(s.rows, s.eos) for s in batch),
        sum(len(s.reference) for s in batch),
        smoothing,
    )


def small_batch(ends: bool) -> list[Sentence]:
    rng = np.random.default_rng(11)
    shapes = [(5, 6), (4, 3), (3, 5)]
    return [
        random_sentence(rng, tgt_len, rng.integers(0, 2, ref_len), words=2, ends=ends)
        for tgt_len, ref_len in shapes
    ]


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("value", OVERLAPS)
def test_expected_bleu_is_bleu_of_expected_statistics(value: str, smoothing: str, ends: bool):
    batch = small_batch(ends)
    inputs = arguments(batch, extra_rows=2, extra_columns=1)
    for max_order in (1, 2, 4):
        options = {"value": value, "max_order": max_order, "smoothing": smoothing}
        corpus = expected_bleu(level="corpus", **options, **inputs)
        assert corpus.shape == ()
        expected = plug_in(batch, max_order, smoothing, OVERLAPS[value])
        assert corpus.item() == pytest.approx(expected, abs=1e-12)
        each = expected_bleu(level="sentence", **options, **inputs)
        assert each.shape == (len(batch),)
        expected_each = [plug_in([s], max_order, smoothing, OVERLAPS[value]) for s in batch]
        np.testing.assert_allclose(each.numpy(), expected_each, rtol=0, atol=1e-12)


@given(sentences(), st.sampled_from(SMOOTHINGS), st.integers(1, 4))
def test_expected_bleu_of_any_sentence(sentence: Sentence, smoothing: str, max_order: int):
    # Every score is as good as another for no token against none.
    assume(sentence.reference or smoothing != "add-k-all")
    if sentence.eos is not None:
        # 1 - p loses its digits where p is just below 1, and a ratio of such numbers all of them.
        going_on = 1.0 - sentence.rows[:, sentence.eos]
        assume(((going_on == 0.0) | (going_on > 1e-6)).all())
    inputs = arguments([sentence], extra_rows=2, extra_columns=1)
    score = expected_bleu(level="sentence", smoothing=smoothing, max_order=max_order, **inputs)
    expected = plug_in([sentence], max_order, smoothing)
    # A fourth root turns rounding of a tiny overlap into something visible.
    assert score.item() == pytest.approx(expected, rel=1e-9, abs=1e-5)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("level", ["corpus", "sentence"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_bounds_carry_over_to_bleu(smoothing: str, level: str, ends: bool):
    inputs = arguments(small_batch(ends))
    lower, exact, upper = (
        expected_bleu(value=value, max_order=2, level=level, smoothing=smoothing, **inputs)
        for value in ("lower", "exact", "upper")
    )
    assert (lower <= exact + 1e-12).all()
    assert (exact <= upper + 1e-12).all()
    assert (lower > 0).all()


def test_defaults_are_exact_corpus_order_four_add_k():
    inputs = arguments(small_batch(True))
    explicit = expected_bleu(
        value="exact", max_order=4, level="corpus", smoothing="add-k", **inputs
    )
    assert torch.equal(expected_bleu(**inputs), explicit)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_plug_in_is_above_the_expected_bleu_of_one_sentence(smoothing: str):
    """The geometric mean is concave, so with a fixed length Jensen's inequality has a direction."""
    rng = np.random.default_rng(5)
    for tgt_len in (2, 3, 4):
        sentence = random_sentence(rng, tgt_len, rng.integers(0, 2, 4), words=2, sharpness=2.0)
        mean = oracles.expectation(
            lambda output, s=sentence: oracles.sentence_bleu(output, s.reference, 2, smoothing),
            sentence.rows,
            sentence.eos,
        )
        score = expected_bleu(max_order=2, smoothing=smoothing, **arguments([sentence])).item()
        assert mean <= score + 1e-12


def test_plug_in_may_be_below_the_expected_bleu_when_the_length_is_random():
    """The brevity penalty is not concave in the length: Jensen's inequality has no direction."""
    eos = 9
    rows = np.eye(10)[:8]  # says the reference, but ends after one token half of the time
    rows[1, [1, eos]] = 0.5
    sentence = Sentence(rows, tuple(range(8)), eos)
    mean = oracles.expectation(
        lambda output: oracles.sentence_bleu(output, sentence.reference, 1, "none"), rows, eos
    )
    assert mean == pytest.approx(0.5 + 0.5 * math.exp(-7))
    score = expected_bleu(max_order=1, smoothing="none", **arguments([sentence])).item()
    assert score == pytest.approx(math.exp(1 - 8 / 4.5))
    assert score < mean


def test_plug_in_approaches_the_expected_corpus_bleu_as_the_batch_grows():
    """Error O(1 / batch): corpus BLEU of copies of one sentence, by its outcomes."""
    sentence = random_sentence(np.random.default_rng(2), 3, [0, 1, 0], words=2)
    distribution: dict[tuple[int, int], float] = {}
    for output, p in oracles.enumerate_outputs(sentence.rows, None):
        statistic = tuple(oracles.clipped_count(output, sentence.reference, n) for n in (1, 2))
        distribution[statistic] = distribution.get(statistic, 0.0) + p
    errors = []
    copies = {(0, 0): 1.0}
    for size in range(1, 33):
        added: dict[tuple[int, int], float] = {}
        for (a, b), p in copies.items():
            for (c, d), q in distribution.items():
                added[a + c, b + d] = added.get((a + c, b + d), 0.0) + p * q
        copies = added
        mean = math.fsum(
            p * oracles.bleu_score(m, [3 * size, 2 * size], 3 * size, 3 * size, "add-k")
            for m, p in copies.items()
        )
        score = expected_bleu(max_order=2, **arguments([sentence] * size)).item()
        errors.append(score - mean)
    assert errors[31] < errors[15] < errors[7] < errors[3]
    assert errors[31] * 32 == pytest.approx(errors[15] * 16, rel=0.2)


@pytest.mark.parametrize("level", ["corpus", "sentence"])
@example(batch=[([], [0])], smoothing="add-k")
@example(batch=[([0], [0]), ([], [1, 1])], smoothing="none")
@given(
    batch=st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), max_size=8),
            st.lists(st.integers(0, 3), min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=3,
    ),
    smoothing=st.sampled_from(SMOOTHINGS),
)
def test_certain_rows_give_counted_bleu(
    batch: list[tuple[list[int], list[int]]], smoothing: str, level: str
):
    certain = [one_hot_sentence(h, y, words=4) for h, y in batch]
    inputs = arguments(certain, extra_rows=1)
    score = expected_bleu(level=level, smoothing=smoothing, **inputs)
    width = inputs["p_ref"].shape[1]
    hypotheses = torch.tensor([h + [0] * (width - len(h)) for h, _ in batch])
    counted = bleu(
        hypotheses,
        inputs["references"],
        lengths=inputs["lengths"],
        reference_lengths=inputs["reference_lengths"],
        level=level,
        smoothing=smoothing,
    )
    torch.testing.assert_close(score, counted.to(score), rtol=0, atol=1e-6)
    expected = (
        [oracles.sentence_bleu(h, y, 4, smoothing) for h, y in batch]
        if level == "sentence"
        else oracles.corpus_bleu([h for h, _ in batch], [y for _, y in batch], 4, smoothing)
    )
    np.testing.assert_allclose(score.numpy(), expected, rtol=0, atol=1e-12)


def test_a_certain_end_gives_the_bleu_of_the_sentence_before_it():
    hypothesis, reference, eos = [0, 1, 0, 1], (0, 1, 0, 0, 1), 3
    rows = np.eye(4)[[*hypothesis, eos, 0, 1]]
    score = expected_bleu(**arguments([Sentence(rows, reference, eos)], extra_rows=1))
    expected = oracles.sentence_bleu(hypothesis, reference, 4, "add-k")
    assert score.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("level", ["corpus", "sentence"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("value", ["exact", "paper", "lower", "upper"])
def test_no_overlap_gives_a_finite_gradient(value: str, smoothing: str, level: str, ends: bool):
    p_ref = torch.zeros(2, 5, 4, requires_grad=True)
    references = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1]])
    eos_probabilities = torch.full((2, 5), 0.25, requires_grad=True) if ends else None
    score = expected_bleu(
        p_ref,
        references,
        value=value,
        smoothing=smoothing,
        level=level,
        eos_probabilities=eos_probabilities,
    )
    leaves = [p_ref, eos_probabilities] if ends else [p_ref]
    gradients = torch.autograd.grad(score.sum(), leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)
    if smoothing == "add-k-all":
        # Every word that could match raises the score, and no zero stands in its way.
        assert (score > 0).all()
        assert (gradients[0] > 0).any()
    else:
        assert not score.any()
        assert all(not gradient.any() for gradient in gradients)


def test_one_sentence_without_overlap_leaves_the_others_their_gradient():
    references = torch.tensor([[0, 1, 0], [0, 1, 0]])
    p_ref = torch.stack([torch.zeros(4, 3), torch.full((4, 3), 0.3)]).requires_grad_()
    for smoothing, level in itertools.product(SMOOTHINGS, ["corpus", "sentence"]):
        score = expected_bleu(
            p_ref, references, max_order=2, smoothing=smoothing, level=level
        ).sum()
        (gradient,) = torch.autograd.grad(score, p_ref)
        assert gradient.isfinite().all()
        assert gradient[1].abs().sum() > 0


@settings(max_examples=20)
@given(st.integers(1, 8))
def test_brevity_penalty_carries_gradient_to_the_end_probabilities(ref_len: int):
    """A hypothesis that is too short on average gains by ending later."""
    p_ref = torch.full((1, 8, ref_len), 0.5, dtype=torch.float64)
    references = torch.arange(ref_len)[None]
    eos_probabilities = torch.full((1, 8), 0.6, dtype=torch.float64, requires_grad=True)
    score = expected_bleu(p_ref, references, max_order=1, eos_probabilities=eos_probabilities)
    (gradient,) = torch.autograd.grad(score, eos_probabilities)
    length = sum(0.4**i for i in range(1, 9))
    if length < ref_len:
        assert (gradient[0, 0] < 0).item()
