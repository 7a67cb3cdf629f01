"""Gradients: against finite differences, enumeration and the Poisson-binomial distribution."""

from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch
from cases import Sentence, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from criterions import (
    expected_bleu,
    expected_overlap,
    expected_statistics,
    reference_probabilities,
)

VALUES = ("exact", "paper", "lower", "upper")
ORDERS = (1, 2, 3, 4)

# Two words, OTHER and </s>; "a" repeats, "a a" overlaps itself, "a b" does neither alone.
EOS = 3
REFERENCES = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 1, 0, 1]])
LENGTHS = {"lengths": torch.tensor([6, 4]), "reference_lengths": torch.tensor([5, 4])}


def logits(seed: int = 0) -> torch.Tensor:
    """[2, 6, 4], words likelier than OTHER and </s> so that every order has some mass."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    return (z + torch.tensor([1.0, 1.0, 0.0, -1.0])).requires_grad_()


def of_logits(
    objective: Callable[..., torch.Tensor], ends: bool, **options: object
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The objective as a function of logits, through PyTorch's own softmax and gather."""

    def function(z: torch.Tensor) -> torch.Tensor:
        probabilities = z.softmax(-1)
        index = REFERENCES[:, None].expand(-1, z.shape[1], -1)
        eos_probabilities = probabilities[:, :, EOS] if ends else None
        return objective(
            probabilities.gather(2, index),
            REFERENCES,
            eos_probabilities=eos_probabilities,
            **options,
        )

    return function


@pytest.mark.parametrize("lengths", [{}, LENGTHS], ids=["full", "padded"])
@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("value", VALUES)
def test_overlap_gradcheck(value: str, order: int, ends: bool, lengths: dict):
    function = of_logits(expected_overlap, ends, order=order, value=value, **lengths)
    assert torch.autograd.gradcheck(function, logits())


@pytest.mark.parametrize("value", VALUES)
def test_overlap_gradcheck_of_unconstrained_probabilities(value: str):
    """``p_ref`` and ``eos_probabilities`` themselves as the leaves; no repeated word."""
    references = torch.tensor([[0, 1, 2]])
    generator = torch.Generator().manual_seed(5)
    p_ref = torch.rand(1, 4, 3, dtype=torch.float64, generator=generator) / 3
    eos_probabilities = torch.rand(1, 4, dtype=torch.float64, generator=generator) / 3
    for order in (1, 2):
        assert torch.autograd.gradcheck(
            lambda p, e, order=order: expected_overlap(
                p, references, order, value=value, eos_probabilities=e
            ),
            (p_ref.requires_grad_(), eos_probabilities.requires_grad_()),
        )


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("level", ["corpus", "sentence"])
@pytest.mark.parametrize("smoothing", ["none", "add-k", "add-k-all"])
@pytest.mark.parametrize("value", VALUES)
def test_expected_bleu_gradcheck(value: str, smoothing: str, level: str, ends: bool):
    function = of_logits(
        expected_bleu, ends, value=value, smoothing=smoothing, level=level, **LENGTHS
    )
    assert torch.autograd.gradcheck(function, logits())


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("order", ORDERS)
def test_gradient_of_exact_equals_enumeration(order: int, ends: bool):
    reference = (0, 0, 1, 0)
    rng = np.random.default_rng(order)
    rows = random_rows(rng, 4, 4)
    expected = oracles.logit_gradient(
        lambda output: oracles.clipped_count(output, reference, order), rows, EOS if ends else None
    )
    z = torch.tensor(np.log(rows)[None], requires_grad=True)
    probabilities = z.softmax(-1)
    overlap = expected_overlap(
        probabilities[:, :, list(reference)],
        torch.tensor([reference]),
        order,
        eos_probabilities=probabilities[:, :, EOS] if ends else None,
    )
    (gradient,) = torch.autograd.grad(overlap.sum(), z)
    np.testing.assert_allclose(gradient[0].numpy(), expected, rtol=0, atol=1e-12)


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9),
    st.integers(1, 6),
    st.integers(0, 2),
)
def test_gradient_of_an_expected_word_count_is_the_chance_that_it_is_still_wanted(
    success: list[float], r: int, other_words: int
):
    """``d E[min(C, r)] / d q_i = P(C without i <= r - 1)``."""
    references = torch.tensor([[0] * r + [1] * other_words])
    q = torch.tensor(success, dtype=torch.float64, requires_grad=True)
    absent = torch.zeros_like(q)
    columns = [q] * r + [absent] * other_words
    overlap = expected_overlap(torch.stack(columns, dim=-1)[None], references, 1)
    (gradient,) = torch.autograd.grad(overlap.sum(), q)
    expected = [
        oracles.probability_of_at_most(r - 1, success[:i] + success[i + 1 :])
        for i in range(len(success))
    ]
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(VALUES), st.booleans())
def test_gradients_are_finite_at_probabilities_zero_and_one(seed: int, value: str, ends: bool):
    rng = np.random.default_rng(seed)
    rows = np.eye(4)[rng.integers(0, 4, (2, 6))]
    p_ref = np.take_along_axis(rows, np.repeat(REFERENCES.numpy()[:, None], 6, axis=1), axis=2)
    leaves = [torch.tensor(p_ref, requires_grad=True)]
    if ends:
        leaves.append(torch.tensor(rows[:, :, EOS], requires_grad=True))
    for order in ORDERS:
        overlap = expected_overlap(
            leaves[0],
            REFERENCES,
            order,
            value=value,
            eos_probabilities=leaves[1] if ends else None,
        )
        for gradient in torch.autograd.grad(overlap.sum(), leaves):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("position", [0, 2, 5])
