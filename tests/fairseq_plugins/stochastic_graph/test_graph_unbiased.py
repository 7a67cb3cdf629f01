"""Estimated gradients, averaged over all outputs, are those of the true expected cost.

No sampling error: every output of a tiny vocabulary is forced in turn and weighted by its exact
probability, which a plain teacher-forced loop computes.
"""

import copy
import itertools

import fairseq.utils
import pytest
import torch
from fairseq.data import Dictionary
from fairseq_setup import graph_criterion, sample_of, setup

from criterions.token_categorical import TokenCategorical
from fairseq_plugins import decoding
from fairseq_plugins.batch import Batch
from fairseq_plugins.decoding import DecodedTokens
from fairseq_plugins.rewards import Outputs


@pytest.fixture(autouse=True)
def exact_attention(monkeypatch):
    """fairseq's attention rounds its weights to float32, whatever the model's dtype."""
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: x.softmax(dim))


both_architectures = pytest.mark.parametrize("arch", ["transformer", "lstm"])


class Tiny:
    """A model of a vocabulary of two words, one source sentence, and how outputs are forced."""

    def __init__(self, corpus, arch="transformer", words=2, target=(4, 5), dropout=0.0):
        built = setup(corpus, arch, name="stochastic_graph", flags=("--dropout", dropout))
        self.task = copy.copy(built.task)
        dictionary = Dictionary()
        for index in range(words):
            dictionary.add_symbol(f"word{index}")
        self.task.src_dict = self.task.tgt_dict = dictionary
        self.eos, self.pad, self.vocab = dictionary.eos(), dictionary.pad(), len(dictionary)
        torch.manual_seed(3)
        self.model = self.task.build_model(built.config.model).double()
        for parameter in self.model.parameters():
            # Far from uniform, so that every mistake shows.
            parameter.data.mul_(3 if arch == "lstm" else 1.5)
        self.model.train()
        self.sample = sample_of([target], self.eos, self.pad, source_length=4)
        self.sample["net_input"]["src_tokens"][0, :3] = torch.tensor([4, 4 + (words > 1), 4])
        self.target = [*target, self.eos]

    def criterion(self, **options):
        return graph_criterion(self, **options).double()

    def allowed(self, step):
        return [v for v in range(self.vocab) if v != self.pad and (v != self.eos or step > 0)]

    def outputs(self, limit, prefix=(), stop=True):
        """All outputs of at most ``limit`` tokens that start with ``prefix``."""
        if len(prefix) == limit or (stop and self.eos in prefix):
            return [prefix]
        tails = [self.outputs(limit, (*prefix, v), stop) for v in self.allowed(len(prefix))]
        return list(itertools.chain(*tails))

    def logits(self, outputs, fed=None):
        """``[outputs, length, vocab]``: a pass over each, alone, without dropout."""
        length = max(map(len, outputs))
        rows = []
        self.model.eval()
        for output in outputs:
            tokens = fed or [self.eos, *output[:-1]]
            passed = self.model(
                self.sample["net_input"]["src_tokens"],
                self.sample["net_input"]["src_lengths"],
                torch.tensor([tokens]),
            )[0][0]
            missing = passed.new_zeros(length - passed.size(0), self.vocab)
            rows.append(torch.cat([passed, missing]))
        self.model.train()
        return torch.stack(rows)

    def log_probability(self, output, logits, free, temperature=1.0):
        """Of one output: the sum over the tokens that the model chose, where ``free``."""
        total = logits.new_zeros(())
        for step, token in enumerate(output):
            if free(step):
                row = (logits[step] / temperature)[self.allowed(step)].log_softmax(0)
                total = total + row[self.allowed(step).index(token)]
        return total

    def decoded(self, rows):
        """What ``decode`` would return, had it drawn these outputs."""
        length = max(map(len, rows))
        tokens = torch.tensor([[*row, *[self.pad] * (length - len(row))] for row in rows])
        emitted = torch.tensor([len(row) for row in rows])
        ended = torch.tensor([self.eos in row for row in rows])
        lengths = [row.index(self.eos) if self.eos in row else len(row) for row in rows]
        return DecodedTokens(tokens, emitted, ended, torch.tensor(lengths))

    def gradient(self, loss):
        parameters = list(self.model.parameters())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(parameters, gradients, strict=True)
        ]

    def estimate(self, criterion):
        """The gradient of one batch; the criterion's state stays as it was."""
        state = copy.deepcopy(criterion.state_dict())
        loss, sample_size, _ = criterion(self.model, self.sample)
        criterion.load_state_dict(state)
        return self.gradient(loss / sample_size)

    def average(self, criterion, monkeypatch, outputs, probabilities, samples=1):
        """The estimates of all outputs (of all tuples of ``samples`` outputs), weighted."""
        decode = decoding.decode
        forced = []

        def forcing(*arguments, sampling=None, **keywords):
            if sampling is None:
                return decode(*arguments, sampling=sampling, **keywords)
            return self.decoded(forced)

        monkeypatch.setattr(decoding, "decode", forcing)
        total = [torch.zeros_like(p) for p in self.model.parameters()]
        for chosen in itertools.product(range(len(outputs)), repeat=samples):
            forced = [outputs[index] for index in chosen]
            weight = torch.stack([probabilities[index] for index in chosen]).prod().detach()
            for sum_, gradient in zip(total, self.estimate(criterion), strict=True):
                sum_ += weight * gradient
        return total


