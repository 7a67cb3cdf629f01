"""A sentence gets the same value and gradient alone, in a batch, and in a wider tensor."""

import numpy as np
import pytest
import torch
from cases import arguments, random_sentence

from criterions import (
    bleu,
    clipped_overlap,
    expected_bleu,
    expected_overlap,
    reference_probabilities,
)

VALUES = ("exact", "paper", "lower", "upper")


def mixed_batch(ends: bool) -> list:
    rng = np.random.default_rng(7)
    shapes = [(7, 5), (2, 6), (6, 1), (1, 1), (7, 7), (0, 4), (5, 0)]
    return [
        random_sentence(rng, tgt_len, rng.integers(0, 2, ref_len), words=2, ends=ends)
        for tgt_len, ref_len in shapes
    ]


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("value", VALUES)
def test_overlap_does_not_depend_on_the_rest_of_the_batch(value: str, ends: bool):
    batch = mixed_batch(ends)
    for order in (1, 2, 3, 4):
        alone = [
            expected_overlap(order=order, value=value, **arguments([sentence])).item()
            for sentence in batch
        ]
        for seed, extra in enumerate([0, 1, 5]):
            padded = arguments(batch, extra_rows=extra, extra_columns=extra, seed=seed)
            together = expected_overlap(order=order, value=value, **padded)
            np.testing.assert_allclose(together.numpy(), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("value", VALUES)
def test_sentence_bleu_does_not_depend_on_the_rest_of_the_batch(value: str, ends: bool):
    batch = mixed_batch(ends)
    alone = [
        expected_bleu(value=value, level="sentence", **arguments([sentence])).item()
        for sentence in batch
    ]
    padded = arguments(batch, extra_rows=3, extra_columns=4)
    together = expected_bleu(value=value, level="sentence", **padded)
    np.testing.assert_allclose(together.numpy(), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
def test_corpus_bleu_does_not_depend_on_the_padding(ends: bool):
    batch = mixed_batch(ends)
    values = [
        expected_bleu(**arguments(batch, extra_rows=extra, extra_columns=extra, seed=extra)).item()
        for extra in (0, 1, 4)
    ]
    np.testing.assert_allclose(values, values[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("level", ["corpus", "sentence"])
def test_padding_gets_no_gradient(level: str, value: str, ends: bool):
    batch = mixed_batch(ends)
    inputs = arguments(batch, extra_rows=2, extra_columns=2)
    leaves = [inputs["p_ref"].requires_grad_()]
    if ends:
        leaves.append(inputs["eos_probabilities"].requires_grad_())
    score = expected_bleu(value=value, level=level, **inputs).sum()
    gradients = torch.autograd.grad(score, leaves)
    assert gradients[0].abs().sum() > 0
    for b, sentence in enumerate(batch):
        for gradient in gradients:
            assert not gradient[b, len(sentence.rows) :].any()
        assert not gradients[0][b, :, len(sentence.reference) :].any()


@pytest.mark.parametrize("value", VALUES)
def test_not_a_number_in_the_padding_does_not_spread(value: str):
    """Logits of padded positions may overflow; nothing of them may reach the loss."""
    batch = mixed_batch(ends=True)
    inputs = arguments(batch, extra_rows=2, extra_columns=2)
    clean = expected_bleu(value=value, **inputs).item()
    for b, sentence in enumerate(batch):
        inputs["p_ref"][b, len(sentence.rows) :] = torch.nan
        inputs["p_ref"][b, :, len(sentence.reference) :] = torch.nan
        inputs["eos_probabilities"][b, len(sentence.rows) :] = torch.nan
    leaves = [inputs["p_ref"].requires_grad_(), inputs["eos_probabilities"].requires_grad_()]
    score = expected_bleu(value=value, **inputs)
    assert score.item() == pytest.approx(clean, abs=1e-12)
    for gradient in torch.autograd.grad(score, leaves):
        assert gradient.isfinite().all()


def test_counted_scores_do_not_depend_on_the_padding():
    rng = np.random.default_rng(1)
    shapes = [(4, 6), (6, 3), (1, 2), (0, 2), (3, 3)]
    results = []
    for width in (6, 9):
        hypotheses = torch.tensor(rng.integers(0, 2, (len(shapes), width)))
        references = torch.tensor(rng.integers(0, 2, (len(shapes), width)))
        words = np.random.default_rng(2)
        for b, (tgt_len, ref_len) in enumerate(shapes):
            hypotheses[b, :tgt_len] = torch.tensor(words.integers(0, 2, tgt_len))
            references[b, :ref_len] = torch.tensor(words.integers(0, 2, ref_len))
        lengths = {
            "lengths": torch.tensor([t for t, _ in shapes]),
            "reference_lengths": torch.tensor([r for _, r in shapes]),
        }
        overlaps = [clipped_overlap(hypotheses, references, n, **lengths) for n in (1, 2, 3)]
        score = bleu(hypotheses, references, level="sentence", **lengths)
        results.append(torch.stack([*overlaps, score]))
    torch.testing.assert_close(results[0], results[1])


def test_reference_probabilities_of_a_sentence_do_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 11, generator=generator)
    references = torch.randint(11, (3, 5), generator=generator)
    together = reference_probabilities(logits, references)
    alone = [reference_probabilities(logits[b : b + 1], references[b : b + 1]) for b in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-6, atol=0)
