"""Stochastic attention in fairseq's LSTM and transformer: what it computes, in 64 bits."""

from pathlib import Path

import pytest
import torch
from stochastic_attention_models import (
    ARCHITECTURES,
    EOS,
    HEADS,
    LAYERS,
    OTHER,
    PAD,
    ForcedCrossAttention,
    ForcedLSTMAttention,
    alignments,
    assert_same,
    build,
    build_stochastic,
    forced,
    gradients,
    sentences,
    token_losses,
)
from torch.nn.functional import one_hot

from criterions.stochastic_graph import StochasticGraph

architectures = pytest.mark.parametrize("arch", ARCHITECTURES)


@architectures
def test_soft_attention_is_fairseqs_to_the_last_bit(arch):
    """Initial weights, outputs, attention and gradients; in training with dropout."""
    dropout = {"dropout": 0.2, "attention_dropout": 0.1}
    plain = build(arch, **dropout).float()
    ours = build_stochastic(arch, "soft", **dropout).float()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)
    batch = sentences()
    outputs = []
    for model in (plain, ours):
        torch.manual_seed(8)
        model.train()
        logits = model(**batch.net_input)[0]
        of_training = gradients(model, token_losses(logits, batch).sum())
        model.eval()
        logits_in_evaluation, extra = model(**batch.net_input)
        attention = extra if arch == "lstm" else extra["attn"][0]
        outputs.append((logits, of_training, logits_in_evaluation, attention))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)


def nodes_of(arch, positions, src_len):
    """Outcomes of the graph's nodes, from positions ``[rows, time, choices]``."""
    outcomes = one_hot(positions, src_len).double()
    if arch == "lstm":
        return {("attention", step): outcomes[:, step, 0] for step in range(2)}
    in_layers = outcomes.view(len(positions), 2, LAYERS, HEADS, src_len)
    return {f"attention.layer{layer}": in_layers[:, :, layer] for layer in range(LAYERS)}


@architectures
def test_gradient_of_hard_attention_is_unbiased_over_all_alignments(arch):
    """Of two layers with two heads in the transformer, of every step in the LSTM."""
    batch, positions = alignments(arch, 1 if arch == "lstm" else LAYERS * HEADS)
    model, probabilities, logits = forced(arch, batch, positions)
    losses = token_losses(logits, batch).sum(1)
    assert float(probabilities.sum().detach()) == pytest.approx(2)  # of two sentences
    expected = gradients(model, (probabilities * losses).sum())

    ours = build_stochastic(arch, "hard").train()
    with StochasticGraph(values=nodes_of(arch, positions, 3)) as graph:
        logits = ours(**batch.net_input)[0]
        graph.cost("cross_entropy", token_losses(logits, batch), mask=batch.target.ne(PAD))
    estimates = graph.surrogate_per_source()
    log_probs = sum(
        node.log_prob.reshape(len(positions), -1).sum(1) for node in graph.nodes.values()
    )
    torch.testing.assert_close(log_probs.exp(), probabilities)
    assert_same(gradients(ours, (probabilities.detach() * estimates).sum()), expected)


def marginal(arch, batch):
    """``[rows, time, vocab]`` log-probabilities, all alignments summed one by one."""
    model = build(arch).train()
    decoder = model.decoder
    if arch == "lstm":
        attention = decoder.attention = ForcedLSTMAttention(decoder.attention, None)
        memory = model.encoder(batch.src_tokens, batch.src_lengths)
        decoder(batch.prev_output_tokens, memory)
        steps = []
        for input, probabilities in zip(attention.inputs, attention.probabilities, strict=True):
            total = 0
            for position, source in enumerate(memory[0]):
                features = decoder.additional_fc(attention.output(source, input))
                emitted = decoder.fc_out(features).softmax(-1)
                total = total + probabilities[:, position, None] * emitted
            steps.append(total.log())
        return model, torch.stack(steps, 1)
    plain = decoder.layers[-1].encoder_attn
    # The plugin's attention keeps its softmax in 64 bits, fairseq's does not.
    decoder.layers[0].encoder_attn = ForcedCrossAttention(decoder.layers[0].encoder_attn, {})
    total = 0
    for position in range(batch.src_tokens.size(1)):
        everywhere = torch.full_like(batch.prev_output_tokens, position)
        last = decoder.layers[-1].encoder_attn = ForcedCrossAttention(plain, {1: everywhere})
        emitted = model(**batch.net_input)[0].softmax(-1)
        total = total + last.probabilities[1][:, :, position, None] * emitted
    return model, total.log()