def number(*tokens):
    """An arbitrary number from 0 to 1 that float32 holds exactly."""
    value = 7
    for token in tokens:
        value = (value * 31 + token * 17 + 5) % 127
    return value / 128


class Table:
    """A reward without rhyme or reason, so that no symmetry hides a mistake."""

    per_token = True

    def __call__(self, outputs):
        return self.increments(outputs).sum(1)

    def increments(self, outputs):
        rows = []
        for row in outputs.tokens.tolist():
            exists = [token != 1 for token in row]
            rows.append([number(*row[: i + 1]) / 4 if exists[i] else 0.0 for i in range(len(row))])
        return torch.tensor(rows)


def reward_of(output):
    return sum(number(*output[: i + 1]) / 4 for i in range(len(output)))


def outputs_of(tiny, decoded):
    return Outputs(
        tokens=decoded.tokens,
        lengths=decoded.lengths,
        references=torch.tensor([tiny.target]),
        reference_lengths=torch.tensor([len(tiny.target) - 1]),
        sources=tiny.sample["net_input"]["src_tokens"],
    )


def rewarded(tiny, **options):
    criterion = tiny.criterion(**{"objective": "reinforce", **options})
    criterion.cost.reward = Table()
    return criterion


def assert_same_gradients(actual, expected):
    assert sum(float(g.norm()) for g in expected) > 1e-2, "a gradient of 0 would show nothing"
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


def far_apart(one, other):
    difference = sum(float((a - b).norm()) for a, b in zip(one, other, strict=True))
    return difference > 0.05 * sum(float(b.norm()) for b in other)


def true_gradient(tiny, outputs, cost, temperature=1.0, free=lambda step: True, fed=None):
    """Of the expected cost: autograd through the sum; and the probabilities."""
    logits = tiny.logits(outputs, fed)
    log_probs = [
        tiny.log_probability(output, row, free, temperature)
        for output, row in zip(outputs, logits, strict=True)
    ]
    probabilities = torch.stack(log_probs).exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    costs = torch.stack(
        [torch.as_tensor(cost(o, r), dtype=r.dtype) for o, r in zip(outputs, logits, strict=True)]
    )
    return tiny.gradient((probabilities * costs).sum()), probabilities


BASELINES = {
    "none": {"baseline": "none"},
    "moving_average": {"baseline": "moving_average"},
    "greedy": {"baseline": "greedy"},
    "learned": {"baseline": "learned", "baseline_state_dim": 16},
}


