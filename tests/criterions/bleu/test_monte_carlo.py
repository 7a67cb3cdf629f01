"""Sampled scores: unbiased, with an honest standard error."""

import itertools
import math

import numpy as np
import oracles
import pytest
import torch
from cases import Sentence, arguments, one_hot_sentence, random_sentence

from criterions import monte_carlo_bleu, monte_carlo_overlap

SAMPLES = 4000


def batch_of(ends: bool, sizes: list[tuple[int, int]]) -> list[Sentence]:
    rng = np.random.default_rng(21)
    return [
        random_sentence(rng, tgt_len, rng.integers(0, 2, ref_len), words=2, ends=ends)
        for tgt_len, ref_len in sizes
    ]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_unbiased(mean: float, error: float, expected: float, deviation: float) -> None:
    """Five standard errors of the true distribution, and a reported error within a tenth of it."""
    true_error = deviation / math.sqrt(SAMPLES)
    assert abs(mean - expected) <= 5 * true_error + 1e-6
    assert error == pytest.approx(true_error, rel=0.15, abs=1e-6)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sampled_overlap_is_unbiased(order: int, ends: bool):
    batch = batch_of(ends, [(5, 5), (3, 6), (4, 4)])
    means, errors = monte_carlo_overlap(
        order=order,
        samples=SAMPLES,
        generator=generator(),
        **arguments(batch, extra_rows=1, extra_columns=1),
    )
    assert means.shape == errors.shape == (3,)
    for sentence, mean, error in zip(batch, means.tolist(), errors.tolist(), strict=True):

        def overlap(output: tuple[int, ...], s: Sentence = sentence) -> int:
            return oracles.clipped_count(output, s.reference, order)

        assert_unbiased(
            mean,
            error,
            oracles.expectation(overlap, sentence.rows, sentence.eos),
            oracles.standard_deviation(overlap, sentence.rows, sentence.eos),
        )


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("smoothing", ["none", "add-k", "add-k-all"])
def test_sampled_sentence_bleu_is_unbiased(smoothing: str, ends: bool):
    batch = batch_of(ends, [(5, 5), (4, 6)])
    means, errors = monte_carlo_bleu(
        samples=SAMPLES,
        max_order=2,
        level="sentence",
        smoothing=smoothing,
        generator=generator(),
        **arguments(batch, extra_rows=1, extra_columns=1),
    )
    assert means.shape == errors.shape == (2,)
    for sentence, mean, error in zip(batch, means.tolist(), errors.tolist(), strict=True):

        def score(output: tuple[int, ...], s: Sentence = sentence) -> float:
            return oracles.sentence_bleu(output, s.reference, 2, smoothing)

        assert_unbiased(
            mean,
            error,
            oracles.expectation(score, sentence.rows, sentence.eos),
            oracles.standard_deviation(score, sentence.rows, sentence.eos),
        )


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("smoothing", ["none", "add-k", "add-k-all"])
def test_sampled_corpus_bleu_is_unbiased(smoothing: str, ends: bool):
    batch = batch_of(ends, [(3, 3), (3, 4)])
    outcomes = [list(oracles.enumerate_outputs(s.rows, s.eos)) for s in batch]
    references = [s.reference for s in batch]
    distribution = [
        (p * q, oracles.corpus_bleu([first, second], references, 2, smoothing))
        for (first, p), (second, q) in itertools.product(*outcomes)
    ]
    expected = math.fsum(p * x for p, x in distribution)
    deviation = math.sqrt(math.fsum(p * (x - expected) ** 2 for p, x in distribution))
    mean, error = monte_carlo_bleu(
        samples=SAMPLES,
        max_order=2,
        smoothing=smoothing,
        generator=generator(),
        **arguments(batch, extra_rows=1, extra_columns=1),
    )
    assert mean.shape == error.shape == ()
    assert_unbiased(mean.item(), error.item(), expected, deviation)


def test_certain_rows_leave_no_error():
    batch = [one_hot_sentence([0, 1, 0, 2], [0, 1, 1, 0, 2], words=3)]
    inputs = arguments(batch, extra_rows=1)
    mean, error = monte_carlo_overlap(order=1, samples=10, generator=generator(), **inputs)
    assert (mean.item(), error.item()) == (4.0, 0.0)
    mean, error = monte_carlo_bleu(samples=10, generator=generator(), **inputs)
    expected = oracles.sentence_bleu([0, 1, 0, 2], [0, 1, 1, 0, 2], 4, "add-k")
    assert mean.item() == pytest.approx(expected, abs=1e-6)
    assert error.item() == pytest.approx(0.0, abs=1e-6)


def test_the_generator_decides_the_samples():
    inputs = arguments(batch_of(True, [(5, 5), (3, 6)]))
    first, again, other = (
        monte_carlo_overlap(order=1, samples=50, generator=generator(seed), **inputs)[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
