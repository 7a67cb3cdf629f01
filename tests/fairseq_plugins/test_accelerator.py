"""What only an accelerator can show."""

import pytest
import torch
from fairseq_setup import FixedRows, sample_of, setup

from fairseq_plugins import decoding

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: the host must not wait for it"
)


class RowsOfSources(FixedRows):
    """Rows that do not depend on what is fed, for as many samples of a source as wanted."""

    def __init__(self, rows):
        super().__init__(rows)
        self.encoder, self.decoder = NumberedSources(), DecoderOfSources(rows)

    def forward(self, src_tokens, src_lengths, prev_output_tokens):
        return self.decoder(prev_output_tokens, encoder_out=self.encoder(src_tokens))


class NumberedSources(torch.nn.Module):
    def forward(self, src_tokens):
        return torch.arange(src_tokens.size(0), device=src_tokens.device)

    def forward_torchscript(self, net_input):
        return self(net_input["src_tokens"])

    def reorder_encoder_out(self, encoder_out, order):
        return encoder_out.index_select(0, order)


class DecoderOfSources(torch.nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, prev_output_tokens, encoder_out):
        rows = self.rows.index_select(0, encoder_out)
        return rows[:, : prev_output_tokens.size(1)].clone(), None


def assert_never_waits(built, kind=FixedRows):
    """A second step of the criterion, forward and backward, with a model that never waits."""
    dictionary = built.task.target_dictionary
    sample = sample_of([[4, 5, 6, 4], [7, 8]], dictionary.eos(), dictionary.pad())
    sample["target"] = sample["target"].cuda()
    sample["net_input"] = {key: value.cuda() for key, value in sample["net_input"].items()}
    # fairseq's own models wait in places; this one only looks its rows up.
    model = kind(torch.randn(2, 12, len(dictionary), device="cuda", requires_grad=True))
    criterion = built.criterion.cuda()
    criterion(model, sample)[0].backward()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(model, sample)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("overlap", ["exact", "paper", "lower", "upper"])
def test_a_training_step_never_waits_for_the_device(corpus, overlap):
    assert_never_waits(setup(corpus, overlap=overlap, label_smoothing=0.1))


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1},
        {"objective": "raml"},
        {"objective": "expected_bleu"},
        {"cost": "reward", "baseline": "none"},
        {"cost": "reward", "baseline": "moving_average", "credit": "reward_to_go"},
        {"cost": "reward", "reward": "gleu", "cross_entropy_weight": 0.5},
    ],
)
def test_a_step_of_the_stochastic_graph_that_does_not_decode_never_waits(corpus, options):
    """A decode's early stop is the one place where the host asks, now and then."""
    assert_never_waits(setup(corpus, name="stochastic_graph", **options), RowsOfSources)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "reinforce"},
        {"objective": "self_critical"},
        {"objective": "free_running"},
        {"objective": "scheduled_sampling"},
        {"objective": "minimum_risk"},
        {"objective": "leave_one_out", "reward_normalization": "batch"},
    ],
)
def test_what_follows_decoding_never_waits(corpus, options, monkeypatch):
    """The pass with gradient, the reward and the surrogate; the decode itself is left out."""
    built = setup(corpus, name="stochastic_graph", **options)
    decode = decoding.decode

    def waiting(*arguments, **keywords):
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return decode(*arguments, **keywords)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    monkeypatch.setattr(decoding, "decode", waiting)
    assert_never_waits(built, RowsOfSources)