@pytest.mark.parametrize("credit", ["whole", "reward_to_go"])
@pytest.mark.parametrize("baseline", BASELINES)
@both_architectures
def test_reinforce_with_every_baseline(corpus, monkeypatch, arch, baseline, credit):
    tiny = Tiny(corpus, arch, words=1, target=(4, 4))
    limit = 2 + (credit == "reward_to_go")
    criterion = rewarded(tiny, credit=credit, max_decode_length=limit, **BASELINES[baseline])
    if baseline == "moving_average":
        for _ in range(3):
            criterion(tiny.model, tiny.sample)
        assert criterion.estimators.token.baseline.weight > 0
    outputs = tiny.outputs(limit)
    expected, probabilities = true_gradient(tiny, outputs, lambda o, _: 1 - reward_of(o))
    actual = tiny.average(criterion, monkeypatch, outputs, probabilities)
    assert_same_gradients(actual, expected)


@pytest.mark.parametrize(
    ("arch", "weight", "options"),
    [
        ("transformer", 0, {}),
        ("lstm", 0.5, {}),
        ("transformer", 0.5, {"sentence_end": "ngram"}),
        ("transformer", 0, {"reward": "gleu"}),
    ],
)
def test_the_expected_cost_as_the_baseline(corpus, monkeypatch, arch, weight, options):
    """Outputs may have the reference's words, another one, and the unknown word."""
    tiny = Tiny(corpus, arch, words=2, target=(4, 3, 4))
    rewards = {"baseline": "expected", "max_decode_length": 3, **options}
    criterion = tiny.criterion(objective="reinforce", cross_entropy_weight=weight, **rewards)
    outputs = tiny.outputs(3)

    def cost(output, _):
        rows = tiny.decoded([output])
        return 1 - criterion.cost.reward(outputs_of(tiny, rows))[0]

    expected, probabilities = true_gradient(tiny, outputs, cost)
    if weight:
        cross_entropy, tokens, _ = tiny.criterion(objective="cross_entropy")(
            tiny.model, tiny.sample
        )
        added = tiny.gradient(weight * cross_entropy / tokens)
        expected = [one + other for one, other in zip(expected, added, strict=True)]
    actual = tiny.average(criterion, monkeypatch, outputs, probabilities)
    assert sum(float(g.norm()) for g in expected) > 1e-2
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)  # rewards are float32


@pytest.mark.parametrize(
    ("baseline", "credit"),
    [("leave_one_out", "whole"), ("leave_one_out", "reward_to_go"), ("none", "whole")],
)
def test_two_samples_of_a_source(corpus, monkeypatch, baseline, credit):
    tiny = Tiny(corpus, words=1, target=(4, 4))
    criterion = rewarded(tiny, baseline=baseline, credit=credit, samples=2, max_decode_length=2)
    outputs = tiny.outputs(2)
    expected, probabilities = true_gradient(tiny, outputs, lambda o, _: 1 - reward_of(o))
    actual = tiny.average(criterion, monkeypatch, outputs, probabilities, samples=2)
    assert_same_gradients(actual, expected)


def test_sampling_at_a_temperature_is_unbiased_for_the_distribution_of_that_temperature(
    corpus, monkeypatch
):
    tiny = Tiny(corpus)
    criterion = rewarded(tiny, sample_temperature=0.5, max_decode_length=2)
    outputs = tiny.outputs(2)
    expected, probabilities = true_gradient(
        tiny, outputs, lambda o, _: 1 - reward_of(o), temperature=0.5
    )
    assert_same_gradients(tiny.average(criterion, monkeypatch, outputs, probabilities), expected)


