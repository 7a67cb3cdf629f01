"""A pass over the positions that exist gives what a pass over all of them gives."""

import pytest
import torch
from fairseq_setup import ARCHITECTURES, graph_criterion, setup
from torch.distributions import OneHotCategorical

from criterions.stochastic_graph import sample as sample_layer
from fairseq_plugins import existing_positions
from fairseq_plugins.existing_positions import ExistingPositions
from fairseq_plugins.model_pass import model_pass
from fairseq_plugins.stochastic_graph import scored_pass

OBJECTIVES = {
    "reinforce": {"objective": "reinforce", "baseline": "none"},
    "learned baseline": {
        "objective": "reinforce",
        "baseline": "learned",
        "baseline_state_dim": 16,
        "samples": 2,
    },
    "self_critical": {"objective": "self_critical", "sample_temperature": 2.0},
    "leave_one_out": {"objective": "leave_one_out", "samples": 3},
    "minimum_risk": {"objective": "minimum_risk", "samples": 4, "candidate_reference": True},
    "reward_to_go": {"objective": "leave_one_out", "credit": "reward_to_go"},
    "mixer": {"objective": "mixer", "teacher_prefix": "2", "baseline": "none"},
    "expected": {"objective": "reinforce", "baseline": "expected", "ignore_prefix_size": 1},
    "prefix": {"objective": "leave_one_out", "ignore_prefix_size": 1},
}


@pytest.mark.parametrize("most", [1, 20, 10_000], ids="pieces of {}".format)
@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)
def test_losses_logs_and_gradients_are_those_of_all_positions(
    corpus, learnt, options, most, monkeypatch
):
    monkeypatch.setattr(existing_positions, "_POSITIONS_PER_PIECE", {"cpu": most})
    built = setup(corpus, weights=learnt("transformer"), name="cross_entropy")
    check(built, options, monkeypatch)


@pytest.mark.parametrize("arch", ["lstm", "fconv"])
def test_other_architectures_have_the_same_gradients(corpus, learnt, arch, monkeypatch):
    monkeypatch.setattr(existing_positions, "_POSITIONS_PER_PIECE", {"cpu": 20})
    built = setup(corpus, arch, weights=learnt(arch), name="cross_entropy")
    check(built, OBJECTIVES["leave_one_out"], monkeypatch)


def test_a_model_in_half_precision_has_the_same_gradients(corpus, learnt, monkeypatch):
    built = setup(corpus, weights=learnt("transformer"), name="cross_entropy")
    built.model.bfloat16()
    check(built, OBJECTIVES["leave_one_out"], monkeypatch, atol=2e-2, rtol=5e-2)


def check(built, options, monkeypatch, **tolerance):
    """The step over all positions against the one over those that exist."""
    made = []
    of = ExistingPositions.of
    monkeypatch.setattr(
        scored_pass.ExistingPositions, "of", lambda *given: made.append(of(*given)) or made[-1]
    )
    built.model.train()
    sample = built.batch(*range(6))
    built.criterion = graph_criterion(built, max_decode_length=9, **options)
    torch.manual_seed(3)
    other_loss, other_gradients, other_log = built.gradient(sample)
    assert made
    made.clear()
    monkeypatch.setattr(scored_pass, "decodes_in_pieces", lambda model: False)
    torch.manual_seed(3)
    loss, gradients, log = built.gradient(sample)
    assert not made
    tolerance = tolerance or {"atol": 1e-6, "rtol": 1e-4}
    torch.testing.assert_close(loss, other_loss, **tolerance)
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())
    torch.testing.assert_close(gradients, other_gradients, **tolerance)
    for name in log:
        torch.testing.assert_close(log[name], other_log[name], msg=name, **tolerance)


def test_a_layer_that_asks_for_the_first_time_later_on_is_recorded(corpus, learnt, monkeypatch):
    monkeypatch.setattr(existing_positions, "_POSITIONS_PER_PIECE", {"cpu": 20})
    built = setup(corpus, weights=learnt("transformer"), name="cross_entropy")
    built.criterion = graph_criterion(built, max_decode_length=9, **OBJECTIVES["leave_one_out"])
    asks = False

    def late(module, arguments, output):
        if not asks:
            return None
        scores = output[0].transpose(0, 1)
        chosen = sample_layer("late", OneHotCategorical(logits=scores, validate_args=False))
        return (output[0] + chosen.transpose(0, 1), *output[1:])

    built.model.decoder.layers[0].register_forward_hook(late)
    built.model.train()
    sample = built.batch(*range(6))
    logs = []
    for asks in (False, False, True, True):  # noqa: B007
        logs.append(built.gradient(sample)[2])
    assert [any(name.endswith("_late") for name in log) for log in logs] == [0, 0, 1, 1]


def test_equal_outputs_of_a_source_are_computed_once():
    tokens = torch.tensor([[5, 2, 1], [5, 2, 1], [5, 6, 2], [5, 2, 1]])
    lengths = torch.tensor([2, 2, 3, 2])
    positions = ExistingPositions.of(tokens, lengths, 3)
    computed = torch.cat([rows for rows, _ in positions.pieces]).tolist()
    assert sorted(computed) == [0, 2, 3]
    assert positions.same_as.tolist() == [0, 0, 2, 3]
    values = [torch.arange(len(index)) + 1.0 for index in positions.indices]
    values = [value.requires_grad_() for value in values]
    spread = positions.spread(values)
    assert spread.shape == tokens.shape
    assert spread[0].equal(spread[1])
    spread[:2, 0].sum().backward()
    assert sum(value.grad.sum() for value in values) == 2
    assert ExistingPositions.of(tokens, lengths, 1).same_as is None


def test_outputs_without_a_token_have_a_piece_all_the_same():
    positions = ExistingPositions.of(torch.ones(2, 1).long(), torch.zeros(2).long(), 1)
    assert [length for _, length in positions.pieces] == [1]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_pass_of_some_positions_leaves_the_encoders_output_alone(corpus, arch):
    """Each piece takes its rows of one output."""
    built = setup(corpus, arch, name="cross_entropy")
    net_input = built.batch(*range(4))["net_input"]
    fed = net_input["prev_output_tokens"]
    lengths = torch.tensor([2, 4, 1, 3]).clamp(max=fed.size(1))
    positions = ExistingPositions(
        tuple(fed.shape), [(torch.tensor([3, 1]), 4), (torch.tensor([0, 2]), 2)], None
    )
    built.model.eval()
    logits = positions.spread(positions.logits(built.model, net_input, fed))
    whole = model_pass(built.model, net_input, fed)
    exists = torch.arange(fed.size(1)) < lengths.unsqueeze(1)
    torch.testing.assert_close(logits[exists], whole[exists])


def test_pieces_leave_the_encoding_to_each_other():
    """fairseq's encoders reorder dicts and lists in place, also those that are in another."""
    encoding = {"encoder": {"encoder_out": (torch.arange(3),)}, "states": [[torch.arange(3)]]}

    def reorder(encoder_out, order):
        inner = encoder_out["encoder"]
        inner["encoder_out"] = tuple(x[order] for x in inner["encoder_out"])
        encoder_out["states"][0][0] = encoder_out["states"][0][0][order]
        return encoder_out

    for row in range(3):
        own = reorder(existing_positions._copied(encoding), torch.tensor([row]))
        assert own["encoder"]["encoder_out"][0].tolist() == own["states"][0][0].tolist() == [row]
