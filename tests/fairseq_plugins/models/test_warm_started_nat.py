"""A non-autoregressive transformer that starts from an autoregressive one."""

import pytest
import torch
from fairseq_setup import setup
from non_autoregressive_models import nat_setup, noisy

WARM = "warm_started_nonautoregressive_transformer"


@pytest.fixture
def built(corpus):
    return nat_setup(corpus, WARM)


def test_a_trained_transformer_loads_and_only_the_length_starts_anew(corpus, built):
    trained = setup(corpus).model
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)
    given = trained.state_dict()
    before = {key: value.clone() for key, value in built.model.state_dict().items()}
    built.model.load_state_dict(dict(given), strict=True)
    after = built.model.state_dict()
    assert after.keys() - given.keys() == {"decoder.embed_length.weight"}
    assert all(torch.equal(after[key], given[key]) for key in given)
    assert torch.equal(before["decoder.embed_length.weight"], after["decoder.embed_length.weight"])


@pytest.mark.parametrize("source", [WARM, "nonautoregressive_transformer"])
def test_the_length_of_a_non_autoregressive_checkpoint_is_kept(corpus, built, source):
    other = nat_setup(corpus, source).model
    with torch.no_grad():
        other.decoder.embed_length.weight.fill_(0.5)
    built.model.load_state_dict(other.state_dict(), strict=True)
    assert built.model.decoder.embed_length.weight.eq(0.5).all()


def test_another_size_is_refused(corpus, built):
    transformer = setup(corpus, flags=("--encoder-ffn-embed-dim", 24)).model
    with pytest.raises(RuntimeError, match=r"encoder\.layers\.0\.fc1\.weight"):
        built.model.load_state_dict(transformer.state_dict(), strict=True)


@pytest.mark.parametrize("flags", [(), ("--layernorm-embedding",)], ids=["without", "with"])
def test_a_layer_that_the_decoder_would_not_apply_is_refused(corpus, flags):
    transformer = setup(corpus, flags=("--layernorm-embedding",)).model
    model = nat_setup(corpus, WARM, flags=flags).model
    with pytest.raises(ValueError, match=r"with --layernorm-embedding.*take one .* without"):
        model.load_state_dict(transformer.state_dict(), strict=True)


def test_it_is_the_model_of_fairseq(corpus, built):
    plain = nat_setup(corpus, "nonautoregressive_transformer")
    plain.model.load_state_dict(built.model.state_dict())
    sample = noisy(built, 0, 1)
    losses = [one.criterion(one.model.eval(), sample)[0] for one in (built, plain)]
    assert torch.equal(*losses)
