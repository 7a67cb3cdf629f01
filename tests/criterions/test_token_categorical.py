"""``TokenCategorical`` is ``torch.distributions.Categorical`` without a softmax in memory."""

import math

import pytest
import torch
from host_reads import HostReads
from torch.distributions import Categorical
from torch_versions import HALF

from criterions import TokenCategorical
from criterions.stochastic_graph import (
    Enumeration,
    LeaveOneOut,
    NoScore,
    ScoreFunction,
    StochasticGraph,
    deterministic_value,
    sample,
)

INF = math.inf


def random_logits(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, dtype=torch.float64, generator=generator)).to(dtype)


def with_excluded(logits: torch.Tensor) -> torch.Tensor:
    """Other tokens are excluded at other positions; token 0 nowhere."""
    vocab = logits.size(-1)
    excluded = torch.arange(logits.numel()).view(logits.shape) % 3 == 1
    return logits.masked_fill(excluded & (torch.arange(vocab) > 0), -INF)


def plain(logits: torch.Tensor) -> Categorical:
    return Categorical(logits=logits, validate_args=False)


@pytest.mark.parametrize("shape", [(3, 4, 7), (3, 1, 11), (5, 7), (4,), (0, 4, 5), (2, 2, 3, 5)])
@pytest.mark.parametrize("sample_shape", [(), (2,), (2, 3)])
def test_shapes_and_log_prob_equal_those_of_categorical(shape, sample_shape):
    logits = random_logits(*shape)
    distribution, reference = TokenCategorical(logits), plain(logits)
    assert distribution.batch_shape == reference.batch_shape
    assert distribution.event_shape == reference.event_shape
    value = reference.sample(sample_shape) if logits.numel() else distribution.sample(sample_shape)
    assert distribution.sample(sample_shape).shape == value.shape == (*sample_shape, *shape[:-1])
    torch.testing.assert_close(distribution.log_prob(value), reference.log_prob(value))
    torch.testing.assert_close(distribution.entropy(), reference.entropy())
    assert distribution.mode.equal(reference.probs.argmax(-1))
    assert distribution.enumerate_support().equal(reference.enumerate_support())
    assert distribution.enumerate_support(expand=False).equal(
        reference.enumerate_support(expand=False)
    )


def test_a_value_is_broadcast_as_by_categorical():
    logits = random_logits(1, 3, 5)
    value = torch.tensor([[4, 0, 1], [2, 2, 0]])
    torch.testing.assert_close(
        TokenCategorical(logits).log_prob(value), plain(logits).log_prob(value)
    )
    one = torch.tensor([3])
    torch.testing.assert_close(TokenCategorical(logits).log_prob(one), plain(logits).log_prob(one))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_results_of_half_precision_logits_are_float32(dtype: torch.dtype):
    logits = random_logits(3, 4, 50, dtype=dtype).requires_grad_()
    value = torch.arange(12).view(3, 4)
    distribution, exact = TokenCategorical(logits), plain(logits.detach().double())
    assert distribution.log_prob(value).dtype == distribution.entropy().dtype == torch.float32
    torch.testing.assert_close(
        distribution.log_prob(value).double(), exact.log_prob(value), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(distribution.entropy().double(), exact.entropy(), rtol=1e-5, atol=0)
    distribution.log_prob(value).sum().backward()
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("change", [lambda x: x, with_excluded], ids=["all", "excluded"])
def test_gradient_equals_that_of_categorical(change):
    logits = random_logits(2, 3, 7)
    value = plain(change(logits)).sample()
    weight = random_logits(2, 3, seed=1)
    gradients = []
    for make in (TokenCategorical, plain):
        leaf = logits.clone().requires_grad_()
        (make(change(leaf)).log_prob(value) * weight).sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].isfinite().all()
    torch.testing.assert_close(*gradients)


def test_gradcheck():
    logits = random_logits(2, 3, 4).requires_grad_()
    value = torch.tensor([[[0, 3, 1], [2, 2, 0]], [[1, 3, 1], [0, 1, 3]]])
    assert torch.autograd.gradcheck(lambda z: TokenCategorical(z).log_prob(value), logits)


def test_second_derivatives():
    logits = random_logits(2, 3, 4).requires_grad_()
    value = torch.tensor([[[0, 3, 1], [2, 2, 0]], [[1, 3, 1], [0, 1, 3]]])
    assert torch.autograd.gradgradcheck(lambda z: TokenCategorical(z).log_prob(value), logits)
    hessians = [
        torch.autograd.functional.hessian(
            lambda z, make=make: make(z).log_prob(value).sum(), logits
        )
        for make in (TokenCategorical, plain)
    ]
    torch.testing.assert_close(*hessians)


