"""Named objectives are what their papers say, and repeat no known fault of published code."""

import pytest
import sacrebleu
import torch
from fairseq.sequence_generator import SequenceGenerator
from fairseq_setup import ARCHITECTURES, evaluating, graph_criterion, setup

from fairseq_plugins import decoding
from fairseq_plugins.stochastic_graph import scored_pass


def built_with(corpus, learnt, arch="transformer", **options):
    return setup(corpus, arch, name="stochastic_graph", weights=learnt(arch), **options)


def assert_same(one, other, rtol=1e-5, atol=1e-6):
    (loss, gradients, _), (other_loss, other_gradients, _) = one, other
    assert loss == pytest.approx(other_loss, rel=rtol)
    torch.testing.assert_close(gradients, other_gradients, rtol=10 * rtol, atol=atol)


@pytest.fixture
def decodes(monkeypatch):
    """Calls of ``decode``: its arguments by name, and what it returned."""
    calls = []
    decode = decoding.decode

    def recording(*arguments, **keywords):
        result = decode(*arguments, **keywords)
        calls.append((keywords, result))
        return result

    monkeypatch.setattr(decoding, "decode", recording)
    return calls


@pytest.fixture
def fed_weights(monkeypatch):
    """What relaxed feeding feeds, and the logits it is made of: ``[batch, vocab]`` each step."""
    fed = []
    unroll = scored_pass.unrolled_logits

    def recording(*arguments, feed, **keywords):
        def recorded(logits, step):
            weights = feed(logits, step)
            fed.append((weights, logits))
            return weights

        return unroll(*arguments, feed=recorded, **keywords)

    monkeypatch.setattr(scored_pass, "unrolled_logits", recording)
    return fed


class Optimizer:
    """All that a task's ``train_step`` asks of one."""

    def backward(self, loss):
        loss.backward()


def train_step(built, sample, update):
    """A step as the trainer has it done; the log."""
    built.model.zero_grad()
    return built.task.train_step(sample, built.model, built.criterion, Optimizer(), update)[2]


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_cross_entropy_is_fairseqs(corpus, learnt, arch, label_smoothing, sentence_avg):
    name = "label_smoothed_cross_entropy" if label_smoothing else "cross_entropy"
    options = {"label_smoothing": label_smoothing} if label_smoothing else {}
    fairseqs = setup(
        corpus, arch, name=name, weights=learnt(arch), sentence_avg=sentence_avg, **options
    )
    ours = built_with(corpus, learnt, arch, sentence_avg=sentence_avg, **options)
    sample = fairseqs.batch(*range(20, 25))
    theirs = fairseqs.gradient(sample)
    actual = ours.gradient(sample)
    assert_same(actual, theirs, atol=1e-5)
    assert float(actual[2]["loss"]) == pytest.approx(float(theirs[2]["loss"]), rel=1e-5)
    nll = theirs[2]["nll_loss" if label_smoothing else "loss"]
    assert float(actual[2]["nll_loss"]) == pytest.approx(float(nll), rel=1e-5)
    assert actual[2]["sample_size"] == theirs[2]["sample_size"]


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "scheduled_sampling", "teacher_forcing": "1"},
        {"feed": "soft", "teacher_forcing": "1"},
        {"feed": "gumbel", "teacher_forcing": "1"},
        {"feed": "sample", "teacher_prefix": "100"},
        {"objective": "raml", "raml_temperature": 1e-3},
        {"objective": "raml", "raml_temperature": 1e-3, "raml_distance": "hamming"},
    ],
)
@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_limits_that_are_cross_entropy(corpus, learnt, arch, options):
    plain = built_with(corpus, learnt, arch)
    sample = plain.batch(*range(20, 25))
    expected = plain.gradient(sample)
    assert_same(built_with(corpus, learnt, arch, **options).gradient(sample), expected, atol=1e-5)


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_without_a_teacher_its_own_samples_are_fed(corpus, learnt, arch, decodes):
    built = built_with(corpus, learnt, arch, objective="scheduled_sampling", teacher_forcing="0")
    sample = built.batch(*range(20, 25))
    loss, gradients, _ = built.gradient(sample)
    [(_, decoded)] = decodes
    target = sample["target"]
    exists = target.ne(1)
    assert torch.equal(decoded.tokens.ne(1), exists)
    assert not torch.equal(decoded.tokens, target)
    fed = torch.cat([sample["net_input"]["prev_output_tokens"][:, :1], decoded.tokens], dim=1)
    net_input = {**sample["net_input"], "prev_output_tokens": fed[:, :-1]}
    log_probs = built.model(**net_input)[0].log_softmax(-1)
    plain = -log_probs.gather(2, target.unsqueeze(2)).squeeze(2)[exists].mean()
    built.model.zero_grad()
    plain.backward()
    expected = {name: p.grad for name, p in built.model.named_parameters()}
    assert loss == pytest.approx(float(plain), rel=1e-5)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


