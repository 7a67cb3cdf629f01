"""Shapes of size 0 and 1, saturated probabilities and every floating dtype, against float64."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_versions import HALF

import criterions
from criterions import (
    CANDIDATE_LOSSES,
    TokenCategorical,
    bleu_from_statistics,
    gleu_from_statistics,
    prefix_statistics,
)

FLOATS = st.sampled_from([*HALF, torch.bfloat16, torch.float32, torch.float64])
INTEGERS = st.sampled_from([torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
SIZES = st.sampled_from([0, 1, 2, 5])
SEEDS = st.integers(0, 2**32 - 1)
SHARPNESS = st.sampled_from([0.0, 1.0, 20.0, 1e3, math.inf])
EOS, VOCABULARY = 3, 5
few = settings(max_examples=15, phases=(Phase.explicit, Phase.generate))


def logits_of(seed: int, shape: tuple[int, ...], sharpness: float, dtype: torch.dtype) -> Tensor:
    """Sharp ones have probabilities of 0 and 1; infinitely sharp ones exclude tokens."""
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    if math.isinf(sharpness):
        best = z.argmax(-1, keepdim=True) if z.numel() else z.long()
        return torch.where(z < 0, -math.inf, z).scatter(-1, best, 0.0).to(dtype)
    return (sharpness * z).to(dtype)


def same(function: Callable[[Tensor], dict[str, Tensor]], leaf: Tensor, shape: tuple[int, ...]):
    """Values near those of float64, of this shape, and gradients without NaN where it has none."""
    results, gradients = [], []
    for x in (leaf.clone(), leaf.double()):
        x.requires_grad_()
        found = function(x)
        results.append(found)
        total = sum(value.masked_fill(value.isinf(), 0).sum() for value in found.values())
        gradients.append(torch.autograd.grad(total, x, allow_unused=True)[0])
    for name, value in results[0].items():
        exact = results[1][name]
        assert value.shape == exact.shape == shape, name
        assert value.dtype == torch.promote_types(leaf.dtype, torch.float32), name
        torch.testing.assert_close(
            value.double(), exact, rtol=1e-4, atol=1e-4, equal_nan=True, msg=name
        )
    found, exact = gradients
    if exact is not None:
        assert found.dtype == leaf.dtype
        assert not (found.isnan() & ~exact.isnan()).any()


@few
@given(SEEDS, SIZES, SIZES, SIZES, SHARPNESS, FLOATS, INTEGERS, st.booleans(), st.booleans())
def test_expected_counts(seed, batch, tgt_len, ref_len, sharpness, dtype, ids, ends, padded):
    generator = torch.Generator().manual_seed(seed)
    references = torch.randint(0, EOS, (batch, ref_len), generator=generator)
    lengths = {}
    if padded:
        for name, longest in (("lengths", tgt_len), ("reference_lengths", ref_len)):
            lengths[name] = torch.randint(0, longest + 1, (batch,), generator=generator)

    def counts(z: Tensor) -> dict[str, Tensor]:
        p_ref = criterions.reference_probabilities(z, references)
        ending = torch.full((batch, 1), EOS)
        eos = criterions.reference_probabilities(z, ending)[..., 0] if ends else None
        given = {"eos_probabilities": eos, **lengths}
        found = {}
        for value in ("exact", "paper", "lower", "upper"):
            options = {"value": value, "count_eos": ends, **given}
            found[value] = criterions.expected_overlap(p_ref, references.to(ids), 2, **options)
            found[f"bleu {value}"] = criterions.expected_bleu(
                p_ref, references.to(ids), level="sentence", **options
            )
        return found

    z = logits_of(seed, (batch, tgt_len, VOCABULARY), sharpness, dtype)
    same(counts, z, (batch,))
    p_ref = criterions.reference_probabilities(z, references)
    for level, shape in (("corpus", ()), ("sentence", (batch,))):
        for found in criterions.monte_carlo_bleu(
            p_ref, references.to(ids), samples=2, level=level, **lengths
        ):
            assert found.shape == shape
            assert not found.isnan().any()


@few
@given(SEEDS, SIZES, SIZES, SIZES, INTEGERS, INTEGERS, st.integers(1, 6))
def test_counted_scores_are_those_of_int64(seed, batch, length, ref_len, ids, others, order):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(100, 103, (batch, length), generator=generator)
    references = torch.randint(100, 103, (batch, ref_len), generator=generator)
    for function, shape in (
        (criterions.bleu, ()),
        (lambda *x, **o: criterions.bleu(*x, level="sentence", **o), (batch,)),
        (criterions.gleu, (batch,)),
        (lambda *x, **o: bleu_from_statistics(*prefix_statistics(*x, **o)), (batch, length)),
        (lambda *x, **o: gleu_from_statistics(prefix_statistics(*x, **o)), (batch, length)),
    ):
        found = function(tokens.to(ids), references.to(others), max_order=order)
        assert found.shape == shape
        assert found.equal(function(tokens, references, max_order=order))
        assert ((found >= 0) & (found <= 1 + 1e-6)).all()


@few
@given(SEEDS, SIZES, SIZES, SHARPNESS, FLOATS, st.sampled_from([(), (2,), (0, 3)]))
def test_tokens(seed, batch, tgt_len, sharpness, dtype, sample_shape):
    z = logits_of(seed, (batch, tgt_len, VOCABULARY), sharpness, dtype)
    drawn = TokenCategorical(z).sample(sample_shape)
    assert drawn.shape == (*sample_shape, batch, tgt_len)
    # A token that is drawn is possible; its logarithm is finite.
    assert TokenCategorical(z).log_prob(drawn).isfinite().all()
    same(lambda x: {"log_prob": TokenCategorical(x).log_prob(drawn)}, z, drawn.shape)
    same(lambda x: {"entropy": TokenCategorical(x).entropy() + 0 * x.sum()}, z, (batch, tgt_len))


@few
@given(SEEDS, SIZES, SIZES, SHARPNESS, FLOATS, st.booleans())
def test_candidates(seed, batch, candidates, sharpness, dtype, masked):
    log_probs = logits_of(seed, (batch, candidates), min(sharpness, 1e3), dtype)
    generator = torch.Generator().manual_seed(seed)
    costs = torch.rand(batch, candidates, generator=generator).to(dtype)
    if math.isinf(sharpness) and candidates:
        log_probs[:, seed % candidates] = -math.inf  # of probability 0, be it the best or not
    mask = torch.rand(batch, candidates, generator=generator) < 0.5 if masked else None
    for name, loss in CANDIDATE_LOSSES.items():
        if name in ("max_margin", "multi_margin"):
            assert not loss(log_probs, costs, mask=mask).isnan().any()

        def losses(x: Tensor, name: str = name, loss: Callable[..., Tensor] = loss):
            return {name: loss(x, costs.to(x), mask=mask)}

        same(losses, log_probs, (batch,))
    assert criterions.effective_sample_size(log_probs, mask).shape == (batch,)


@few
@given(SEEDS, SIZES, SIZES, SIZES, FLOATS, st.sampled_from(["none", "batch", "group"]))
def test_rewards(seed, batch, samples, length, dtype, mode):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(batch, samples, generator=generator).to(dtype)
    tolerance = {"rtol": 0.05, "atol": 0.05} if torch.finfo(dtype).bits == 16 else {}
    for function in (
        lambda x: criterions.normalize_rewards(x, mode),
        lambda x: criterions.clip_rewards(x, 0.25, 0.5),
    ):
        found = function(rewards)
        assert found.shape == rewards.shape
        assert found.dtype == dtype
        assert not found.isnan().any()
        torch.testing.assert_close(found.double(), function(rewards.double()), **tolerance)
    scores = torch.rand(batch, length, generator=generator).to(dtype)
    added = criterions.increments(scores)
    assert added.shape == scores.shape
    torch.testing.assert_close(added.cumsum(1), scores, rtol=0.02, atol=0.02)


@few
@given(SEEDS, SIZES, SIZES, SIZES, INTEGERS, st.booleans(), st.sampled_from(["hamming", "edit"]))
def test_drawn_outputs(seed, batch, candidates, length, ids, padded, kind):
    """Edits of references, and which candidates are the same."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(100, 103, (batch, candidates, length), generator=generator).to(ids)
    lengths = torch.randint(0, length + 1, (batch, candidates), generator=generator)
    lengths = lengths if padded else None
    first = criterions.first_occurrences(tokens, lengths)
    assert first.shape == (batch, candidates)
    assert criterions.unique_samples(tokens, lengths).equal(first.sum(1))
    for row in range(batch):
        ends = [length] * candidates if lengths is None else lengths[row].tolist()
        texts = [tuple(one[:end].tolist()) for one, end in zip(tokens[row], ends, strict=True)]
        expected = [text not in texts[:place] for place, text in enumerate(texts)]
        assert first[row].tolist() == expected

    references = tokens.flatten(0, 1)
    vocabulary = torch.tensor([100, 101, 126], dtype=ids)
    for temperature in (1e-3, 1.0, 1e6):
        edited, number = criterions.sample_edits(
            references,
            None if lengths is None else lengths.flatten(),
            vocabulary=vocabulary,
            temperature=temperature,
            kind=kind,
            generator=generator,
        )
        assert edited.shape == (batch * candidates, length * (1 + (kind == "edit")))
        assert edited.dtype == ids
        own = torch.full_like(number, length) if lengths is None else lengths.flatten()
        assert (number >= own).all()
        if temperature < 0.01:
            assert number.equal(own)
            exists = torch.arange(length) < own.unsqueeze(1)
            assert edited[:, :length][exists].equal(references[exists])