def test_an_excluded_token_does_not_spoil_the_others_gradient():
    logits = torch.tensor([[[0.0, -INF, 0.0]] * 2], requires_grad=True)
    log_prob = TokenCategorical(logits).log_prob(torch.tensor([[0, 1]]))
    assert log_prob[0, 1] == -INF
    log_prob.masked_fill(log_prob.isneginf(), 0).sum().backward()
    assert logits.grad.tolist() == [[[0.5, 0.0, -0.5], [0.0, 0.0, 0.0]]]


def test_entropy_with_excluded_tokens_is_that_of_the_rest():
    logits = random_logits(4, 6)
    rest = logits[:, [0, 2, 3, 5]]
    excluded = logits.clone()
    excluded[:, [1, 4]] = -INF
    torch.testing.assert_close(TokenCategorical(excluded).entropy(), plain(rest).entropy())
    assert TokenCategorical(torch.tensor([[5.0, -INF, -INF]])).entropy().tolist() == [0]


def test_neither_entropy_nor_samples_carry_a_gradient():
    distribution = TokenCategorical(random_logits(2, 3, 4).requires_grad_())
    assert not distribution.entropy().requires_grad
    assert not distribution.sample().requires_grad
    assert not distribution.mode.requires_grad


def test_frequencies_of_samples_are_the_probabilities():
    logits = with_excluded(random_logits(2, 3, 6))
    torch.manual_seed(0)
    draws = 20000
    drawn = TokenCategorical(logits.expand(draws, 2, 3, 6)).sample()
    frequency = torch.nn.functional.one_hot(drawn, 6).double().mean(0)
    p = logits.softmax(-1)
    error = (p * (1 - p) / draws).sqrt()
    assert (frequency[p == 0] == 0).all()
    z = ((frequency - p) / error)[p > 0]
    assert z.abs().max() < 4.5  # 24 cells: passed by chance in all but 1 of 6,000 seeds


def test_pieces_do_not_change_the_results(monkeypatch):
    logits, value = random_logits(5, 3, 7), torch.arange(15).view(5, 3) % 7
    whole = TokenCategorical(logits)
    monkeypatch.setattr("criterions.token_categorical._ELEMENTS_PER_PIECE", {"cpu": 15})
    assert TokenCategorical(logits).entropy().equal(whole.entropy())
    assert TokenCategorical(logits).log_prob(value).equal(whole.log_prob(value))
    peaked = torch.full((5, 3, 7), -INF).scatter(-1, value.unsqueeze(-1), 0.0)
    assert TokenCategorical(peaked).sample((2,)).equal(value.expand(2, 5, 3))


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_backward_keeps_nothing_as_large_as_the_logits_but_the_logits(dtype: torch.dtype):
    logits = random_logits(3, 5, 97, dtype=dtype).requires_grad_()
    value = torch.zeros(3, 5, dtype=torch.int64)

    def kept(distribution) -> list[int]:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            distribution(logits).log_prob(value)
        return [x.data_ptr() for x in saved if x.numel() >= logits.numel()]

    assert set(kept(TokenCategorical)) == {logits.data_ptr()}
    assert set(kept(plain)) - {logits.data_ptr()}  # the watch does see what is kept


def test_nothing_is_read_back_from_the_device():
    logits = random_logits(2, 3, 5).requires_grad_()
    with HostReads() as reads:
        distribution = TokenCategorical(logits)
        distribution.log_prob(distribution.sample((2,))).sum().backward()
        distribution.entropy(), distribution.mode, distribution.enumerate_support()
    assert reads.operations == []
    with HostReads() as reads:
        Categorical(logits=logits)  # validates
    assert reads.operations  # the watch does see a read


def test_expanded_distribution():
    logits = random_logits(3, 5)
    value = torch.arange(6).view(2, 3) % 5
    expanded = TokenCategorical(logits).expand((2, 3))
    assert expanded.batch_shape == (2, 3)
    torch.testing.assert_close(
        expanded.log_prob(value), plain(logits).expand((2, 3)).log_prob(value)
    )


