"""Feeding weights over the vocabulary, against a decoder run anew on every prefix."""

import fairseq.utils
import pytest
import torch
import torch.nn.functional as F
from fairseq.distributed import ModuleProxyWrapper
from fairseq_setup import setup
from torch import nn

from fairseq_plugins.relaxed_feeding import two_pass_logits, unrolled_logits

PAD = 1
# Architectures, and flags that change how tokens are embedded or how the decoder is run.
MODELS = {
    "transformer": ("transformer", ()),
    "transformer-shared": (
        "transformer",
        ("--share-all-embeddings", "--decoder-learned-pos", "--layernorm-embedding"),
    ),
    "transformer-checkpointed": ("transformer", ("--checkpoint-activations",)),
    "lstm": ("lstm", ()),
    "lstm-shared": ("lstm", ("--share-all-embeddings",)),
    "fconv": ("fconv", ()),
}
one_of_each = pytest.mark.parametrize("name", ["transformer", "lstm", "fconv"])
every_model = pytest.mark.parametrize("name", MODELS)
both_forms = pytest.mark.parametrize(
    "relaxed", [unrolled_logits, two_pass_logits], ids=["unrolled", "two-pass"]
)


@pytest.fixture(autouse=True)
def attention_in_the_models_precision(monkeypatch):
    """fairseq's attention takes its softmax in float32 even in a float64 model."""
    monkeypatch.setattr(
        fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: F.softmax(x, dim=dim)
    )


def built_model(corpus, name, *, indices=range(3), dtype=torch.float64):
    """A model with embeddings so large that it matters what is fed; a batch's net_input."""
    arch, flags = MODELS[name]
    built = setup(corpus, arch, name="cross_entropy", flags=flags)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for embed_tokens in (built.model.encoder.embed_tokens, built.model.decoder.embed_tokens):
            embed_tokens.weight[PAD] = 0
    return built.model.to(dtype), built.batch(*indices)["net_input"]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def weighted_sum(logits, exists=None):
    """A scalar in which every logit counts otherwise; rows of padding do not count."""
    generator = torch.Generator().manual_seed(2)
    factors = torch.randn(logits.shape, generator=generator, dtype=torch.float64).to(logits)
    scores = logits.log_softmax(-1) * factors
    return scores.sum() if exists is None else scores[exists].sum()


def without_padding(logits):
    return logits.index_fill(-1, torch.tensor([PAD]), -torch.inf)


def soft(logits, step):
    return without_padding(logits).softmax(-1)


def straight_through(logits, step):
    weights = soft(logits, step)
    one_hot = F.one_hot(weights.argmax(-1), weights.size(-1)).to(weights)
    return one_hot + weights - weights.detach()


def noisy(logits, step):
    """Gumbel-softmax; the noise of a step, or of all steps, is the same in every call."""
    generator = torch.Generator().manual_seed(3 if step is None else 10 + step)
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    return (without_padding(logits) + noise).softmax(-1)


def reference_feed(teacher, vocab):
    """One-hot weights of the teacher's own tokens."""
    following = torch.cat([teacher[:, 1:], teacher[:, :1]], dim=1)

    def feed(logits, step):
        tokens = following if step is None else following[:, step]
        return F.one_hot(tokens, vocab).to(logits)

    return feed


class Given(nn.Module):
    """An embedding layer that gives these vectors, whatever the tokens; the weights are tied."""

    def __init__(self, embed_tokens, vectors):
        super().__init__()
        self.weight = embed_tokens.weight
        self.vectors = vectors

    def forward(self, tokens):
        assert tokens.shape == self.vectors.shape[:2]
        return self.vectors.clone()


class Recorder(nn.Module):
    """Passes on what it is given, and keeps it."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def forward(self, vectors):
        self.kept.append(vectors)
        return vectors


def run_on(model, encoder_out, vectors, tokens):
    """The decoder's logits where its embeddings are ``vectors``."""
    embed_tokens = model.decoder.embed_tokens
    model.decoder.embed_tokens = Given(embed_tokens, vectors)
    try:
        return model.decoder(tokens, encoder_out=encoder_out)[0]
    finally:
        model.decoder.embed_tokens = embed_tokens