def test_schedules_follow_the_number_of_the_update(corpus, learnt, decodes):
    options = {"objective": "scheduled_sampling", "teacher_forcing": "linear:1:0.2:100"}
    built = built_with(corpus, learnt, **options)
    sample = built.batch(*range(60))
    exists = sample["target"].ne(1)
    for update in (0, 50, 100, 7):  # the last as after a reset
        train_step(built, sample, update)
        share = decodes[-1][0]["forced"].ne(1)[exists].double().mean()
        expected = max(0.2, 1 - 0.008 * update)
        tolerance = 4 * (expected * (1 - expected) / int(exists.sum())) ** 0.5
        assert float(share) == pytest.approx(expected, abs=tolerance + 1e-9)


def test_mixer_forces_fewer_tokens_from_update_to_update(corpus, learnt, decodes):
    options = {"objective": "mixer", "baseline_state_dim": 16, "teacher_prefix": "linear:4:0:8"}
    built = built_with(corpus, learnt, **options)
    sample = built.batch(*range(20, 25))
    rows = sample["target"].ne(1).sum(1)
    for update, prefix in ((0, 4), (4, 2), (7, 0), (100, 0)):
        logged = train_step(built, sample, update)
        keywords, decoded = decodes[-1]
        assert keywords["forced"].ne(1).sum(1).tolist() == rows.clamp(max=prefix).tolist()
        assert torch.equal(decoded.tokens[:, :prefix], sample["target"][:, :prefix])
        # The cross-entropy is over the forced tokens, and only these.
        net_input = sample["net_input"]
        log_probs = built.model(**net_input)[0].log_softmax(-1)
        nll = -log_probs.gather(2, sample["target"].unsqueeze(2)).squeeze(2)
        cross_entropy = nll[:, :prefix].sum() / sample["ntokens"]
        risk = 1 - logged["per_sentence/reward"] / sample["nsentences"]
        loss = logged["loss"] / logged["sample_size"]
        torch.testing.assert_close(loss, risk + cross_entropy.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_soft_feeding_at_no_temperature_is_greedy_feeding(corpus, learnt, arch):
    greedy = built_with(corpus, learnt, arch, feed="greedy")
    sample = greedy.batch(*range(20, 25))
    soft = built_with(corpus, learnt, arch, feed="soft", relaxation_temperature="1e-4")
    expected = greedy.gradient(sample)[0]
    assert soft.gradient(sample)[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("feed", ["soft", "gumbel", "gumbel_st", "straight_through"])
def test_relaxed_feeding_feeds_what_it_says(corpus, learnt, fed_weights, feed):
    """Not zeros, and one-hot vectors where the gradient is straight-through."""
    options = {"relaxation_temperature": "0.7"} if feed != "straight_through" else {}
    built = built_with(corpus, learnt, feed=feed, **options)
    loss = built.criterion(built.model, built.batch(*range(20, 25)))[0]
    weights = torch.stack([weights for weights, _ in fed_weights])
    logits = torch.stack([logits for _, logits in fed_weights])
    assert weights.requires_grad
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert weights[..., 1].eq(0).all(), "padding has no embedding"
    one_hot = weights.detach().amax(-1).eq(1)
    if feed in ("gumbel_st", "straight_through"):
        assert one_hot.all()
    else:
        assert not one_hot.all()
    if feed == "soft":
        expected = (logits.index_fill(-1, torch.tensor([1]), -torch.inf) / 0.7).softmax(-1)
        torch.testing.assert_close(weights, expected)
    # The gradient flows through what was fed, all the way to the logits it was made of.
    through = torch.autograd.grad(loss, fed_weights[0][0], retain_graph=True)[0]
    assert through.ne(0).any()
    assert torch.autograd.grad(loss, fed_weights[0][1])[0].ne(0).any()


@pytest.mark.parametrize("feed", ["gumbel", "gumbel_st", "straight_through"])
def test_noise_is_added_to_log_probabilities(corpus, learnt, fed_weights, feed):
    """Then, and only then, the largest weight is a sample of the model's distribution."""
    built = built_with(corpus, learnt, feed=feed)
    draws = 2000
    with torch.no_grad():
        built.criterion(built.model, built.batch(*[0] * draws))
    weights, logits = fed_weights[0]
    probabilities = logits[0].index_fill(0, torch.tensor([1]), -torch.inf).softmax(0)
    seen = torch.bincount(weights.argmax(1), minlength=probabilities.numel()) / draws
    tolerance = 5 * (probabilities * (1 - probabilities) / draws).sqrt() + 1 / draws
    assert ((seen - probabilities).abs() <= tolerance).all()
    assert seen.max() < 0.999, "a model that is certain shows nothing"


def sentence_bleu(words, reference):
    """sacrebleu's, of ids as words."""
    texts = (" ".join(f"w{token}" for token in tokens) for tokens in (words, reference))
    hypothesis, reference = texts
    options = {"smooth_method": "add-k", "smooth_value": 1, "use_effective_order": False}
    return sacrebleu.sentence_bleu(hypothesis, [reference], tokenize="none", **options).score / 100


def words_of(row, eos=2, pad=1):
    row = [token for token in row.tolist() if token != pad]
    return row[: row.index(eos)] if eos in row else row


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_the_self_critical_baseline_is_the_reward_of_the_greedy_output(
    corpus, learnt, arch, decodes
):
    """Greedy, not sampled: fairseq's own search with a beam of one finds the same."""
    built = built_with(corpus, learnt, arch, objective="self_critical", max_decode_length=12)
    for index in range(20, 24):
        sample = built.batch(index)
        logged = built.log(sample)
        with evaluating(built):
            generator = SequenceGenerator(
                [built.model], built.task.target_dictionary, beam_size=1, max_len_a=0, max_len_b=11
            )
            greedy = generator.generate([built.model], sample)[0][0]["tokens"]
        reference = words_of(sample["target"][0])
        expected = sentence_bleu(words_of(greedy), reference)
        sampled = next(d for k, d in reversed(decodes) if k.get("sampling") is not None)
        reward = sentence_bleu(words_of(sampled.tokens[0]), reference)
        log = {name.split("/")[-1]: float(value) for name, value in logged.items()}
        assert log["reward_greedy"] == pytest.approx(expected, rel=1e-5)
        assert log["baseline"] == pytest.approx(1 - expected, rel=1e-5, abs=1e-6)
        assert log["reward"] == pytest.approx(reward, rel=1e-5)
        assert log["advantage"] == pytest.approx(expected - reward, rel=1e-4, abs=1e-6)


def test_the_moving_average_is_of_past_updates(corpus, learnt):
    """Of all of them, with weights that decay, and not of the current one."""
    built = built_with(corpus, learnt, objective="reinforce", baseline_decay=0.8)
    costs, baselines = [], []
    for index in (20, 31, 42, 23):
        logged = train_step(built, built.batch(index), len(costs))
        costs.append(1 - float(logged["per_sentence/reward"]))
        baselines.append(float(logged["per_sentence/baseline"]))
    assert len(set(costs)) > 2
    assert baselines[0] == 0
    for now in range(1, len(costs)):
        weights = [0.8 ** (now - 1 - then) for then in range(now)]
        average = sum(w * c for w, c in zip(weights, costs[:now], strict=True)) / sum(weights)
        assert baselines[now] == pytest.approx(average, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        *({"objective": name} for name in ("self_critical", "leave_one_out", "group_normalized")),
        {"objective": "reinforce", "baseline": "expected"},
    ],
    ids=lambda options: options.get("baseline", options["objective"]),
)
def test_a_reward_that_tells_nothing_teaches_nothing(corpus, learnt, options):
    built = built_with(corpus, learnt, reward="constant", **options)
    gradients = built.gradient(built.batch(*range(20, 25)))[1]
    assert all(gradient.abs().max() < 1e-7 for gradient in gradients.values())


def test_a_learned_baseline_learns(corpus, learnt):
    built = built_with(
        corpus, learnt, objective="reinforce", baseline="learned", baseline_state_dim=16
    )
    sample = built.batch(*range(20, 30))
    optimiser = torch.optim.Adam(built.criterion.parameters(), lr=0.05)
    variances = []
    for update in range(15):
        optimiser.zero_grad()
        logged = train_step(built, sample, update)
        assert all(p.grad.ne(0).any() for p in built.criterion.estimators.token.parameters())
        optimiser.step()
        variances.append(float(logged["per_sentence/advantage"]) ** 2)
    assert sum(variances[-3:]) < 0.5 * sum(variances[:3])


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_the_reference_is_one_of_the_candidates(corpus, learnt, arch):
    built = built_with(
        corpus, learnt, arch, objective="sequence_nll", samples=2, candidate_reference=True
    )
    plain = graph_criterion(built, objective="sequence_nll", samples=2)
    sample = built.batch(20, 21)
    torch.manual_seed(2)
    logged = built.criterion(built.model, sample)[2]
    torch.manual_seed(2)
    without = plain(built.model, sample)[2]
    # It is a candidate of the loss, but none of the samples that the log tells of.
    assert not torch.allclose(logged["loss"], without["loss"])
    for name in ("unique_samples", "reward", "sample_length"):
        torch.testing.assert_close(*(log[f"per_sentence/{name}"] for log in (logged, without)))


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"objective": "expected_bleu"}, 1),
        ({"cost": "reward", "feed": "teacher", "sample_dropout": "scoring"}, 1),
        ({"cost": "reward", "feed": "teacher"}, 2),
        ({"objective": "expected_bleu", "feed": "greedy"}, 2),
    ],
)
def test_added_cross_entropy_takes_the_pass_of_the_cost_where_that_reads_the_reference(
    corpus, learnt, options, passes, sentence_avg
):
    def step(**more):
        built = built_with(corpus, learnt, sentence_avg=sentence_avg, **more)
        calls = []
        built.model.encoder.register_forward_hook(lambda *_: calls.append(1))
        torch.manual_seed(1)
        return *built.gradient(built.batch(*range(20, 25))), len(calls)

    alone, cross_entropy = step(**options, cross_entropy_weight=0.0), step(label_smoothing=0.1)
    both = step(**options, cross_entropy_weight=0.5, label_smoothing=0.1)
    # With --sentence-avg, fairseq's own cross-entropy is a sum over tokens, this one their mean.
    sizes = cross_entropy[2]
    weight = 0.5 * (sizes["nsentences"] / sizes["ntokens"] if sentence_avg else 1)
    assert float(both[2]["loss"]) == pytest.approx(
        float(alone[2]["loss"]) + weight * float(cross_entropy[2]["loss"]), rel=1e-5
    )
    expected = {
        name: gradient + weight * cross_entropy[1][name] for name, gradient in alone[1].items()
    }
    torch.testing.assert_close(both[1], expected, rtol=1e-4, atol=1e-6)
    assert float(both[2]["nll_loss"]) == pytest.approx(float(cross_entropy[2]["nll_loss"]))
    assert both[3] - alone[3] == passes - 1
