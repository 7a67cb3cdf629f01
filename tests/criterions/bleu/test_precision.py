"""float32, bfloat16 and float16 logits: how far from float64, and what happens at extremes."""

import numpy as np
import pytest
import torch

from criterions import expected_bleu, expected_overlap, reference_probabilities

VALUES = ("exact", "paper", "lower", "upper")
BATCH, TGT_LEN, REF_LEN, VOCAB, EOS = 4, 30, 25, 50, 2

# Largest difference to float64 of the same logits. Overlaps are sums of up to REF_LEN terms.
OVERLAP_TOLERANCE = 2e-5
BLEU_TOLERANCE = 2e-6


def references() -> torch.Tensor:
    # Few distinct words: counts up to 5, self-overlapping n-grams.
    return torch.randint(10, 15, (BATCH, REF_LEN), generator=torch.Generator().manual_seed(4))


def logits(dtype: torch.dtype, sharpness: float) -> torch.Tensor:
    """Logits that favour the reference's words in order, as a trained model's do."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(BATCH, TGT_LEN, VOCAB, generator=generator)
    wanted = torch.nn.functional.one_hot(references(), VOCAB)
    z[:, :REF_LEN] += 3.0 * wanted
    z[:, :, EOS] -= 2.0
    return (sharpness * z).to(dtype)


def probabilities(z: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "p_ref": reference_probabilities(z, references()),
        "eos_probabilities": reference_probabilities(z, torch.full((BATCH, 1), EOS))[:, :, 0],
    }


def probabilities_in_float64(z: torch.Tensor) -> dict[str, torch.Tensor]:
    everything = z.double().softmax(-1)
    index = references()[:, None].expand(-1, TGT_LEN, -1)
    return {"p_ref": everything.gather(2, index), "eos_probabilities": everything[:, :, EOS]}


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value", VALUES)
def test_values_are_close_to_float64(value: str, dtype: torch.dtype, sharpness: float):
    z = logits(dtype, sharpness)
    for order in (1, 2, 3, 4):
        rough = expected_overlap(
            references=references(), order=order, value=value, **probabilities(z)
        )
        exact = expected_overlap(
            references=references(), order=order, value=value, **probabilities_in_float64(z)
        )
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough.double(), exact, rtol=0, atol=OVERLAP_TOLERANCE)
    for level in ("corpus", "sentence"):
        options = {"references": references(), "value": value, "level": level}
        torch.testing.assert_close(
            expected_bleu(**options, **probabilities(z)).double(),
            expected_bleu(**options, **probabilities_in_float64(z)),
            rtol=0,
            atol=BLEU_TOLERANCE,
        )


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value", VALUES)
def test_gradients_are_close_to_float64(value: str, dtype: torch.dtype, sharpness: float):
    z = logits(dtype, sharpness).requires_grad_()
    score = expected_bleu(references=references(), value=value, **probabilities(z))
    (rough,) = torch.autograd.grad(score, z)
    assert rough.dtype == dtype
    exact_z = z.detach().double().requires_grad_()
    score = expected_bleu(references=references(), value=value, **probabilities_in_float64(exact_z))
    (exact,) = torch.autograd.grad(score, exact_z)
    # Relative to the whole gradient; the number format of the logits sets the scale.
    error = (rough.double() - exact).norm() / exact.norm()
    assert error < max(1e-4, 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [100.0, 1e4])
@pytest.mark.parametrize("position", [0, 3, 12, TGT_LEN - 1])
@pytest.mark.parametrize("value", VALUES)
def test_a_sure_end_of_sentence_gives_finite_values_and_gradients(
    value: str, position: int, scale: float
):
    """Probability exactly 1.0 for ``</s>`` and exactly 0.0 for the rest, in float32."""
    z = logits(torch.float32, 1.0)
    z[:, position] = -scale
    z[:, position, EOS] = scale
    z.requires_grad_()
    inputs = probabilities(z)
    assert (inputs["eos_probabilities"][:, position] == 1.0).all()
    for level in ("corpus", "sentence"):
        score = expected_bleu(references=references(), value=value, level=level, **inputs)
        exact = expected_bleu(
            references=references(),
            value=value,
            level=level,
            **probabilities_in_float64(z.detach()),
        )
        torch.testing.assert_close(score.double(), exact, rtol=0, atol=BLEU_TOLERANCE)
        (gradient,) = torch.autograd.grad(score.sum(), z, retain_graph=True)
        assert gradient.isfinite().all()
        # Nothing after the end counts, so nothing there may be pushed.
        assert not gradient[:, position + 1 :].any()


@pytest.mark.parametrize("bias", [5.0, 10.0, 15.0, 18.0, 40.0])
@pytest.mark.parametrize("value", VALUES)
def test_an_end_that_is_almost_sure_everywhere_is_stable(value: str, bias: float):
    """Survival falls through the smallest normal float32 within a few rows, or at once."""
    z = logits(torch.float32, 1.0)
    z[:, :, EOS] += bias
    z.requires_grad_()
    for order in (1, 2, 3, 4):
        overlap = expected_overlap(
            references=references(), order=order, value=value, **probabilities(z)
        )
        exact = expected_overlap(
            references=references(),
            order=order,
            value=value,
            **probabilities_in_float64(z.detach()),
        )
        torch.testing.assert_close(overlap.double(), exact, rtol=0, atol=OVERLAP_TOLERANCE)
        (gradient,) = torch.autograd.grad(overlap.sum(), z)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("bias", [5.0, 12.0, 16.0, 18.0, 40.0, 200.0])
@pytest.mark.parametrize("saturated", [slice(3, 4), slice(3, 6), slice(None)], ids=str)
@pytest.mark.parametrize("value", VALUES)
def test_the_gradient_where_an_end_rounds_to_certain_is_that_of_float64(
    value: str, saturated: slice, bias: float
):
    """1 - p(</s>) is a rounding error or 0, and then so are all probabilities after it."""
    z = logits(torch.float32, 1.0)
    z[:, saturated, EOS] += bias
    gradients = []
    for x in (z.requires_grad_(), z.detach().double().requires_grad_()):
        inputs = probabilities(x) if x is z else probabilities_in_float64(x)
        expected = sum(
            expected_overlap(references=references(), order=order, value=value, **inputs).sum()
            for order in (1, 2, 4)
        )
        gradients.append(torch.autograd.grad(expected, x)[0].double())
    # One rounding of p(</s>), 6e-8, times the n-grams that may follow it.
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=4e-6)


@pytest.mark.parametrize("value", VALUES)
def test_the_gradient_in_probabilities_is_bounded_where_the_end_is_certain(value: str):
    """Each is the change of an overlap of 1 at most, over the change of a probability."""
    p_ref = torch.tensor([[[1e-9], [0.5], [0.5]]], requires_grad=True)
    eos = torch.tensor([[1, 0.2, 0.2]], requires_grad=True)
    overlap = expected_overlap(
        p_ref, torch.zeros(1, 1, dtype=torch.long), 1, value=value, eos_probabilities=eos
    )
    for gradient in torch.autograd.grad(overlap.sum(), (p_ref, eos)):
        assert gradient.abs().max() <= 1


@pytest.mark.parametrize("smoothing", ["none", "add-k", "add-k-all"])
@pytest.mark.parametrize("value", VALUES)
def test_tiny_overlaps_keep_a_gradient_without_smoothing(value: str, smoothing: str):
    """Uniform rows over 10,000 words: 4-grams have probability 1e-16, far from underflow."""
    vocab, length = 10_000, 10
    z = torch.zeros(1, length, vocab, requires_grad=True)
    targets = torch.arange(100, 100 + length)[None]
    score = expected_bleu(
        reference_probabilities(z, targets), targets, value=value, smoothing=smoothing
    )
    if smoothing == "none":
        # Windows 10, 9, 8, 7; every n-gram of the reference fits each of them equally well.
        expected = np.exp(np.mean([np.log(1e-4**n * (11 - n)) for n in (1, 2, 3, 4)]))
        assert score.item() == pytest.approx(expected, rel=1e-2)
    (gradient,) = torch.autograd.grad(score, z)
    assert gradient.isfinite().all()
    assert gradient[0, 3, 103] > 0
