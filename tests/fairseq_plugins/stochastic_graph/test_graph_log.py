"""What is logged is what it is called; padding and validation change nothing."""

import copy

import pytest
import sacrebleu
import torch
from fairseq_setup import (
    evaluating,
    graph_criterion,
    layer_for,
    logged_metrics,
    sentences_of,
    setup,
)

from criterions.token_categorical import TokenCategorical
from fairseq_plugins import decoding
from fairseq_plugins.decoding import DecodedTokens
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES

EOS, PAD = 2, 1


@pytest.fixture
def decodes(monkeypatch):
    """What ``decode`` returned, sampled outputs only."""
    results = []
    decode = decoding.decode

    def recording(*arguments, sampling=None, **keywords):
        result = decode(*arguments, sampling=sampling, **keywords)
        if sampling is not None:
            results.append(result)
        return result

    monkeypatch.setattr(decoding, "decode", recording)
    return results


def outputs_of(decoded):
    """Emitted tokens of each row, ``</s>`` included."""
    return [
        tuple(row[:number])
        for row, number in zip(decoded.tokens.tolist(), decoded.emitted.tolist(), strict=True)
    ]


def words_of(tokens):
    tokens = [token for token in tokens if token != PAD]
    return tokens[: tokens.index(EOS)] if EOS in tokens else tokens


def sentence_bleu(output, reference):
    """sacrebleu's, of ids as words."""
    texts = [" ".join(f"w{token}" for token in words_of(list(t))) for t in (output, reference)]
    options = {"smooth_method": "add-k", "smooth_value": 1, "use_effective_order": False}
    return sacrebleu.sentence_bleu(texts[0], texts[1:], tokenize="none", **options).score / 100