def test_gradient_of_exact_survives_a_certain_end(position: int):
    """``p[i, </s>] = 1`` puts survival at exactly 0; the derivative still is a conditional mean."""
    reference = (0, 0, 1, 0)
    rows = random_rows(np.random.default_rng(position), 6, 4)
    rows[position] = np.eye(4)[EOS]
    for order in (1, 2):
        leaf = torch.tensor(rows[None], requires_grad=True)
        overlap = expected_overlap(
            leaf[:, :, list(reference)],
            torch.tensor([reference]),
            order,
            eos_probabilities=leaf[:, :, EOS],
        )
        (gradient,) = torch.autograd.grad(overlap.sum(), leaf)

        # Linear in each row: moving mass from OTHER to v changes the value at this very rate.
        def conditional(i: int, v: int, order: int = order) -> float:
            fixed = rows.copy()
            fixed[i] = np.eye(4)[v]
            return Sentence(fixed, reference, EOS).expect(oracles.expected_overlap, order)

        for i in range(6):
            for v in (0, 1, EOS):
                expected = conditional(i, v) - conditional(i, 2)
                assert gradient[0, i, v].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ends", [False, True], ids=["fixed length", "</s>"])
@pytest.mark.parametrize("value", VALUES)
def test_second_derivatives(value: str, ends: bool):
    """Through every part: probabilities of the tokens, survival, counts, totals."""
    references = torch.tensor([[0, 0, 1], [1, 0, 1]])

    def statistics(z: torch.Tensor) -> list[torch.Tensor]:
        eos = reference_probabilities(z, torch.full((2, 1), EOS))[..., 0] if ends else None
        found = expected_statistics(
            reference_probabilities(z, references),
            references,
            value=value,
            max_order=2,
            lengths=torch.tensor([4, 3]),
            reference_lengths=torch.tensor([3, 2]),
            eos_probabilities=eos,
            count_eos=ends,
        )
        return [item for item in found if item.requires_grad]

    z = logits()[:, :4].detach().requires_grad_()
    assert torch.autograd.gradgradcheck(statistics, z)
    hessian = torch.autograd.functional.hessian(lambda z: statistics(z)[0].sum(), z)
    assert hessian.abs().max() > 1e-3


def test_the_gradient_of_a_squared_gradient():
    """One path through a constant gradient, one through a gradient that depends on the input."""
    z = logits()
    (gradient,) = torch.autograd.grad(
        of_logits(expected_overlap, True, order=2)(z).sum(), z, create_graph=True
    )
    (found,) = torch.autograd.grad(gradient.square().sum(), z)
    step = 1e-5 * torch.nn.functional.one_hot(torch.tensor(7), 48).view(2, 6, 4)
    sides = []
    for moved in (z + step, z - step):
        leaf = moved.detach().requires_grad_()
        overlap = of_logits(expected_overlap, True, order=2)(leaf).sum()
        sides.append(torch.autograd.grad(overlap, leaf)[0].square().sum())
    assert found.flatten()[7].item() == pytest.approx(float(sides[0] - sides[1]) / 2e-5, rel=1e-6)
