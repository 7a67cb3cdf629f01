"""One-hot laws without checks: those of ``torch.distributions``, but for what these wait for."""

from pathlib import Path

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Independent,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)

from criterions.stochastic_graph import ESTIMATORS, OneHotLaw, deterministic_value, one_hot_argmax
from criterions.stochastic_graph.laws import relaxed_law

LOGITS = torch.tensor([[1.0, 0.0, -0.5, -torch.inf], [0.3, 0.2, 0.1, 2.0]])
ROWS = 20_000


def test_the_law_is_torchs():
    law, expected = OneHotLaw(logits=LOGITS), OneHotCategorical(logits=LOGITS, validate_args=False)
    assert (law.batch_shape, law.event_shape) == (expected.batch_shape, expected.event_shape)
    values = law.enumerate_support()[:3]
    assert values.equal(expected.enumerate_support()[:3])
    for name in ("mean", "variance", "probs", "logits"):
        torch.testing.assert_close(getattr(law, name), getattr(expected, name))
    torch.testing.assert_close(law.log_prob(values), expected.log_prob(values))
    torch.testing.assert_close(law.entropy(), expected.entropy())
    torch.testing.assert_close(OneHotLaw(probs=LOGITS.softmax(-1)).mean, law.mean)


def test_draws_have_their_probabilities():
    """Five standard errors, also where the law is that of many rows or of many samples."""
    torch.manual_seed(1)
    law = OneHotLaw(logits=LOGITS)
    many_rows = law.expand((ROWS, 2))
    assert isinstance(many_rows, OneHotLaw)
    p = LOGITS.softmax(-1)
    for drawn in (many_rows.sample(), law.sample((ROWS,))):
        assert drawn.shape == (ROWS, 2, 4)
        assert drawn.sum(-1).eq(1).all()
        assert ((drawn.mean(0) - p).abs() <= 5 * (p * (1 - p) / ROWS).sqrt()).all()


def test_the_deterministic_value_is_the_likeliest():
    expected = [[1, 0, 0, 0], [0, 0, 0, 1]]
    for law in (OneHotLaw(logits=LOGITS), OneHotCategorical(logits=LOGITS, validate_args=False)):
        assert deterministic_value(law).tolist() == expected
    assert one_hot_argmax(LOGITS).tolist() == expected


@pytest.mark.parametrize("copies", [None, 3])
@pytest.mark.parametrize("kind", ["one-hot", "bernoulli"])
def test_relaxations_are_torchs(kind, copies):
    logits, temperature = LOGITS[1:].double(), torch.tensor(0.7, dtype=torch.float64)
    if kind == "one-hot":
        law, theirs = OneHotLaw(logits=logits), RelaxedOneHotCategorical
    else:
        law, theirs = Bernoulli(logits=logits), RelaxedBernoulli
    ours, expected = relaxed_law(law, 0.7), theirs(temperature, logits=logits)
    assert isinstance(ours, theirs)
    if copies is not None:
        shape = (copies, *law.batch_shape)
        ours, expected = ours.expand(shape), expected.expand(shape)
        assert isinstance(ours, type(relaxed_law(law, 0.7)))
    torch.manual_seed(2)
    value = ours.rsample()
    torch.manual_seed(2)
    torch.testing.assert_close(value, expected.rsample())
    torch.testing.assert_close(ours.log_prob(value), expected.log_prob(value))


@pytest.mark.parametrize(
    "name",
    [
        *("none", "score_function", "straight_through", "expectation", "mode"),
        *("gumbel_softmax", "straight_through_gumbel"),
    ],
)
def test_no_estimator_reads_a_value_back_or_minds_scores_that_are_not_finite(name, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from host_reads import HostReads

    logits = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [torch.inf, 0.0]], requires_grad=True)
    with HostReads() as reads:
        law = OneHotLaw(logits=logits)
        draw = ESTIMATORS.create(name).draw(law)
        law.entropy()
    assert not reads.operations
    assert draw.value.shape == (3, 2)
    if name == "score_function":
        assert draw.log_prob[0].isfinite()
        assert draw.log_prob[1:].isnan().all()


def test_gates_are_relaxed_without_a_wait(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from host_reads import HostReads

    gates = Independent(
        Bernoulli(logits=torch.tensor([[0.5, torch.nan]]), validate_args=False),
        1,
        validate_args=False,
    )
    with HostReads() as reads:
        ESTIMATORS.create("straight_through_gumbel").draw(gates)
    assert not reads.operations