def mixture(model, weights, teacher, mask):
    """``[batch, columns, channels]``: the token by token sum of weighted embeddings, or a token."""
    matrix = model.decoder.embed_tokens.weight
    mean = (weights.unsqueeze(-1) * matrix).sum(-2)
    tokens = F.embedding(teacher, matrix, padding_idx=PAD)
    return torch.where(mask.unsqueeze(-1), tokens, mean)


def naive_unroll(model, net_input, teacher, steps, feed, mask):
    encoder_out = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
    vectors = F.embedding(teacher[:, :1], model.decoder.embed_tokens.weight)
    rows = []
    for step in range(steps):
        not_padding = teacher[:, :1].expand(-1, step + 1)
        rows.append(run_on(model, encoder_out, vectors, not_padding)[:, -1])
        if step + 1 < steps:
            weights = feed(rows[-1], step)
            beyond = step + 1 >= teacher.size(1)
            token = teacher[:, :1] if beyond else teacher[:, step + 1 : step + 2]
            fed = torch.zeros_like(token).bool() if beyond else mask[:, step + 1 : step + 2]
            column = mixture(model, weights.unsqueeze(1), token, fed)
            vectors = torch.cat([vectors, column], dim=1)
    return torch.stack(rows, dim=1)


def random_mask(teacher):
    return torch.rand(teacher.shape, generator=torch.Generator().manual_seed(4)) < 0.4


@every_model
@both_forms
def test_one_hot_weights_are_the_tokens_themselves(corpus, name, relaxed):
    model, net_input = built_model(corpus, name, dtype=torch.float32)
    teacher = net_input["prev_output_tokens"]
    exists = teacher.ne(PAD)
    assert not exists.all(), "some sentences have to be shorter"
    forced = model(**net_input)[0]
    expected = gradients(model, weighted_sum(forced, exists))
    feed = reference_feed(teacher, forced.size(-1))
    fed = relaxed(model, net_input, teacher, feed=feed)
    assert fed.isfinite().all()
    torch.testing.assert_close(fed[exists], forced[exists], rtol=1e-6, atol=5e-6)
    actual = gradients(model, weighted_sum(fed, exists))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@every_model
@pytest.mark.parametrize("feed", [soft, straight_through, noisy])
def test_unroll_equals_a_decoder_run_on_every_prefix(corpus, name, feed):
    model, net_input = built_model(corpus, name)
    teacher = net_input["prev_output_tokens"][:, :6]
    mask, exists = random_mask(teacher), teacher.ne(PAD)
    expected = naive_unroll(model, net_input, teacher, 6, feed, mask)
    expected_gradients = gradients(model, weighted_sum(expected, exists))
    actual = unrolled_logits(model, net_input, teacher, feed=feed, teacher_mask=mask)
    torch.testing.assert_close(actual[exists], expected[exists], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        gradients(model, weighted_sum(actual, exists)), expected_gradients, rtol=1e-5, atol=1e-6
    )


@every_model
def test_two_passes_are_fed_the_weights_of_the_teacher_forced_rows(corpus, name):
    model, net_input = built_model(corpus, name)
    teacher = net_input["prev_output_tokens"]
    mask, exists = random_mask(teacher), teacher.ne(PAD)
    weights = noisy(model(**net_input)[0], None)
    fed = mixture(model, weights[:, :-1], teacher[:, 1:], (mask | ~exists)[:, 1:])
    start = F.embedding(teacher[:, :1], model.decoder.embed_tokens.weight)
    encoder_out = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
    expected = run_on(model, encoder_out, torch.cat([start, fed], dim=1), teacher)
    expected_gradients = gradients(model, weighted_sum(expected, exists))
    actual = two_pass_logits(model, net_input, teacher, feed=noisy, teacher_mask=mask)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        gradients(model, weighted_sum(actual, exists)), expected_gradients, rtol=1e-5, atol=1e-6
    )


