"""Losses over candidate sets against plain Python loops over the candidates that exist."""

import itertools
import math

import pytest
import torch
from host_reads import HostReads
from hypothesis import given
from hypothesis import strategies as st

from criterions import (
    CANDIDATE_LOSSES,
    effective_sample_size,
    first_occurrences,
    max_margin,
    minimum_risk,
    sequence_nll,
    softmax_margin,
    unique_samples,
)

NAMES = sorted(CANDIDATE_LOSSES)


def random(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def log_sum_exp(values: list[float]) -> float:
    return math.log(math.fsum(math.exp(v) for v in values))


def by_hand(name: str, scores: list[float], costs: list[float]) -> float:
    """The equation of each loss, for the candidates of one source."""
    if not scores:
        return 0.0
    best = min(range(len(costs)), key=costs.__getitem__)
    likeliest = max(range(len(scores)), key=scores.__getitem__)
    hinges = [
        max(0.0, c - costs[best] + s - scores[best]) for s, c in zip(scores, costs, strict=True)
    ]
    if name == "risk":
        weights = [math.exp(s) for s in scores]
        return sum(w * c for w, c in zip(weights, costs, strict=True)) / math.fsum(weights)
    if name == "sequence_nll":
        return log_sum_exp(scores) - scores[best]
    if name == "max_margin":
        return hinges[likeliest]
    if name == "multi_margin":
        return math.fsum(hinges)
    assert name == "softmax_margin"
    return log_sum_exp([s + c for s, c in zip(scores, costs, strict=True)]) - scores[best]


def rows(values: torch.Tensor, mask: torch.Tensor) -> list[list[float]]:
    return [
        [v for v, m in zip(row, exists, strict=True) if m]
        for row, exists in zip(values.tolist(), mask.tolist(), strict=True)
    ]


# Sources with all candidates, some (the last ones, the first ones), one, and none.
MASK = torch.tensor(
    [
        [True, True, True, True],
        [True, True, True, False],
        [False, False, True, True],
        [False, True, False, False],
        [False, False, False, False],
    ]
)


@pytest.mark.parametrize("with_lengths", [False, True], ids=["whole", "length-normalised"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NAMES)
def test_equals_a_loop_over_candidates(name: str, seed: int, with_lengths: bool):
    scores, costs = 2 * random(5, 4, seed=seed), random(5, 4, seed=100 + seed)
    lengths = torch.arange(20).view(5, 4) % 7 + 1 if with_lengths else None
    normalised = scores / lengths if with_lengths else scores
    loss = CANDIDATE_LOSSES[name](scores, costs, mask=MASK, lengths=lengths)
    expected = [
        by_hand(name, *pair) for pair in zip(rows(normalised, MASK), rows(costs, MASK), strict=True)
    ]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str):
    costs = random(5, 4, seed=1)
    for seed in range(3):
        scores = random(5, 4, seed=10 + seed).requires_grad_()
        lengths = torch.arange(20).view(5, 4) % 3 + 1
        loss = CANDIDATE_LOSSES[name]
        assert torch.autograd.gradcheck(lambda s: loss(s, costs, mask=MASK), scores)  # noqa: B023
        assert torch.autograd.gradcheck(
            lambda s: loss(s, costs, mask=MASK, lengths=lengths),  # noqa: B023
            scores,
        )


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_masked_candidate_holds_never_counts(name: str, junk: float):
    scores, costs = random(5, 4, seed=2), random(5, 4, seed=3)
    results = []
    for filled in (0.0, junk):
        leaf = scores.masked_fill(~MASK, filled).requires_grad_()
        lengths = torch.full((5, 4), 3).masked_fill(~MASK, 0)
        loss = CANDIDATE_LOSSES[name](
            leaf, costs.masked_fill(~MASK, filled), mask=MASK, lengths=lengths
        )
        loss.sum().backward()
        results.append((loss.detach(), leaf.grad))
    (loss, gradient), (expected_loss, expected_gradient) = results[1], results[0]
    assert loss.equal(expected_loss)
    assert gradient.equal(expected_gradient)
    assert (gradient[~MASK] == 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", NAMES)
def test_a_source_with_one_candidate_or_none_has_no_gradient(name: str):
    scores = torch.tensor([[-3.0, 9.0], [1.0, 2.0]], requires_grad=True)
    costs = torch.tensor([[0.25, -9.0], [5.0, 5.0]])
    mask = torch.tensor([[True, False], [False, False]])
    with torch.autograd.detect_anomaly():  # refuses NaN on the way, too
        loss = CANDIDATE_LOSSES[name](scores, costs, mask=mask)
        loss.sum().backward()
    of_one = 0.25 if name in ("risk", "softmax_margin") else 0.0
    torch.testing.assert_close(loss.detach(), torch.tensor([of_one, 0.0]))
    assert scores.grad.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_whole_sentences_do_not_underflow(name: str):
    """exp(-500) is 0 in float32."""
    scores = torch.tensor([[-500.0, -501.0, -502.0]], requires_grad=True)
    costs = torch.tensor([[0.5, 0.25, 1.0]])
    loss = CANDIDATE_LOSSES[name](scores, costs)
    shifted = [0.0, -1.0, -2.0]
    # All losses are functions of differences of scores.
    assert loss.item() == pytest.approx(by_hand(name, shifted, costs[0].tolist()), rel=1e-4)
    loss.sum().backward()
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_scores_are_computed_in_float32(name: str):
    scores, costs = random(2, 4, seed=4).half(), random(2, 4, seed=5).half()
    loss = CANDIDATE_LOSSES[name](scores, costs)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, CANDIDATE_LOSSES[name](scores.float(), costs.float()))


def test_risk_over_all_outputs_is_the_expected_cost():
    """Value and gradient, for outputs of two dependent tokens."""
    first, second = random(3, seed=6), random(3, 3, seed=7)
    outputs = list(itertools.product(range(3), repeat=2))
    costs = random(len(outputs), seed=8)

    leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    table = leaves[0].log_softmax(0), leaves[1].log_softmax(1)
    log_probs = torch.stack([table[0][a] + table[1][a, b] for a, b in outputs])
    risk = minimum_risk(log_probs.unsqueeze(0), costs.unsqueeze(0))
    gradient = torch.autograd.grad(risk.sum(), leaves)

    probabilities = leaves[0].softmax(0).unsqueeze(1) * leaves[1].softmax(1)
    expected = (probabilities * costs.view(3, 3)).sum()
    torch.testing.assert_close(risk, expected.unsqueeze(0))
    for actual, exact in zip(gradient, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(actual, exact)


def test_sharpness_takes_the_risk_from_the_mean_cost_to_that_of_the_likeliest():
    scores, costs = random(3, 4, seed=9), random(3, 4, seed=10)
    torch.testing.assert_close(
        minimum_risk(scores, costs, alpha=1e-9), costs.mean(1), atol=1e-8, rtol=0
    )
    likeliest = costs.gather(1, scores.argmax(1, keepdim=True)).squeeze(1)
    torch.testing.assert_close(minimum_risk(scores, costs, alpha=1e4), likeliest)
    torch.testing.assert_close(
        minimum_risk(scores, costs, alpha=0.3), minimum_risk(0.3 * scores, costs)
    )


def test_the_first_of_equally_cheap_candidates_is_the_pseudo_reference():
    scores = torch.tensor([[1.0, 0.0, 3.0]], requires_grad=True)
    costs = torch.tensor([[0.5, 0.5, 0.5]])
    max_margin(scores, costs).sum().backward()
    assert scores.grad.tolist() == [[-1, 0, 1]]


def test_max_margin_pushes_down_what_the_model_likes_best_not_the_worst_offender():
    """The worst offender would be the cost-augmented maximum, candidate 2."""
    scores = torch.tensor([[0.0, 1.0, 0.9]], requires_grad=True)
    loss = max_margin(scores, torch.tensor([[0.0, 0.1, 5.0]]))
    loss.sum().backward()
    assert loss.tolist() == [pytest.approx(1.1)]
    assert scores.grad.tolist() == [[-1, 1, 0]]


def test_softmax_margin_of_equal_costs_is_the_sequence_nll_up_to_that_cost():
    scores = random(3, 4, seed=11)
    costs = torch.full((3, 4), 0.7, dtype=torch.float64)
    torch.testing.assert_close(softmax_margin(scores, costs), sequence_nll(scores, costs) + 0.7)


sentences = st.lists(
    st.lists(st.integers(0, 1), min_size=0, max_size=3), min_size=1, max_size=6
).flatmap(
    lambda s: st.tuples(st.just(s), st.lists(st.booleans(), min_size=len(s), max_size=len(s)))
)


@given(sentences, st.integers(0, 1))
def test_first_occurrences_of_any_candidates(candidates, padding: int):
    """Padding may look like a token; ``[0]`` and ``[0, 0]`` are not the same."""
    sequences, exists = candidates
    tokens = torch.tensor([[s + [padding] * (3 - len(s)) for s in sequences]])
    lengths = torch.tensor([[len(s) for s in sequences]])

    def expected(mask: list[bool]) -> list[bool]:
        seen, first = [], []
        for sequence, present in zip(sequences, mask, strict=True):
            first.append(present and sequence not in seen)
            if present:
                seen.append(sequence)
        return first

    everywhere = [True] * len(sequences)
    assert first_occurrences(tokens, lengths).tolist() == [expected(everywhere)]
    assert unique_samples(tokens, lengths).tolist() == [sum(expected(everywhere))]
    mask = torch.tensor([exists])
    assert first_occurrences(tokens, lengths, mask).tolist() == [expected(exists)]
    assert unique_samples(tokens, lengths, mask).tolist() == [sum(expected(exists))]


def test_candidates_of_different_sources_are_not_merged():
    tokens = torch.tensor([[[1, 2], [1, 2], [1, 3]], [[1, 2], [1, 3], [1, 2]]])
    assert first_occurrences(tokens).tolist() == [[True, False, True], [True, True, False]]


def test_effective_sample_size():
    log_weights = torch.tensor(
        [[1000.0, 1000, 1000, 1000], [0, -1e4, -1e4, -1e4], [math.log(3), 0, 7, 7], [1, 2, 3, 4]]
    )
    mask = torch.tensor(
        [[True] * 4, [True] * 4, [True, True, False, False], [False, False, False, False]]
    )
    expected = torch.tensor([4.0, 1.0, 1 / (0.75**2 + 0.25**2), 0.0])
    torch.testing.assert_close(effective_sample_size(log_weights, mask), expected)
    torch.testing.assert_close(effective_sample_size(log_weights[:2]), expected[:2])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_back_from_the_device(name: str):
    scores = random(5, 4, seed=0).requires_grad_()
    tokens, lengths = torch.arange(60).view(5, 4, 3) % 2, torch.arange(20).view(5, 4) % 3 + 1
    with HostReads() as reads:
        first = first_occurrences(tokens, lengths, MASK)
        loss = CANDIDATE_LOSSES[name](scores, tokens[..., 0].double(), mask=first, lengths=lengths)
        loss.sum().backward()
        effective_sample_size(scores, first)
    assert reads.operations == []


def test_registry():
    assert NAMES == ["max_margin", "multi_margin", "risk", "sequence_nll", "softmax_margin"]
    assert CANDIDATE_LOSSES["risk"] is minimum_risk


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_probs": torch.zeros(4)}, "log_probs must be a floating tensor"),
        ({"log_probs": torch.zeros(2, 4, dtype=torch.int64)}, "got torch.int64"),
        ({"costs": torch.zeros(2, 3)}, r"costs must have shape \[2, 4\]; got \[2, 3\]"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, r"mask must have shape \[2, 4\]"),
        ({"mask": torch.ones(2, 4)}, "mask must be boolean"),
        ({"lengths": torch.ones(2)}, r"lengths must have shape \[2, 4\]"),
    ],
)
def test_bad_input(name: str, arguments: dict[str, torch.Tensor], message: str):
    given = {"log_probs": torch.zeros(2, 4), "costs": torch.zeros(2, 4)} | arguments
    with pytest.raises(ValueError, match=message):
        CANDIDATE_LOSSES[name](given.pop("log_probs"), given.pop("costs"), **given)


def test_more_bad_input():
    scores = torch.zeros(2, 4)
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="alpha must be above 0"):
            minimum_risk(scores, scores, alpha=alpha)
    with pytest.raises(ValueError, match=r"tokens must be \[batch, candidates, length\]"):
        first_occurrences(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"lengths must have shape \[2, 4\]"):
        first_occurrences(torch.zeros(2, 4, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="log_weights must be a floating tensor"):
        effective_sample_size(torch.zeros(4))
