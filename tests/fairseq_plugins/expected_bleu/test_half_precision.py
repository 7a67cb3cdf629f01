"""Models in 16 bits; the statistics are computed in float32."""

import pytest
import torch
from fairseq_setup import setup

DTYPES = [torch.bfloat16, torch.float16]


def assert_finite(loss, gradients):
    assert torch.isfinite(torch.tensor(loss))
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_loss_and_gradient_are_near_those_of_float32(corpus, dtype):
    # Random weights: a trained model's attention is sharp, and 16 bits change its own gradient.
    full, half = setup(corpus), setup(corpus)
    half.model.to(dtype)
    sample = full.batch(*range(20, 26))
    loss, gradients, logged = half.gradient(sample)
    assert_finite(loss, gradients)
    assert logged["expected_length"].dtype == torch.float32
    full_loss, full_gradients, _ = full.gradient(sample)
    assert loss == pytest.approx(full_loss, rel=0.02)
    flat, full_flat = (
        torch.cat([gradient.flatten() for gradient in each.values()])
        for each in (gradients, full_gradients)
    )
    assert torch.cosine_similarity(flat, full_flat, dim=0) > 0.99
    assert flat.norm() == pytest.approx(float(full_flat.norm()), rel=0.05)


@pytest.mark.parametrize("feed", ["greedy", "sample"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decoding_works_in_16_bits(corpus, learnt, dtype, feed):
    built = setup(corpus, weights=learnt("transformer"), feed=feed)
    built.model.to(dtype)
    loss, gradients, _ = built.gradient(built.batch(*range(20, 26)))
    assert_finite(loss, gradients)
