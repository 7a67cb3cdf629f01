"""Graphs of size 0 and 1, saturated probabilities and every floating dtype, against float64."""

import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.distributions import OneHotCategorical
from torch_versions import TORCH_2

from criterions import TokenCategorical
from criterions.stochastic_graph import (
    BASELINES,
    ESTIMATORS,
    LearnedBaseline,
    OneHotLaw,
    ScoreFunction,
    StochasticGraph,
)

LOW = (torch.float16, torch.bfloat16) if TORCH_2 else ()
FLOATS = st.sampled_from([*LOW, torch.float32, torch.float64])
SEEDS = st.integers(0, 2**32 - 1)
SHARPNESS = st.sampled_from([0.0, 1.0, 1e3, math.inf])
BATCHES = st.sampled_from([0, 1, 3])
TIMES = st.sampled_from([None, 0, 1, 3])
VOCABULARY, STATES = 4, 2
few = settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.generate))


def logits_of(generator, shape, sharpness, dtype):
    """Infinitely sharp ones exclude all tokens but one."""
    z = torch.randn(*shape, VOCABULARY, generator=generator)
    if math.isinf(sharpness):
        best = z.argmax(-1, keepdim=True) if z.numel() else z.long()
        return torch.full_like(z, -math.inf).scatter(-1, best, 0.0).to(dtype)
    return (sharpness * z).to(dtype)


@few
@given(
    SEEDS,
    BATCHES,
    st.sampled_from([1, 2]),
    TIMES,
    st.booleans(),
    st.booleans(),
    SHARPNESS,
    FLOATS,
    st.sampled_from(BASELINES.names),
)
def test_scores(seed, sources, samples, time, cost_has_time, masked, sharpness, dtype, baseline):
    """Loss, gradients, statistics, and what a baseline has learnt."""
    if baseline == "leave_one_out":
        samples = 2
    generator = torch.Generator().manual_seed(seed)
    steps = () if time is None else (time,)
    shape = (sources * samples, *steps)
    logits = logits_of(generator, shape, sharpness, dtype)
    torch.manual_seed(seed % 1000)
    drawn = TokenCategorical(logits).sample()
    cost_shape = shape if cost_has_time else shape[:1]
    costs = torch.rand(cost_shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.5 if masked else None
    given_to_baseline = {
        "greedy": torch.rand(sources, generator=generator),
        "learned": torch.randn(*shape, STATES, generator=generator),
        "expected": torch.rand(shape, generator=generator),
    }.get(baseline)

    results = []
    for kind in (dtype, torch.float64):
        torch.manual_seed(0)
        made = LearnedBaseline(STATES) if baseline == "learned" else BASELINES.create(baseline)
        module = ScoreFunction(made.to(kind))
        leaf = logits.to(kind).requires_grad_()
        wide = torch.promote_types(kind, torch.float32)
        with StochasticGraph(default_estimator=module, samples=samples, values={"z": drawn}) as g:
            extra = given_to_baseline
            if extra is not None:  # a state has the model's dtype, a cost the costs'
                extra = extra.to(kind if baseline == "learned" else wide)
            g.sample("z", TokenCategorical(leaf), mask=mask, baseline_input=extra)
            g.cost("c", costs.to(wide), mask=mask if cost_has_time else None)
        loss = g.surrogate() + g.baseline_loss()
        assert loss.shape == ()
        assert g.surrogate_per_source().shape == (sources,)
        parameters = [leaf, *module.parameters()]
        gradients = torch.autograd.grad(loss, parameters)
        assert [x.shape for x in gradients] == [x.shape for x in parameters]
        values = {name: value for name, value in g.statistics().items() if "cost" not in name}
        values |= {f"state {name}": value for name, value in module.named_buffers()}
        results.append((loss, gradients, values))
    (loss, gradients, values), (exact, exact_gradients, exact_values) = results
    tolerance = 1e-4 if baseline != "learned" or torch.finfo(dtype).bits > 16 else 0.1
    torch.testing.assert_close(loss.double(), exact, rtol=tolerance, atol=tolerance)
    for found, wanted in zip(gradients, exact_gradients, strict=True):
        assert not (found.isnan() & ~wanted.isnan()).any()
    assert values.keys() == exact_values.keys()
    for name, wanted in exact_values.items():
        torch.testing.assert_close(
            values[name].double(), wanted.double(), rtol=tolerance, atol=tolerance, msg=name
        )


@few
@given(
    SEEDS, st.sampled_from([0, 1, 3]), TIMES, SHARPNESS, FLOATS, st.sampled_from(ESTIMATORS.names)
)
def test_values(seed, batch, time, sharpness, dtype, name):
    """What each estimator gives a layer, and the gradient through it."""
    generator = torch.Generator().manual_seed(seed)
    steps = () if time is None else (time,)
    leaf = logits_of(generator, (batch, *steps), sharpness, dtype).requires_grad_()
    options = {"independent_steps": True} if name == "enumeration" and steps else {}
    estimator = ESTIMATORS.create(name, **options)
    # torch's own cannot check an empty batch, and refuses its own probabilities in 16 bits, which
    # need not sum to 1 there.
    ours = seed % 2 or not leaf.numel() or torch.finfo(dtype).bits < 32
    distribution = (OneHotLaw if ours else OneHotCategorical)(logits=leaf)
    if name == "reparameterized":
        with pytest.raises(ValueError, match="no rsample"):
            estimator.draw(distribution)
        return
    torch.manual_seed(seed % 1000)
    with StochasticGraph(default_estimator=estimator) as graph:
        value = graph.sample("z", distribution)
        weights = torch.arange(VOCABULARY).to(value)
        graph.cost("c", (value * weights).sum(-1))
    expected = (batch, *steps, VOCABULARY)
    assert value.shape[value.dim() - len(expected) :] == expected
    assert not value.isnan().any()
    torch.testing.assert_close(
        value.double().sum(-1), torch.ones_like(value[..., 0]).double(), rtol=0.02, atol=0.02
    )
    loss = graph.surrogate()
    assert loss.isfinite()
    (gradient,) = torch.autograd.grad(loss + 0 * leaf.masked_fill(leaf.isinf(), 0).sum(), leaf)
    assert gradient.shape == leaf.shape
    assert gradient.dtype == dtype
    assert not gradient.isnan().any()