def test_an_empty_vocabulary_is_refused():
    logits = torch.zeros(2, 3, 0)
    with pytest.raises(ValueError, match="logits"):
        TokenCategorical(logits)
    with pytest.raises(ValueError, match="logits"):
        criterions.reference_probabilities(logits, logits[:, 0].long())


def test_without_candidates_or_with_a_best_one_of_probability_0():
    nothing = torch.zeros(2, 0)
    log_probs, costs = torch.tensor([[-1.0, -math.inf, -math.inf]]), torch.tensor([[0.5, 0.1, 0.3]])
    for loss in CANDIDATE_LOSSES.values():
        assert loss(nothing, nothing).tolist() == [0, 0]
    assert CANDIDATE_LOSSES["multi_margin"](log_probs, costs).tolist() == [math.inf]
    impossible = CANDIDATE_LOSSES["multi_margin"](log_probs[:, 1:], costs[:, 1:])
    torch.testing.assert_close(impossible, torch.tensor([0.2]))
    assert CANDIDATE_LOSSES["max_margin"](log_probs[:, 1:], costs[:, 1:]).tolist() == [0]


@pytest.mark.parametrize("value", ["exact", "paper", "lower", "upper"])
def test_no_positions_and_an_end_have_a_gradient(value):
    z = torch.zeros(2, 0, VOCABULARY, requires_grad=True)
    references = torch.zeros(2, 3, dtype=torch.long)
    p_ref = criterions.reference_probabilities(z, references)
    score = criterions.expected_bleu(
        p_ref, references, value=value, eos_probabilities=p_ref[..., 0], count_eos=True
    )
    assert torch.autograd.grad(score, z)[0].shape == z.shape


def test_small_dtypes_of_ids_and_statistics_lose_nothing():
    references = torch.tensor([[255, 1]], dtype=torch.uint8)
    drawn, _ = criterions.sample_candidates(torch.full((1, 50, 2), 0.1), references, 4)
    assert set(drawn.flatten().tolist()) == {-1, 1, 255}
    large = torch.full((2,), 60_000.0, dtype=torch.float16), torch.tensor(70_000)
    score = criterions.bleu_from_statistics(*large[:1] * 2, *large[1:] * 2)
    assert score.tolist() == pytest.approx(1)
    mean, _ = criterions.monte_carlo_overlap(
        torch.ones(2, 3, 0), references.new_zeros(2, 0), 1, samples=3
    )
    assert mean.tolist() == [0, 0]