@architectures
def test_exact_attention_is_the_marginal_over_all_alignments(arch):
    batch = sentences()
    model, expected = marginal(arch, batch)
    ours = build_stochastic(arch, "exact").train()
    if arch == "transformer":  # as in ``marginal``
        layer = ours.decoder.layers[0]
        layer.encoder_attn = ForcedCrossAttention(layer.encoder_attn, {})
    log_probs = ours(**batch.net_input)[0]
    exists = batch.target.ne(PAD)
    torch.testing.assert_close(log_probs[exists], expected[exists], rtol=1e-8, atol=1e-10)
    total = log_probs[exists].exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert_same(
        gradients(ours, token_losses(log_probs, batch).sum()),
        gradients(model, token_losses(expected, batch).sum()),
    )


def test_exact_attention_with_dropout_is_hard_attention_summed():
    """Of the attention's weights, by the same mask: that of the drawn position or of each one."""
    options = {"attention_dropout": 0.5, "attention_in_layers": "1", "attention_in_heads": "1"}
    hard = build_stochastic("transformer", "hard", **options).train()
    exact = build("stochastic_attention_transformer", attention="exact", **options).train()
    batch = sentences().rows(torch.zeros(20, dtype=torch.long))
    total = 0
    for position in range(3):
        drawn = one_hot(torch.full((20, 2, 1), position), 3).double()
        torch.manual_seed(5)
        with StochasticGraph(values={"attention.layer1": drawn}) as graph:
            emitted = hard(**batch.net_input)[0].softmax(-1)
        (node,) = graph.nodes.values()
        total = total + node.distribution.probs[:, :, 0, position, None] * emitted
    torch.manual_seed(5)
    log_probs = exact(**batch.net_input)[0]
    torch.testing.assert_close(log_probs[:, 0].exp(), total[:, 0], rtol=1e-6, atol=1e-8)
    assert len({round(float(p), 6) for p in log_probs[:, 0, EOS]}) > 4, "rows have other masks"


def step_of(arch, kind):
    """A training step under a graph, up to the surrogate."""
    model = build_stochastic(arch, kind).train()
    batch = sentences()
    exists = batch.target.ne(PAD)

    def step():
        with StochasticGraph() as graph:
            logits = model(**batch.net_input)[0]
            graph.cost("cross_entropy", token_losses(logits.float(), batch), mask=exists)
        return graph.surrogate()

    return model, step


@architectures
@pytest.mark.parametrize("kind", ["hard", "gumbel", "gumbel_st", "greedy", "exact"])
def test_no_kind_reads_more_back_from_the_device_than_soft_attention(arch, kind, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "criterions")
    from host_reads import HostReads

    found = []
    for each in ("soft", kind):
        _, step = step_of(arch, each)
        with HostReads() as reads:
            step().backward()
        found.append(reads.operations)
    assert len(found[1]) <= len(found[0]), found[1]