def token_log_probabilities(model, sample, index, output):
    """``[tokens, vocab]``: the distribution of each token of one output, without padding."""
    one = list(sentences_of(sample, PAD))[index]["net_input"]
    fed = torch.tensor([[EOS, *output[:-1]]])
    with torch.no_grad():
        logits = model(**{**one, "prev_output_tokens": fed})[0][0]
    logits[:, PAD] = -torch.inf
    logits[0, EOS] = -torch.inf
    return logits.log_softmax(-1)


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
@pytest.mark.parametrize("objective", ["leave_one_out", "minimum_risk"])
def test_the_log_of_sampled_outputs(corpus, learnt, decodes, arch, objective):
    options = {"samples": 4}
    if objective == "minimum_risk":
        options["candidate_sharpness"] = 0.3
    built = setup(
        corpus, arch, name="stochastic_graph", objective=objective, weights=learnt(arch), **options
    )
    sample = built.batch(20, 24, 28)
    logged = logged_metrics(built.criterion, built.log(sample))
    outputs = outputs_of(decodes[-1])
    assert len({len(output) for output in outputs}) > 2, "padding has to be there"
    references = sample["target"].tolist()
    rewards = [sentence_bleu(o, references[i // 4]) for i, o in enumerate(outputs)]
    rows = [token_log_probabilities(built.model, sample, i // 4, o) for i, o in enumerate(outputs)]
    log_probs = [row[torch.arange(len(o)), list(o)] for row, o in zip(rows, outputs, strict=True)]
    mean = sum(rewards) / 12
    assert logged["reward"] == pytest.approx(mean, rel=1e-3)
    lengths = [len(words_of(list(output))) for output in outputs]
    assert logged["sample_length"] == pytest.approx(sum(lengths) / 12, abs=1e-3)
    groups = [slice(4 * i, 4 * i + 4) for i in range(3)]
    unique = [len(set(outputs[group])) for group in groups]
    assert logged["unique_samples"] == pytest.approx(sum(unique) / 3, abs=1e-3)
    if objective == "leave_one_out":
        entropies = torch.cat([-(row.exp() * row.clamp(min=-1e9)).sum(1) for row in rows])
        assert logged["entropy"] == pytest.approx(float(entropies.mean()), abs=2e-4)
        assert logged["log_prob"] == pytest.approx(float(torch.cat(log_probs).mean()), abs=2e-4)
        # Baseline and advantage are means over tokens: a long output counts for more.
        others = [(sum(rewards[4 * (i // 4) :][:4]) - r) / 3 for i, r in enumerate(rewards)]
        weights = [len(output) / sum(map(len, outputs)) for output in outputs]
        baselines = [1 - other for other in others]
        advantages = [other - reward for other, reward in zip(others, rewards, strict=True)]

        def weighted(values):
            return sum(w * v for w, v in zip(weights, values, strict=True))

        assert logged["baseline"] == pytest.approx(weighted(baselines), abs=2e-4)
        assert logged["advantage"] == pytest.approx(weighted(advantages), abs=2e-4)
        variance = weighted([(a - weighted(advantages)) ** 2 for a in advantages])
        assert logged["advantage_variance"] == pytest.approx(variance, abs=2e-4)
        assert logged["loss"] == pytest.approx(1 - mean, abs=2e-4)
        return
    sizes, risks = [], []
    for group in groups:
        pairs = zip(log_probs[group], rewards[group], strict=True)
        different = dict(zip(outputs[group], pairs, strict=True))
        scores = torch.stack([0.3 * score.sum() for score, _ in different.values()])
        weights = scores.softmax(0)
        sizes.append(float(1 / weights.square().sum()))
        costs = torch.tensor([1 - reward for _, reward in different.values()])
        risks.append(float((weights * costs).sum()))
    assert logged["effective_sample_size"] == pytest.approx(sum(sizes) / 3, abs=2e-4)
    assert logged["loss"] == pytest.approx(sum(risks) / 3, abs=2e-4)


@pytest.mark.parametrize("options", [{}, {"sentence_avg": True}, {"credit": "reward_to_go"}])
def test_the_loss_in_the_log_is_the_cost_and_not_the_surrogate(corpus, learnt, options):
    weights = learnt("transformer")
    built = setup(
        corpus, name="stochastic_graph", objective="reinforce", weights=weights, **options
    )
    loss, sample_size, logged = built.criterion(built.model, built.batch(20, 24, 28))
    cost = 1 - logged["per_sentence/reward"] / 3
    torch.testing.assert_close(logged["loss"] / sample_size, cost)
    assert abs(float(loss / sample_size - cost)) > 0.01
    assert sample_size == (3 if options.get("sentence_avg") else logged["ntokens"])


def test_logs_of_workers_add_up(corpus, learnt):
    built = setup(
        corpus, name="stochastic_graph", objective="self_critical", weights=learnt("transformer")
    )
    logs = [built.log(built.batch(20, 24, 28)), built.log(built.batch(21))]
    merged = logged_metrics(built.criterion, *logs)
    for name in ("reward", "reward_greedy", "sample_length", "entropy", "baseline"):
        sums = [float(log[f"per_sentence/{name}"]) for log in logs]
        assert merged[name] == pytest.approx(sum(sums) / 4, abs=1e-4)
    tokens = sum(log["ntokens"] for log in logs)
    assert merged["loss"] == pytest.approx(
        sum(float(log["loss"]) for log in logs) / tokens, abs=1e-4
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_validation_is_deterministic_and_leaves_no_trace(corpus, learnt, objective):
    built = setup(
        corpus,
        name="stochastic_graph",
        objective=objective,
        weights=learnt("transformer"),
        flags=("--dropout", "0.3"),
    )
    with layer_for(built, objective):
        check_validation(built)


def check_validation(built):
    sample = built.batch(20, 24, 28)
    built.gradient(sample)
    state = copy.deepcopy(built.criterion.state_dict())
    random_state = torch.get_rng_state()
    with evaluating(built), torch.no_grad():
        first, second = (logged_metrics(built.criterion, built.log(sample)) for _ in range(2))
        alone = [logged_metrics(built.criterion, built.log(s)) for s in sentences_of(sample, PAD)]
    assert first == second
    assert torch.equal(torch.get_rng_state(), random_state)
    assert state.keys() == built.criterion.state_dict().keys()
    assert all(
        torch.equal(state[name], value) for name, value in built.criterion.state_dict().items()
    )
    for name in ("reward_greedy", "sample_length", "expected_bleu"):
        if name in first:
            values = [log[name] for log in alone]
            assert first[name] == pytest.approx(sum(values) / 3, abs=2e-4)


REPLAYED = {
    "cross_entropy": {},
    "reinforce": {"objective": "reinforce", "baseline": "none"},
    "reward_to_go": {"objective": "reinforce", "baseline": "none", "credit": "reward_to_go"},
    "self_critical": {"objective": "self_critical", "sample_temperature": 2.0},
    "leave_one_out": {"objective": "leave_one_out", "samples": 3},
    "minimum_risk": {"objective": "minimum_risk", "samples": 3, "candidate_sharpness": 0.5},
    "max_margin": {"objective": "max_margin", "samples": 3, "candidate_reference": True},
    "group_normalized": {"objective": "group_normalized", "samples": 3},
    "free_running": {"objective": "free_running"},
    "free_running scored": {"objective": "free_running", "estimator": "score_function"},
    "sampled rows": {"feed": "sample", "cost": "expected_bleu", "estimator": "score_function"},
    "expected_bleu": {"objective": "expected_bleu", "cross_entropy_weight": 0.0},
    "emitted": {"cost": "reward"},
    "soft_feeding": {"objective": "soft_feeding"},
    "greedy rows": {"feed": "greedy", "cost": "expected_bleu"},
    "ignored prefix": {"objective": "reinforce", "baseline": "none", "ignore_prefix_size": 2},
}


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
@pytest.mark.parametrize("case", REPLAYED)
def test_padding_changes_nothing(corpus, learnt, monkeypatch, arch, case):
    """A batch is its sentences one by one, if these get the outputs that were drawn for it."""
    built = setup(corpus, arch, name="stochastic_graph", weights=learnt(arch))
    options = REPLAYED[case]
    built.criterion = graph_criterion(built, **options)
    built.criterion.train()
    samples = options.get("samples", 1)
    sample = built.batch(20, 24, 28)
    drawn = {}
    decode, sample_distribution = decoding.decode, TokenCategorical.sample
    replaying = None

    def recording_decode(*arguments, sampling=None, **keywords):
        if replaying is None or sampling is None:
            result = decode(*arguments, sampling=sampling, **keywords)
            if sampling is not None:
                drawn["decoded"] = result
            return result
        rows = slice(replaying * samples, (replaying + 1) * samples)
        whole = drawn["decoded"]
        return DecodedTokens(
            whole.tokens[rows, : int(whole.emitted[rows].max())],
            *(value[rows] for value in (whole.emitted, whole.ended, whole.lengths)),
        )

    def recording_sample(distribution, *shape):
        if replaying is None:
            drawn["tokens"] = sample_distribution(distribution, *shape)
            return drawn["tokens"]
        return drawn["tokens"][replaying : replaying + 1, : distribution.batch_shape[1]]

    monkeypatch.setattr(decoding, "decode", recording_decode)
    monkeypatch.setattr(TokenCategorical, "sample", recording_sample)
    loss, gradients, logged = built.gradient(sample)
    total, log_total = 0.0, 0.0
    summed = {name: torch.zeros_like(value) for name, value in gradients.items()}
    for index, one in enumerate(sentences_of(sample, PAD)):
        replaying = index
        alone, alone_gradients, alone_logged = built.gradient(one)
        by_tokens = built.criterion.settings.cost == "cross_entropy"
        share = one["ntokens"] / sample["ntokens"] if by_tokens else 1 / 3
        total += share * alone
        log_total += share * float(alone_logged["loss"]) / one["ntokens"]
        for name, value in alone_gradients.items():
            summed[name] += share * value
    assert loss == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert float(logged["loss"]) / sample["ntokens"] == pytest.approx(log_total, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(gradients, summed, rtol=1e-3, atol=2e-5)
    assert any(value.abs().max() > 1e-4 for value in gradients.values())