@one_of_each
@both_forms
@pytest.mark.parametrize("feed", [soft, noisy])
def test_gradient_through_the_weights_is_the_finite_difference(corpus, name, relaxed, feed):
    model, net_input = built_model(corpus, name, indices=[0])
    teacher = net_input["prev_output_tokens"]

    def value(feed):
        return weighted_sum(relaxed(model, net_input, teacher, feed=feed))

    generator = torch.Generator().manual_seed(6)
    # The decoder's alone: fconv scales the gradient of its encoder on purpose.
    parameters = dict(model.decoder.named_parameters(prefix="decoder"))
    direction = {
        key: torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for key, parameter in parameters.items()
    }

    def along(gradient):
        return sum(float((gradient[key] * direction[key]).sum()) for key in direction)

    def moved(distance):
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.add_(direction[key], alpha=distance)
            result = float(value(feed))
            for key, parameter in parameters.items():
                parameter.sub_(direction[key], alpha=distance)
        return result

    step = 1e-4
    difference = (moved(step) - moved(-step)) / (2 * step)
    assert along(gradients(model, value(feed))) == pytest.approx(difference, rel=1e-4)
    cut = along(gradients(model, value(lambda logits, at: feed(logits, at).detach())))
    assert abs(cut - difference) > 0.01 * abs(difference), "the weights' own gradient has to count"


@one_of_each
@both_forms
def test_weights_are_fed_and_not_zeros(corpus, name, relaxed):
    model, net_input = built_model(corpus, name, dtype=torch.float32)
    teacher = net_input["prev_output_tokens"]
    with torch.no_grad():
        softly = relaxed(model, net_input, teacher, feed=soft)
        nothing = relaxed(model, net_input, teacher, feed=lambda x, _: torch.zeros_like(x))
        hard = relaxed(model, net_input, teacher, feed=straight_through)
    torch.testing.assert_close(softly[:, 0], nothing[:, 0])
    for other in (nothing, hard):
        assert (softly - other)[:, 1].abs().amax(-1).min() > 1e-3


@one_of_each
def test_straight_through_goes_the_way_of_greedy_decoding(corpus, name):
    """Its value is that of the tokens; its gradient is not."""
    model, net_input = built_model(corpus, name)
    start = net_input["prev_output_tokens"][:, :1]
    relaxed = unrolled_logits(model, net_input, start.expand(-1, 6), feed=straight_through)
    tokens = start
    with torch.no_grad():
        for _ in range(5):
            rows = model(**{**net_input, "prev_output_tokens": tokens})[0][:, -1]
            tokens = torch.cat([tokens, without_padding(rows).argmax(-1, keepdim=True)], dim=1)
    hard = model(**{**net_input, "prev_output_tokens": tokens})[0]
    torch.testing.assert_close(relaxed, hard, rtol=1e-6, atol=1e-6)
    through = gradients(model, weighted_sum(relaxed))
    without = gradients(model, weighted_sum(hard))
    key = "decoder.embed_tokens.weight"
    assert (through[key] - without[key]).norm() > 0.01 * without[key].norm()


@one_of_each
@both_forms
def test_other_sentences_of_the_batch_do_not_matter(corpus, name, relaxed):
    model, net_input = built_model(corpus, name)
    whole = relaxed(model, net_input, net_input["prev_output_tokens"], feed=soft)
    for index, row in enumerate(net_input["prev_output_tokens"]):
        source = net_input["src_tokens"][index]
        alone = {
            "src_tokens": source[source.ne(PAD)].unsqueeze(0),
            "src_lengths": net_input["src_lengths"][index : index + 1],
        }
        teacher = row[row.ne(PAD)].unsqueeze(0)
        expected = relaxed(model, alone, teacher, feed=soft)[0]
        torch.testing.assert_close(whole[index, : teacher.size(1)], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["transformer", "lstm"])
@both_forms
def test_16_bit_models_are_fed_in_their_dtype(corpus, name, relaxed, dtype):
    model, net_input = built_model(corpus, name, dtype=dtype)
    seen = set()

    def feed(logits, step):
        seen.add(logits.dtype)
        return soft(logits, step)

    logits = relaxed(model, net_input, net_input["prev_output_tokens"], feed=feed)
    assert seen == {torch.float32}
    assert logits.dtype == dtype
    gradient = gradients(model, weighted_sum(logits.float()))
    assert all(value.isfinite().all() for value in gradient.values())