@pytest.mark.parametrize(
    ("options", "rewarded_from"),
    [({"teacher_prefix": "1"}, 0), ({"ignore_prefix_size": 1}, 1)],
    ids=["teacher_prefix", "ignore_prefix_size"],
)
@both_architectures
def test_a_forced_prefix_has_no_score(corpus, monkeypatch, arch, options, rewarded_from):
    tiny = Tiny(corpus, arch)
    criterion = rewarded(tiny, max_decode_length=3, **options)
    outputs = tiny.outputs(3, prefix=(4,))
    expected, probabilities = true_gradient(
        tiny,
        outputs,
        lambda o, _: 1 - reward_of(o[rewarded_from:]),
        free=lambda step: step > 0,
    )
    assert_same_gradients(tiny.average(criterion, monkeypatch, outputs, probabilities), expected)


@both_architectures
def test_dropout_of_the_model_is_off_where_samples_are_scored(corpus, monkeypatch, arch):
    tiny = Tiny(corpus, arch, dropout=0.4)
    assert tiny.model.training
    outputs = tiny.outputs(2)
    expected, probabilities = true_gradient(tiny, outputs, lambda o, _: 1 - reward_of(o))
    criterion = rewarded(tiny, max_decode_length=2)
    assert_same_gradients(tiny.average(criterion, monkeypatch, outputs, probabilities), expected)
    criterion = rewarded(tiny, max_decode_length=2, sample_dropout="scoring")
    assert far_apart(tiny.average(criterion, monkeypatch, outputs, probabilities), expected)


@pytest.mark.parametrize("credit", ["whole", "reward_to_go"])
@both_architectures
def test_tokens_emitted_by_a_teacher_forced_decoder(corpus, monkeypatch, arch, credit):
    tiny = Tiny(corpus, arch)
    criterion = rewarded(tiny, feed="teacher", credit=credit)
    outputs = tiny.outputs(3)
    expected, probabilities = true_gradient(
        tiny, outputs, lambda o, _: 1 - reward_of(o), fed=[tiny.eos, *tiny.target[:-1]]
    )
    total = [torch.zeros_like(p) for p in tiny.model.parameters()]
    for output, probability in zip(outputs, probabilities.detach(), strict=True):
        # What follows </s> is drawn as well, and must not count.
        drawn = torch.tensor([[*output, *[4] * (3 - len(output))]])
        monkeypatch.setattr(TokenCategorical, "sample", lambda distribution, drawn=drawn: drawn)
        for sum_, gradient in zip(total, tiny.estimate(criterion), strict=True):
            sum_ += probability * gradient
    assert_same_gradients(total, expected)


def plain_cross_entropy(tiny):
    def cost(output, logits):
        log_probs = logits.log_softmax(-1)
        return -sum(log_probs[step, token] for step, token in enumerate(tiny.target))

    return cost


FREE_RUNNING = {"feed": "sample", "cost": "cross_entropy"}


@pytest.mark.parametrize("baseline", ["none", "moving_average", "learned"])
@both_architectures
def test_free_running_cross_entropy(corpus, monkeypatch, arch, baseline):
    tiny = Tiny(corpus, arch, words=1, target=(4, 4))
    criterion = tiny.criterion(
        **FREE_RUNNING, estimator="score_function", sentence_avg=True, **BASELINES[baseline]
    )
    # A cost for every token of the reference: sampling goes on after </s>.
    outputs = tiny.outputs(3, stop=False)
    expected, probabilities = true_gradient(tiny, outputs, plain_cross_entropy(tiny))
    assert_same_gradients(tiny.average(criterion, monkeypatch, outputs, probabilities), expected)


def test_free_running_cross_entropy_of_two_samples_with_leave_one_out(corpus, monkeypatch):
    tiny = Tiny(corpus, words=1, target=(4,))
    options = {"baseline": "leave_one_out", "samples": 2, "estimator": "score_function"}
    criterion = tiny.criterion(**FREE_RUNNING, **options, sentence_avg=True)
    outputs = tiny.outputs(2, stop=False)
    expected, probabilities = true_gradient(tiny, outputs, plain_cross_entropy(tiny))
    actual = tiny.average(criterion, monkeypatch, outputs, probabilities, samples=2)
    assert_same_gradients(actual, expected)