def test_values_are_checked_only_on_request():
    distribution = TokenCategorical(random_logits(2, 5), validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        distribution.log_prob(torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="constraint"):
        TokenCategorical(torch.tensor([math.nan, 0.0]), validate_args=True)
    assert TokenCategorical(torch.tensor([math.nan, 0.0]))._validate_args is False


@pytest.mark.parametrize("logits", [torch.tensor(1.0), torch.zeros(2, 3, dtype=torch.int64)])
def test_bad_logits(logits: torch.Tensor):
    with pytest.raises(ValueError, match="logits must be a floating tensor"):
        TokenCategorical(logits)


def test_deterministic_value_is_the_likeliest_token():
    logits = with_excluded(random_logits(2, 3, 5))
    assert deterministic_value(TokenCategorical(logits)).equal(logits.argmax(-1))
    assert sample("token", TokenCategorical(logits)).equal(logits.argmax(-1))


@pytest.mark.parametrize("replay", [False, True])
def test_score_function_in_a_graph_is_that_of_categorical(replay: bool):
    costs = random_logits(4, 3, seed=2)
    mask = torch.tensor([[True] * 3, [True, True, False]] * 2)
    torch.manual_seed(0)
    tokens = TokenCategorical(random_logits(4, 3, 5)).sample()
    results = []
    for make in (TokenCategorical, plain):
        logits = random_logits(4, 3, 5).requires_grad_()
        torch.manual_seed(0)
        with StochasticGraph(
            estimators={"token": ScoreFunction(LeaveOneOut())},
            samples=2,
            values={"token": tokens} if replay or make is plain else None,
        ) as graph:
            assert sample("token", make(logits), mask=mask).equal(tokens)
            graph.cost("c", costs, mask=mask)
        graph.surrogate().backward()
        results.append((logits.grad, graph.statistics()))
    (gradient, statistics), (expected, expected_statistics) = results
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, expected)
    assert "entropy/token" in statistics
    torch.testing.assert_close(statistics, expected_statistics)


def test_fed_token_without_score_term():
    with StochasticGraph(default_estimator=NoScore()) as graph:
        drawn = sample("fed", TokenCategorical(random_logits(2, 3, 5)))
    assert drawn.shape == (2, 3)
    assert graph.nodes["fed", None].log_prob is None


def test_enumeration_is_the_exact_expectation():
    logits = with_excluded(random_logits(2, 3, 5)).requires_grad_()
    price = random_logits(5, seed=3)
    with StochasticGraph(estimators={"z": Enumeration(independent_steps=True)}) as graph:
        graph.cost("c", price[sample("z", TokenCategorical(logits))])
    torch.testing.assert_close(graph.surrogate(), (logits.softmax(-1) @ price).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_excluded_tokens_and_temperature_are_those_of_changed_logits(dtype, temperature):
    logits = random_logits(3, 4, 7, dtype=dtype).requires_grad_()
    before = logits.detach().clone()
    first = torch.tensor([True, False, False, False]).expand(3, 4)
    ours = TokenCategorical(logits, temperature=temperature, excluded={1: None, 2: first})
    with_gradient = logits.detach().clone().requires_grad_()
    wide = with_gradient.to(torch.promote_types(dtype, torch.float32)) / temperature
    excluded = torch.zeros(3, 4, 7, dtype=torch.bool)
    excluded[..., 1] = True
    excluded[:, 0, 2] = True
    reference = TokenCategorical(wide.masked_fill(excluded, -INF))
    value = torch.tensor([[0, 2, 3, 4], [5, 6, 2, 0], [2, 1, 3, 2]])
    log_prob, expected = ours.log_prob(value), reference.log_prob(value)
    assert log_prob.isneginf().sum() == 2
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    other = TokenCategorical(logits, temperature=temperature, excluded={1: None, 2: first})
    torch.testing.assert_close(other.entropy(), reference.entropy())
    assert ours.mode.equal(reference.mode)
    torch.manual_seed(4)
    drawn = ours.sample((5,))
    torch.manual_seed(4)
    assert drawn.equal(reference.sample((5,)))
    log_prob.masked_fill(log_prob.isinf(), 0).sum().backward()
    expected.masked_fill(expected.isinf(), 0).sum().backward()
    torch.testing.assert_close(logits.grad, with_gradient.grad)
    assert logits.equal(before)


def test_gradients_with_excluded_tokens_are_right_to_second_order():
    logits = random_logits(2, 3, 5).requires_grad_()
    value = torch.tensor([[0, 2, 3], [3, 3, 0]])
    first = torch.tensor([True, False, False]).expand(2, 3)

    def log_prob(z):
        return TokenCategorical(z, temperature=0.7, excluded={1: None, 2: first}).log_prob(value)

    assert torch.autograd.gradcheck(log_prob, logits)
    assert torch.autograd.gradgradcheck(log_prob, logits)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"mask of excluded token 2 must be \[3, 4\]"):
        TokenCategorical(random_logits(3, 4, 7), excluded={2: torch.ones(4, dtype=torch.bool)})