@pytest.mark.parametrize("name", ["transformer", "lstm"])
@both_forms
def test_autocast_does_not_round_the_embeddings(corpus, name, relaxed):
    model, net_input = built_model(corpus, name, dtype=torch.float32)
    embedded = []
    model.decoder.dropout_module = model.decoder.dropout_in_module = Recorder(embedded)
    teacher = net_input["prev_output_tokens"][:1, :3]
    source = {key: net_input[key][:1] for key in ("src_tokens", "src_lengths")}
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        if name == "lstm":
            try:
                torch.nn.LSTM(8, 8)(torch.zeros(1, 1, 8))
            except RuntimeError as error:
                pytest.skip(f"this processor has no LSTM in bfloat16: {error}")
        vocab = model(**source, prev_output_tokens=teacher)[0].size(-1)
        expected = embedded[0]
        embedded.clear()
        relaxed(model, source, teacher, feed=reference_feed(teacher, vocab))
    actual = embedded[-1][:, -1]
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected[:, -1], rtol=1e-6, atol=1e-6)


@every_model
@both_forms
def test_the_encoder_runs_once_and_nothing_is_left_behind_even_by_an_error(corpus, name, relaxed):
    model, net_input = built_model(corpus, name, dtype=torch.float32)
    teacher = net_input["prev_output_tokens"]
    model(**net_input)  # fairseq's modules keep some things themselves

    def traces():
        return [
            (*module._forward_hooks, *module._forward_pre_hooks, *vars(module))
            for module in model.modules()
        ]

    def failing(logits, step):
        raise ArithmeticError

    def misshapen(logits, step):
        return logits[..., :3]

    runs = []
    model.encoder.register_forward_hook(lambda *_: runs.append(1))
    before = traces()
    relaxed(model, net_input, teacher, feed=soft)
    assert len(runs) == 1
    assert traces() == before
    for feed, error in ((failing, ArithmeticError), (misshapen, RuntimeError)):
        with pytest.raises(error):
            relaxed(model, net_input, teacher, feed=feed)
        assert traces() == before
    assert "forward" not in vars(model.decoder)
    assert not model.decoder.embed_tokens._forward_hooks


@one_of_each
@both_forms
def test_pytorchs_data_parallel_wrapper_gets_the_same_gradient(corpus, name, relaxed, lone_worker):
    model, net_input = built_model(corpus, name)
    other, _ = built_model(corpus, name)
    wrapped = ModuleProxyWrapper(nn.parallel.DistributedDataParallel(other))
    reduced = []

    def reduce(state, bucket):
        reduced.append(bucket.index())
        future = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    wrapped.module.register_comm_hook(None, reduce)
    teacher = net_input["prev_output_tokens"]
    expected, actual = (
        gradients(each, weighted_sum(relaxed(one, net_input, teacher, feed=soft)))
        for each, one in ((model, model), (other, wrapped))
    )
    torch.testing.assert_close(actual, expected)
    assert reduced, "the wrapper has to have reduced the gradients"


@both_forms
def test_decoders_that_cannot_be_fed_weights_are_refused_by_the_flags_names(corpus, relaxed):
    model, net_input = built_model(corpus, "transformer", dtype=torch.float32)
    teacher, decoder = net_input["prev_output_tokens"], model.decoder

    embed_tokens = decoder.embed_tokens
    decoder.embed_tokens = nn.Identity()
    with pytest.raises(ValueError, match=r"--feed .* --arch"):
        relaxed(model, net_input, teacher, feed=soft)

    # A decoder that looks its embeddings up by itself would not see what is fed.
    decoder.embed_tokens = embed_tokens
    embed_tokens.__class__ = type("Unused", (nn.Embedding,), {"__call__": nn.Embedding.forward})
    with pytest.raises(ValueError, match="does not call its embed_tokens"):
        relaxed(model, net_input, teacher, feed=soft)
    embed_tokens.__class__ = nn.Embedding

    decoder.adaptive_softmax = nn.Identity()
    with pytest.raises(ValueError, match="--adaptive-softmax-cutoff"):
        relaxed(model, net_input, teacher, feed=soft)


def test_more_steps_than_the_decoder_has_positions_are_refused(corpus):
    model, net_input = built_model(corpus, "transformer-shared", dtype=torch.float32)
    longest = model.decoder.max_positions()
    teacher = net_input["prev_output_tokens"][:, :1].expand(-1, longest + 1)
    with pytest.raises(ValueError, match="--max-target-positions"):
        unrolled_logits(model, net_input, teacher, feed=soft)