@both_architectures
def test_without_the_score_term_the_gradient_of_the_choice_is_missing(corpus, monkeypatch, arch):
    """What is dropped is exactly ``sum_y grad p(y) c(y)``: biased, as documented."""
    tiny = Tiny(corpus, arch, words=1, target=(4, 4))
    criterion = tiny.criterion(**FREE_RUNNING, estimator="none", sentence_avg=True)
    outputs = tiny.outputs(3, stop=False)
    cost = plain_cross_entropy(tiny)
    whole, probabilities = true_gradient(tiny, outputs, cost)
    missing, _ = true_gradient(tiny, outputs, lambda o, row: cost(o, row).detach())
    actual = tiny.average(criterion, monkeypatch, outputs, probabilities)
    expected = [w - m for w, m in zip(whole, missing, strict=True)]
    assert_same_gradients(actual, expected)
    assert sum(float(gradient.norm()) for gradient in missing) > 1e-3


def weighted_mass(logits, steps):
    """A differentiable cost of the first ``steps`` rows ``[length, vocab]``, and their number."""
    weights = torch.arange(logits.numel(), dtype=logits.dtype).view_as(logits).cos()
    return (weights * logits.softmax(-1))[:steps].sum() + 0.1 * steps**2


@pytest.mark.parametrize("ignored", [0, 1])
@both_architectures
def test_expected_bleu_of_sampled_rows(corpus, monkeypatch, arch, ignored):
    """Whether ``</s>`` is drawn decides on how many rows there are, and so on the cost."""
    tiny = Tiny(corpus, arch, words=1, target=(4, 4))
    criterion = tiny.criterion(
        feed="sample",
        cost="expected_bleu",
        estimator="score_function",
        max_decode_length=3,
        ignore_prefix_size=ignored,
    )

    # In place of expected BLEU, which has its own tests, a cost that depends on every row.
    def stand_in(logits, batch, number):
        return torch.stack(
            [1 - weighted_mass(row, int(n)) for row, n in zip(logits, number, strict=True)]
        )

    criterion.cost.sentence_bleu = stand_in
    outputs = tiny.outputs(3, prefix=(4,) * ignored)
    expected, probabilities = true_gradient(
        tiny,
        outputs,
        lambda o, row: weighted_mass(row, len(o)),
        free=lambda step: step >= ignored,
    )
    assert_same_gradients(tiny.average(criterion, monkeypatch, outputs, probabilities), expected)


@both_architectures
def test_risk_over_all_outputs_is_the_expected_cost(corpus, monkeypatch, arch):
    tiny = Tiny(corpus, arch, words=1, target=(4, 4))
    outputs = tiny.outputs(3)
    criterion = rewarded(
        tiny,
        objective="minimum_risk",
        candidate_sharpness=1.0,
        samples=len(outputs) + 2,
        max_decode_length=3,
    )
    expected, _ = true_gradient(tiny, outputs, lambda o, _: 1 - reward_of(o))
    # Two outputs twice: the same candidate counts once.
    candidates = tiny.decoded([*outputs, outputs[0], outputs[-1]])
    monkeypatch.setattr(decoding, "decode", lambda *_, **__: candidates)
    assert_same_gradients(tiny.estimate(criterion), expected)


def test_every_output_and_no_other_is_drawn(corpus):
    """What is enumerated here is what decoding draws from."""
    tiny = Tiny(corpus, words=1, target=(4, 4))
    criterion = tiny.criterion(objective="leave_one_out", samples=400, max_decode_length=3)
    sources = Batch.of(tiny.sample, tiny.task.target_dictionary)
    done = criterion.rollouts.of(tiny.model, sources, 0)
    drawn = {
        tuple(row[: int(n)]) for row, n in zip(done.tokens.tolist(), done.num_tokens, strict=True)
    }
    assert drawn <= set(tiny.outputs(3))
    assert len(drawn) > 10
