"""Several samples in one pass, and the state of the decoder, against plain passes of the model."""

import pytest
import torch
from fairseq.distributed import ModuleProxyWrapper
from fairseq_setup import ARCHITECTURES, FixedRows, sample_of, setup

from fairseq_plugins.existing_positions import decodes_in_pieces
from fairseq_plugins.model_pass import model_pass, recorded_states

TIED = {
    "transformer": ("--share-decoder-input-output-embed",),
    "lstm": ("--share-decoder-input-output-embed",),
    "fconv": ("--share-input-output-embed",),
}


def built_model(corpus, arch, *, flags=()):
    built = setup(corpus, arch, name="cross_entropy", flags=flags)
    return built.model, built.batch(*range(4))["net_input"]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def traces(model):
    """Whatever a pass could leave on the modules."""
    return [
        (*module._forward_hooks, *module._forward_pre_hooks, *vars(module))
        for module in model.modules()
    ]


def other_tokens(net_input, samples):
    """Decoder input that differs between the samples of a source."""
    tokens = net_input["prev_output_tokens"].repeat_interleave(samples, dim=0)
    words = torch.randint(4, 20, tokens.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([tokens[:, :1], words[:, 1:]], dim=1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_samples_in_one_pass_have_the_logits_and_gradients_of_repeated_sources(corpus, arch):
    model, net_input = built_model(corpus, arch)
    assert len(set(net_input["src_lengths"].tolist())) > 1, "some sources have to have padding"
    tokens = other_tokens(net_input, 3)
    encoded = []
    handle = model.encoder.register_forward_pre_hook(
        lambda module, arguments: encoded.append(arguments[0].size(0))
    )
    with recorded_states(model.decoder) as states:
        actual = model_pass(model, net_input, tokens, samples=3)
    handle.remove()
    assert encoded == [4]
    repeated = {
        key: net_input[key].repeat_interleave(3, dim=0) for key in ("src_tokens", "src_lengths")
    }
    expected = model(**repeated, prev_output_tokens=tokens)[0]
    torch.testing.assert_close(actual, expected)
    assert [state.shape[:2] for state in states] == [tokens.shape]
    factors = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        gradients(model, (actual * factors).sum()),
        gradients(model, (expected * factors).sum()),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("tied", [False, True], ids=["", "shared-embeddings"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_states_are_what_the_logits_are_computed_from(corpus, arch, tied):
    model, net_input = built_model(corpus, arch, flags=TIED[arch] if tied else ())
    decoder = model.decoder
    with recorded_states(decoder) as states:
        logits = model_pass(model, net_input, net_input["prev_output_tokens"])
    output_layer = decoder.fc3 if arch == "fconv" else decoder.output_layer
    torch.testing.assert_close(output_layer(states[-1]), logits)
    assert states[-1].requires_grad


@pytest.mark.parametrize("tied", [False, True], ids=["", "shared-embeddings"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_pass_leaves_no_trace_even_where_it_fails(corpus, arch, tied):
    model, net_input = built_model(corpus, arch, flags=TIED[arch] if tied else ())
    model(**net_input)  # fairseq's modules keep some things themselves
    tokens = net_input["prev_output_tokens"].repeat_interleave(2, dim=0)
    before = traces(model)
    with recorded_states(model.decoder):
        model_pass(model, net_input, tokens, samples=2)
    assert traces(model) == before
    too_large = torch.full_like(tokens, 10_000)
    with pytest.raises(IndexError), recorded_states(model.decoder):
        model_pass(model, net_input, too_large, samples=2)
    assert traces(model) == before


def test_wrong_number_of_rows_is_refused(corpus):
    model, net_input = built_model(corpus, "transformer")
    with pytest.raises(ValueError, match="has 4 rows; 2 samples of each of 4 sources need 8"):
        model_pass(model, net_input, net_input["prev_output_tokens"], samples=2)


def test_an_architecture_without_state_is_refused_by_the_flags_name():
    model = FixedRows(torch.randn(2, 4, 10))
    net_input = sample_of([[4, 5], [6]], eos=2, pad=1)["net_input"]
    with pytest.raises(ValueError, match="--baseline learned"), recorded_states(model.decoder):
        model_pass(model, net_input, net_input["prev_output_tokens"])


def test_an_architecture_that_does_not_call_its_encoder_cannot_share_it():
    model = FixedRows(torch.randn(4, 4, 10))
    net_input = sample_of([[4, 5], [6]], eos=2, pad=1)["net_input"]
    tokens = net_input["prev_output_tokens"].repeat_interleave(2, dim=0)
    with pytest.raises(ValueError, match="does not call its encoder"):
        model_pass(model, net_input, tokens, samples=2)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_pytorchs_data_parallel_wrapper_gets_the_same_gradient(corpus, arch, lone_worker):
    model, net_input = built_model(corpus, arch)
    other, _ = built_model(corpus, arch)
    wrapped = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(other))
    reductions = []
    wrapped.module.register_comm_hook(
        None,
        lambda state, bucket: (
            reductions.append(bucket.index()),
            torch.distributed.all_reduce(bucket.buffer(), async_op=True)
            .get_future()
            .then(lambda future: future.value()[0]),
        )[1],
    )
    tokens = other_tokens(net_input, 2)

    def loss(one):
        with recorded_states(one.decoder) as states:
            logits = model_pass(one, net_input, tokens, samples=2)
        return logits.logsumexp(-1).square().sum() + states[-1].square().sum()

    expected = gradients(model, loss(model))
    torch.testing.assert_close(gradients(other, loss(wrapped)), expected)
    assert reductions, "the wrapper has to have reduced the gradients"


class FullyShardedDataParallel(torch.nn.Module):
    """Stands for fairscale's: only the name counts."""


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_only_models_that_return_the_decoders_output_are_run_in_pieces(corpus, arch):
    model, _ = built_model(corpus, arch)
    assert decodes_in_pieces(model)
    wrapper = torch.nn.Module()
    wrapper.module = model
    assert decodes_in_pieces(wrapper)

    class Scaled(type(model)):
        def forward(self, *arguments, **keywords):
            logits, extra = super().forward(*arguments, **keywords)
            return 2 * logits, extra

    own_class = type(model)
    model.__class__ = Scaled
    assert not decodes_in_pieces(wrapper)
    model.__class__ = own_class
    handle = model.decoder.register_forward_hook(lambda *_: None)
    assert not decodes_in_pieces(wrapper)
    handle.remove()
    model.decoder.sharded = FullyShardedDataParallel()
    assert not decodes_in_pieces(wrapper)
