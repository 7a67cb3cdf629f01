"""Outputs are decoded with the distribution that scores them, under stochastic attention."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from fairseq_setup import graph_criterion, sample_of
from stochastic_attention_models import (
    ARCHITECTURES,
    EOS,
    LAYERS,
    PAD,
    WORD,
    Batch,
    assert_same,
    build_stochastic,
    dictionary,
    forced,
    gradients,
    sentences,
)

from criterions.stochastic_graph import StochasticGraph, UncheckedOneHotCategorical
from fairseq_plugins import batch as batches
from fairseq_plugins import decoding
from fairseq_plugins.models.stochastic_attention.choice import EVALUATIONS, KINDS
from fairseq_plugins.stochastic_graph import scored_pass

architectures = pytest.mark.parametrize("arch", ARCHITECTURES)


class Reward:
    """An arbitrary number from 0 to 1, exact in binary."""

    per_token = False

    def __call__(self, outputs):
        place = torch.arange(1, outputs.tokens.size(1) + 1)
        words = outputs.tokens.masked_fill(outputs.tokens.eq(PAD), 0)
        return ((words * (7 * place + 2)).sum(1) % 16).double() / 16


def criterion_of(**options):
    task = SimpleNamespace(
        target_dictionary=dictionary(), source_dictionary=dictionary(), train_step=lambda: None
    )
    criterion = graph_criterion(SimpleNamespace(task=task), **options).double()
    criterion.cost.reward = Reward()
    return criterion


def sample_from(batch):
    made = sample_of([[WORD]] * len(batch.src_tokens), EOS, PAD)
    made["net_input"].update(src_tokens=batch.src_tokens, src_lengths=batch.src_lengths)
    return made


def largest_difference(model, criterion, sample, monkeypatch):
    """Between log-probabilities of decoding and those of the pass with gradient.

    Returns:
        the difference, and how many steps of rows were compared.
    """
    decoded, passes = [], []
    logits_of, pass_of = decoding._StepDecoder.logits, scored_pass.ScoredPasses.of

    def logits(self, fed):
        found = logits_of(self, fed)
        decoded.append((fed.clone(), found.clone()))
        return found

    def of(self, model, rollout, update, **options):
        found = pass_of(self, model, rollout, update, **options)
        spread = found.positions.spread if found.positions is not None else lambda whole: whole
        passes.append((rollout, spread(found.logits).detach()))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(decoding._StepDecoder, "logits", logits)
        patch.setattr(scored_pass.ScoredPasses, "of", of)
        criterion(model, sample)
    (rollout, scored) = passes[-1]
    samples, exists = rollout.batch.samples, rollout.tokens.ne(PAD)
    largest, compared = 0.0, 0
    for fed, found in decoded:
        step = fed.size(1) - 1
        # Samples of a source share a first step; later, rows that have ended are missing.
        every = samples if fed.size(0) < scored.size(0) and step == 0 else 1
        there = exists[::every, step]
        if fed.size(0) != len(there):
            continue
        assert fed[there].equal(rollout.fed[::every, : step + 1][there])
        expected = scored[::every, step][there].log_softmax(-1)
        difference = (found[there].log_softmax(-1) - expected).abs()
        largest = max(largest, float(difference.max()))
        compared += int(there.sum())
    return largest, compared


WAYS = [("soft", {}), ("greedy", {}), ("exact", {})]
WAYS += [
    ("hard", {"layer_estimator": name})
    for name in ("score_function", "none", "straight_through", "expectation", "mode")
]


@architectures
@pytest.mark.parametrize(("kind", "options"), WAYS, ids=[str((k, *o.values())) for k, o in WAYS])
def test_outputs_are_decoded_with_the_distribution_that_scores_them(
    arch, kind, options, monkeypatch
):
    """Whatever attention does in evaluation; also with the positions that layers drew."""
    scored = options.get("layer_estimator") == "score_function"
    for evaluation in EVALUATIONS:
        model = build_stochastic(arch, kind, attention_in_evaluation=evaluation).train()
        with torch.no_grad():  # so that positions differ in what they make of the output
            for parameter in model.parameters():
                parameter.mul_(1.5)
        for objective in ("reinforce",) if scored else ("reinforce", "minimum_risk"):
            criterion = criterion_of(objective=objective, samples=2, max_decode_length=3, **options)
            torch.manual_seed(4)
            sample = sample_from(sentences().rows(torch.tensor([0, 0, 0, 1])))
            largest, compared = largest_difference(model, criterion, sample, monkeypatch)
            assert compared >= 8
            assert largest < 1e-4, f"{evaluation}, {objective}"


@architectures
def test_reinforce_is_unbiased_over_all_positions_and_outputs(arch, monkeypatch):
    """Every outcome of positions and tokens is a row of one batch, weighted by its probability.

    Two heads in two layers would have thousands: one head of each layer is hard.
    """
    heads, where = range(1), {}
    if arch == "transformer":
        heads, where = [1], {"attention_in_heads": "1"}
    choices = LAYERS * len(heads) if arch == "transformer" else 1
    words = [token for token in range(6) if token != PAD]
    outputs = [(a, b) for a in words for b in words if a != EOS]
    outcomes = list(itertools.product(outputs, itertools.product(range(2), repeat=2 * choices)))
    tokens = torch.tensor([output for output, _ in outcomes])
    positions = torch.tensor([drawn for _, drawn in outcomes]).view(len(outcomes), 2, choices)
    start = torch.full((len(outcomes), 1), EOS)
    source = torch.tensor([[WORD, EOS]]).expand(len(outcomes), -1)
    fed = torch.cat([start, tokens[:, :1]], 1)
    batch = Batch(source, torch.full((len(outcomes),), 2), fed, tokens)

    plain, probabilities, logits = forced(arch, batch, positions, heads)
    never = torch.zeros(2, 6, dtype=torch.bool)
    never[:, PAD], never[0, EOS] = True, True
    log_probs = logits.masked_fill(never, -torch.inf).log_softmax(-1)
    log_probs = log_probs.gather(-1, tokens.unsqueeze(-1)).flatten(1).sum(1)
    probabilities = probabilities * log_probs.exp()
    assert float(probabilities.detach().sum()) == pytest.approx(1)
    costs = 1 - Reward()(SimpleNamespace(tokens=tokens))
    expected = gradients(plain, (probabilities * costs).sum())

    model = build_stochastic(arch, "hard", **where).train()
    criterion = criterion_of(
        objective="reinforce", baseline="none", layer_baseline="none", max_decode_length=2
    )
    of_nodes = positions.flatten(1).unbind(1)  # in the order in which decoding comes to them
    queue, steps = iter(of_nodes), iter(tokens.unbind(1))

    def given(distribution):
        position = torch.nn.functional.one_hot(next(queue), 2).to(distribution.probs)
        return position.reshape(distribution.batch_shape + distribution.event_shape)

    with monkeypatch.context() as patch:
        patch.setattr(UncheckedOneHotCategorical, "sample", given)
        patch.setattr(decoding, "draw", lambda logits, sampling: next(steps))
        sources = batches.Batch.of(sample_from(batch), dictionary())
        rollout = criterion.rollouts.of(model, sources, 0)
        done = criterion.passes.of(model, rollout, 0)
        criterion.cost.record(done, rollout, None)
    assert next(queue, None) is None
    assert next(steps, None) is None
    estimates = done.graph.surrogate_per_source()
    assert_same(gradients(model, (probabilities.detach() * estimates).sum()), expected)


def beams(model):
    """``(sources, hypotheses)`` of a beam of 3."""
    batch = sentences()
    generator = SequenceGenerator([model], dictionary(), beam_size=3, max_len_a=0, max_len_b=4)
    return batch, generator.generate([model], {"net_input": batch.net_input})


@torch.no_grad()
def scores_of(model, batch, row, tokens, values=None):
    """``[length]``: the tokens' log-probabilities in one pass, fed with themselves.

    Args:
        values: outcomes of the nodes, for all rows; None: what is done in evaluation.
    """
    fed = torch.cat([tokens.new_tensor([EOS]), tokens[:-1]]).expand(len(batch.src_tokens), -1)
    within = nullcontext() if values is None else StochasticGraph(values=values)
    with within:
        output = model(**{**batch.net_input, "prev_output_tokens": fed})
    return model.get_normalized_probs(output, log_probs=True)[row, range(len(tokens)), tokens]


@architectures
@pytest.mark.parametrize("kind", KINDS)
def test_hypotheses_have_the_scores_of_the_model(arch, kind):
    """All of a beam, by fairseq's generator, for every evaluation that draws nothing."""
    for evaluation in ("mode", "soft", "exact"):
        model = build_stochastic(arch, kind, attention_in_evaluation=evaluation).float().eval()
        batch, found = beams(model)
        assert len(found) == 2
        for row, hypotheses in enumerate(found):
            assert len(hypotheses) == 3
            for each in hypotheses:
                expected = scores_of(model, batch, row, each["tokens"])
                torch.testing.assert_close(
                    each["positional_scores"], expected, rtol=1e-4, atol=1e-4
                )
                mean = expected.sum() / len(expected)
                torch.testing.assert_close(each["score"], mean, rtol=1e-4, atol=1e-4)


