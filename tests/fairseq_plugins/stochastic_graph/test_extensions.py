"""A reward, a baseline, a cost, a preset and a token estimator of one's own, in one place each."""

import pytest
import torch
from fairseq_setup import graph_criterion, setup

from criterions.stochastic_graph import BASELINES, Baseline, Draw, ScoreFunction
from fairseq_plugins.rewards import Reward
from fairseq_plugins.rewards.reward import REWARDS
from fairseq_plugins.stochastic_graph.costs import COSTS, Cost
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES, Objective
from fairseq_plugins.stochastic_graph.token_estimators import TOKEN_ESTIMATORS


@pytest.fixture(scope="module")
def built(corpus):
    return setup(corpus, name="stochastic_graph")


@pytest.fixture(autouse=True)
def registries_as_before(monkeypatch):
    for registry in (BASELINES, COSTS, TOKEN_ESTIMATORS, REWARDS["tokens"]):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def trained(built, **options):
    """Gradients and log of a step, whose samples are always the same."""
    built.criterion = graph_criterion(built, **options)
    torch.manual_seed(3)
    _, gradients, logged = built.gradient(built.batch(20, 21, 22))
    assert any(gradient.ne(0).any() for gradient in gradients.values())
    return gradients, {name.split("/")[-1]: float(value) for name, value in logged.items()}


def test_a_reward(built):
    @REWARDS["tokens"].register("brevity")
    class Brevity(Reward):
        """1 / (1 + length)."""

        def __call__(self, outputs):
            return 1 / (1.0 + outputs.lengths)

    logged = trained(built, objective="reinforce", reward="brevity", max_decode_length=1)[1]
    empty = 3 - logged["sample_length"]
    assert logged["reward"] == pytest.approx(empty + logged["sample_length"] / 2)


def test_a_baseline(built):
    @BASELINES.register("half")
    class Half(Baseline):
        """0.5."""

        def forward(self, node):
            return torch.full_like(node.cost, 0.5)

    logged = trained(built, objective="reinforce", baseline="half")[1]
    assert logged["baseline"] == pytest.approx(3 * 0.5)
    without = trained(built, objective="reinforce", baseline="none")[1]
    assert logged["advantage"] == pytest.approx(without["advantage"] - 3 * 0.5, abs=1e-5)


def test_a_cost(built):
    @COSTS.register("first_token")
    class FirstToken(Cost):
        """Negative log-probability of the first token of the reference."""

        def record(self, done, rollout, greedy):
            log_probs = done.logits[:, 0].log_softmax(-1)
            first = rollout.batch.reference.tokens[:, :1]
            done.graph.cost("first_token", -log_probs.gather(1, first).squeeze(1))
            return {}

        def validate(self, sources, logits, greedy):
            raise NotImplementedError

    gradients, logged = trained(built, cost="first_token")
    sample = built.batch(20, 21, 22)
    log_probs = built.model(**sample["net_input"])[0][:, 0].log_softmax(-1)
    expected = -log_probs.gather(1, sample["target"][:, :1]).mean()
    built.model.zero_grad()
    expected.backward()
    assert logged["loss"] / logged["sample_size"] == pytest.approx(float(expected), rel=1e-5)
    for name, parameter in built.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_preset(built, monkeypatch):
    flags = {"feed": "sample", "cost": "reward", "baseline": "leave_one_out", "samples": 3}
    monkeypatch.setitem(OBJECTIVES, "three_samples", Objective("of one's own", flags))
    named, spelt = trained(built, objective="three_samples"), trained(built, **flags)
    assert named[1] == spelt[1]
    torch.testing.assert_close(named[0], spelt[0])


def test_a_token_estimator(built):
    @TOKEN_ESTIMATORS.register("doubled")
    class Doubled(ScoreFunction):
        """Twice the score function's estimate."""

        def _draw(self, distribution, value, update):
            draw = super()._draw(distribution, value, update)
            return Draw(draw.value, log_prob=2 * draw.log_prob)

    options = {"objective": "leave_one_out", "samples": 2}
    once = trained(built, **options)[0]
    twice = trained(built, **options, estimator="doubled")[0]
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], 2 * gradient)