@architectures
@pytest.mark.parametrize("kind", ["hard", "gumbel", "gumbel_st", "greedy", "exact"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_are_no_error(arch, kind, value):
    """The loss is not finite either: fairseq's loss scaler skips the update and goes on."""
    model, step = step_of(arch, kind)
    for parameter in model.encoder.parameters():
        parameter.data.fill_(value)
    assert not step().isfinite()


@architectures
@pytest.mark.parametrize("kind", ["soft", "greedy", "gumbel", "exact"])
def test_step_by_step_is_as_teacher_forced(arch, kind):
    """With the incremental state of the generator, whose beams of a sentence change places."""
    model = build_stochastic(arch, kind).eval()
    batch = sentences().rows(torch.tensor([0, 0, 1, 1]))
    fed = torch.tensor([[EOS, OTHER, OTHER], [EOS, EOS, OTHER]]).repeat(2, 1)
    swap, order = torch.tensor([1, 0, 3, 2]), torch.arange(4)
    state = {}
    with torch.no_grad():
        memory = model.encoder(batch.src_tokens, batch.src_lengths)
        whole = model.decoder(fed, memory)[0]
        for step in range(3):
            rows = fed[order, : step + 1]
            logits = model.decoder(rows, memory, incremental_state=state)[0]
            torch.testing.assert_close(logits[:, -1], whole[order, step], rtol=1e-5, atol=1e-6)
            model.decoder.reorder_incremental_state_scripting(state, swap)
            order = order[swap]


@pytest.mark.parametrize("kind", ["soft", "greedy", "gumbel", "exact"])
def test_beams_may_share_the_keys_of_their_sentence(kind):
    """``MultiheadAttention.set_beam_size``, which some of fairseq's models call."""
    model = build_stochastic("transformer", kind).eval()
    batch = sentences().rows(torch.tensor([0, 0, 1, 1]))
    with torch.no_grad():
        memory = model.encoder(batch.src_tokens, batch.src_lengths)
        fed = torch.tensor([[EOS], [OTHER], [OTHER], [EOS]])
        alone = model.decoder(fed, memory, incremental_state={})[0]
        for layer in model.decoder.layers:
            layer.encoder_attn.set_beam_size(2)
        shared = model.decoder(fed, memory, incremental_state={})[0]
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-6)


def test_chosen_layers_and_heads_are_drawn_and_no_others():
    model = build_stochastic(
        "transformer", "hard", attention_in_layers="1", attention_in_heads="0"
    ).train()
    with StochasticGraph() as graph:
        model(**sentences().net_input)
    ((name, node),) = graph.nodes.items()
    assert name == ("attention.layer1", None)
    assert node.value.shape == (2, 2, 1, 3)
    assert node.value.sum(-1).eq(1).all()
    assert node.value[1, :, :, 0].eq(0).all(), "padding of the source is never drawn"


def test_heads_that_are_not_chosen_stay_soft():
    """Greedy in one head differs from soft; all other heads are fairseq's."""
    soft = build("transformer").train()
    model = build_stochastic(
        "transformer", "greedy", attention_in_layers="0", attention_in_heads="1"
    ).train()
    layer = soft.decoder.layers[0]
    batch = sentences()
    seen = ForcedCrossAttention(layer.encoder_attn, {})
    layer.encoder_attn = seen
    soft(**batch.net_input)
    layer.encoder_attn = ForcedCrossAttention(seen.plain, {1: seen.probabilities[1].argmax(-1)})
    exists = batch.target.ne(PAD)
    actual, expected = model(**batch.net_input)[0], soft(**batch.net_input)[0]
    torch.testing.assert_close(actual[exists], expected[exists], rtol=1e-6, atol=1e-7)


def test_the_mixture_goes_with_autocast():
    """Where features have 16 bits and parameters 32."""
    model = build_stochastic("transformer", "exact").float().train()
    batch = sentences()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**batch.net_input)[0]
    token_losses(logits.float(), batch).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@architectures
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["hard", "gumbel", "gumbel_st", "greedy", "exact"])
def test_half_precision_trains(arch, kind, dtype):
    model = build_stochastic(arch, kind).to(dtype).train()
    batch = sentences()
    with StochasticGraph() as graph:
        logits = model(**batch.net_input)[0]
        assert logits.dtype == dtype
        graph.cost("cross_entropy", token_losses(logits.float(), batch))
    graph.surrogate().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoder.parameters())