@architectures
def test_hypotheses_have_the_scores_of_the_positions_drawn_with_them(arch):
    """Evaluation by ``sample``, where each beam has drawn its own."""
    one_head = {"decoder_layers": 1, "decoder_attention_heads": 1}
    sizes = {} if arch == "lstm" else one_head  # whose attention shows the chosen position
    options = {**sizes, "attention_in_evaluation": "sample"}
    model = build_stochastic(arch, "hard", **options).float().eval()
    torch.manual_seed(6)
    batch, found = beams(model)
    seen = set()
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == 3
        for each in hypotheses:
            # By the row's own positions; a pass has to have some for the other row, too.
            drawn = each["attention"].t()  # [length, src_len]
            assert drawn.sum(1).eq(1).all()
            assert drawn.max(1).values.eq(1).all()
            seen.update(drawn.argmax(1).tolist())
            of_rows = drawn.expand(len(batch.src_tokens), -1, -1)
            values = {"attention.layer0": of_rows.unsqueeze(2)}
            if arch == "lstm":
                values = {("attention", t): of_rows[:, t] for t in range(len(drawn))}
            expected = scores_of(model, batch, row, each["tokens"], values)
            torch.testing.assert_close(each["positional_scores"], expected, rtol=1e-4, atol=1e-4)
    assert len(seen) == 3, "every position of the source was drawn"
