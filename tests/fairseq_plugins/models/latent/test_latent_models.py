"""``--arch latent_transformer``: where z comes from, what it does, what loads into it."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq.distributed import ModuleProxyWrapper
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerDecoder, TransformerModel
from fairseq.sequence_generator import SequenceGenerator
from fairseq_setup import evaluating, setup
from latent_models import (
    EOS,
    OTHER,
    PAD,
    SIZES,
    SMOOTH,
    UNK,
    WORD,
    batch,
    task_of_words,
    tiny,
)
from torch.distributions import kl_divergence

from criterions.stochastic_graph import StochasticGraph
from fairseq_plugins.models.latent.latent_distributions import KINDS, divergence
from fairseq_plugins.models.latent.latent_transformer import LatentTransformerDecoder

every_kind = pytest.mark.parametrize("kind", sorted(KINDS))

TARGETS = [[WORD, OTHER, WORD], [OTHER]]
SOURCES = [[WORD, OTHER, EOS], [PAD, OTHER, EOS]]


def with_latent(corpus, *flags, name="stochastic_graph", **options):
    flags = ("--arch", "latent_transformer", "--latent-dim", 3, *flags)
    return setup(corpus, "transformer", flags=flags, name=name, **options)


def load(built, weights):
    """As fairseq does, which changes the dictionary that it is given."""
    built.model.load_state_dict(dict(weights), strict=True, model_cfg=built.config.model)


def logits_of(model, sample):
    with torch.no_grad():
        return model(**sample["net_input"])[0]


@every_kind
@pytest.mark.parametrize("prior", ["fixed", "conditional"])
def test_a_plain_transformers_checkpoint_keeps_its_outputs(corpus, learnt, kind, prior):
    plain = setup(corpus, "transformer", weights=learnt("transformer"))
    ours = with_latent(corpus, "--latent", kind, "--latent-prior", prior)
    before = {name: value.clone() for name, value in ours.model.state_dict().items()}
    sample = plain.batch(0, 1, 2)
    assert before["decoder.latent_projection.weight"].any()
    load(ours, learnt("transformer"))
    with evaluating(plain), evaluating(ours):
        torch.testing.assert_close(logits_of(ours.model, sample), logits_of(plain.model, sample))
    after = ours.model.state_dict()
    assert not after["decoder.latent_projection.weight"].any()
    posterior = [name for name in after if name.startswith("decoder.latent_posterior")]
    assert posterior
    for name in posterior:
        torch.testing.assert_close(after[name], before[name])


def test_a_checkpoint_without_another_layer_is_refused(corpus, learnt):
    ours = with_latent(corpus)
    weights = dict(learnt("transformer"))
    del weights["decoder.layers.0.fc1.weight"]
    with pytest.raises(
        RuntimeError, match=r"Missing key\(s\) in state_dict: .decoder\.layers\.0\.fc1\.weight"
    ):
        load(ours, weights)


def test_a_checkpoint_goes_from_posterior_to_prior_and_back(corpus):
    posterior, prior = with_latent(corpus), with_latent(corpus, "--latent-from", "prior")
    models = {"posterior": posterior, "prior": prior}
    assert any(name.startswith("decoder.latent_posterior") for name in posterior.model.state_dict())
    assert not any(name.startswith("decoder.latent_posterior") for name in prior.model.state_dict())
    sample = posterior.batch(0, 1)
    for start, end in (("posterior", "prior"), ("prior", "posterior")):
        load(models[end], models[start].model.state_dict())
        with evaluating(posterior), evaluating(prior):
            torch.testing.assert_close(
                logits_of(models[start].model, sample), logits_of(models[end].model, sample)
            )


@every_kind
def test_evaluation_is_deterministic_and_training_under_a_graph_is_not(kind):
    model, criterion = tiny({"latent": kind})
    sample = batch(*TARGETS, sources=SOURCES)
    torch.testing.assert_close(logits_of(model, sample), logits_of(model, sample))
    losses = {float(criterion(model, sample)[0]) for _ in range(3)}
    assert len(losses) == 3
    model.eval(), criterion.eval()
    losses = {float(criterion(model, sample)[0]) for _ in range(3)}
    assert len(losses) == 1


@every_kind
def test_padding_changes_nothing(kind):
    model, _ = tiny({"latent": kind, "latent_prior": "conditional"})
    both = batch(*TARGETS, sources=SOURCES)
    alone = batch(TARGETS[1], sources=[SOURCES[1][1:]])
    torch.testing.assert_close(
        logits_of(model, both)[1:, :2], logits_of(model, alone), rtol=1e-4, atol=1e-5
    )
    posterior = [_posterior(model, sample) for sample in (both, alone)]
    value = posterior[1].sample()
    torch.testing.assert_close(
        posterior[0].log_prob(value)[1:], posterior[1].log_prob(value), rtol=1e-4, atol=1e-4
    )


def _posterior(model, sample):
    net_input = sample["net_input"]
    encoded = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    return model.decoder.posterior(encoded["latent_source"][0], net_input["prev_output_tokens"])


def first_logits(model, *target):
    """After the start symbol, under a graph, with the same random numbers."""
    torch.manual_seed(3)
    with torch.no_grad(), StochasticGraph():
        return logits_of(model, batch(list(target)))[:, 0]


@every_kind
def test_the_posterior_sees_the_target_and_the_prior_does_not(kind):
    model, _ = tiny({"latent": kind})
    assert not torch.allclose(first_logits(model, WORD, WORD), first_logits(model, WORD, OTHER))
    model, _ = tiny({"latent": kind, "latent_from": "prior"})
    torch.testing.assert_close(first_logits(model, WORD, WORD), first_logits(model, WORD, OTHER))


def test_the_posterior_sees_the_reference_when_samples_are_fed(monkeypatch):
    model, criterion = tiny({}, objective="scheduled_sampling", teacher_forcing=0)
    seen, fed = [], []
    posterior = model.decoder.posterior
    monkeypatch.setattr(
        model.decoder,
        "posterior",
        lambda source, reference: seen.append(reference) or posterior(source, reference),
    )
    features = model.decoder.extract_features_scriptable
    monkeypatch.setattr(
        model.decoder,
        "extract_features_scriptable",
        lambda tokens, *rest, **keys: fed.append(tokens) or features(tokens, *rest, **keys),
    )
    sample = batch([WORD] * 6)
    torch.manual_seed(2)
    criterion(model, sample)
    (reference,) = seen
    assert reference.equal(sample["net_input"]["prev_output_tokens"])
    assert not fed[-1].equal(reference), "or the test shows nothing"


@every_kind
@pytest.mark.parametrize("prior", ["fixed", "conditional"])
def test_steps_give_what_the_whole_target_gives(kind, prior):
    model, _ = tiny({"latent": kind, "latent_prior": prior})
    sample = batch(*TARGETS, sources=SOURCES)
    net_input, state = sample["net_input"], {}
    fed = net_input["prev_output_tokens"]
    with torch.no_grad():
        encoded = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
        steps = [
            model.decoder(fed[:, : step + 1], encoder_out=encoded, incremental_state=state)[0]
            for step in range(fed.size(1))
        ]
    torch.testing.assert_close(torch.cat(steps, 1)[0], logits_of(model, sample)[0])


@every_kind
def test_in_evaluation_z_may_be_drawn_once_a_sentence(kind):
    model, _ = tiny({"latent": kind, "latent_in_evaluation": "sample"})
    model.eval()
    sample = batch(*TARGETS, sources=SOURCES)
    net_input = sample["net_input"]
    encoded = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    (values,) = encoded["latent_value"]
    assert values.shape == (2, KINDS[kind](16).features)
    order = torch.tensor([1, 0, 0])
    reordered = model.encoder.reorder_encoder_out(encoded, order)
    assert reordered["latent_value"][0].equal(values[order])
    again = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    assert not again["latent_value"][0].equal(values)
    assert not torch.allclose(logits_of(model, sample), logits_of(model, sample))
    # In training it is the graph that draws.
    model.train()
    encoded = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    assert encoded["latent_value"] == []


@pytest.mark.parametrize("mode", ["deterministic", "sample"])
def test_a_beam_shares_the_latent_of_its_sentence(corpus, learnt, mode):
    """The best hypothesis' score is its likelihood given that z."""
    built = with_latent(corpus, "--latent-in-evaluation", mode)
    load(built, learnt("transformer"))
    torch.nn.init.normal_(built.model.decoder.latent_projection.weight)
    sample = built.batch(0, 1, 2)
    dictionary = built.task.target_dictionary
    generator = SequenceGenerator([built.model], dictionary, beam_size=4, max_len_b=12)
    values = []
    forward = built.model.encoder.forward_scriptable

    def watched(*arguments, **keywords):
        encoded = forward(*arguments, **keywords)
        values.append(encoded["latent_value"])
        return encoded

    built.model.encoder.forward_scriptable = watched
    with evaluating(built):
        found = generator.generate([built.model], sample)
        net_input = sample["net_input"]
        del built.model.encoder.forward_scriptable
        assert len(values) == 1
        for row, hypotheses in enumerate(found):
            for hypothesis in hypotheses[:2]:
                tokens = hypothesis["tokens"].unsqueeze(0)
                order = torch.tensor([row])
                encoded = built.model.encoder(
                    net_input["src_tokens"], src_lengths=net_input["src_lengths"]
                )
                encoded = built.model.encoder.reorder_encoder_out(encoded, order)
                encoded["latent_value"] = [value[order] for value in values[0]]
                start = torch.full((1, 1), dictionary.eos())
                fed = torch.cat([start, tokens[:, :-1]], 1)
                logits = built.model.decoder(fed, encoder_out=encoded)[0]
                scores = logits.log_softmax(-1).gather(2, tokens.unsqueeze(2))[0, :, 0]
                torch.testing.assert_close(
                    hypothesis["positional_scores"], scores, rtol=1e-3, atol=1e-4
                )


def test_without_positional_embeddings_the_latent_is_added_all_the_same(corpus):
    flags = ("--no-token-positional-embeddings",)
    plain = setup(corpus, "transformer", flags=flags)
    ours = with_latent(corpus, *flags)
    sample = plain.batch(0, 1)
    with evaluating(plain), evaluating(ours):
        without = logits_of(plain.model, sample)
        assert ours.model.max_decoder_positions() == plain.model.max_decoder_positions()
        load(ours, plain.model.state_dict())
        torch.testing.assert_close(logits_of(ours.model, sample), without)
        torch.nn.init.normal_(ours.model.decoder.latent_projection.weight)
        assert not torch.allclose(logits_of(ours.model, sample), without)


@every_kind
@pytest.mark.parametrize("prior", ["fixed", "conditional"])
def test_divergence_of_parts_is_exact_or_the_difference_of_logarithms(kind, prior):
    made = KINDS[kind](3)
    torch.manual_seed(4)
    parameters = torch.randn(5, made.parameters, dtype=torch.float64)
    other = torch.randn(5, made.parameters, dtype=torch.float64)
    posterior = made.distribution(parameters)
    against = made.prior(parameters, [other] if prior == "conditional" else [])
    value = posterior.rsample()
    assert value.flatten(1).shape == (5, made.features)
    parts, through_value = divergence(posterior, against, value)
    assert parts.shape == (5, 3)
    assert through_value == (prior == "conditional" and kind in ("circle", "torus"))
    if kind == "gaussian" or (prior == "fixed" and kind in ("circle", "torus")):
        torch.testing.assert_close(parts.sum(1), kl_divergence(posterior, against))
    else:
        difference = posterior.log_prob(value) - against.log_prob(value)
        torch.testing.assert_close(parts.sum(1), difference)


@every_kind
def test_every_parameter_of_networks_gets_a_gradient(kind):
    model, criterion = tiny({"latent": kind, "latent_prior": "conditional"})
    criterion(model, batch(*TARGETS, sources=SOURCES))[0].backward()
    for name, parameter in model.named_parameters():
        if "latent" in name:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@every_kind
def test_float16_gives_what_float32_gives(kind):
    model, _ = tiny({"latent": kind, "latent_prior": "conditional"})
    sample = batch(*TARGETS, sources=SOURCES)
    full = logits_of(model.float(), sample)
    half = logits_of(model.half(), sample)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)
    with torch.no_grad(), StochasticGraph() as graph:
        logits_of(model, sample)
    distribution = graph.nodes["latent", None].distribution
    assert distribution.sample().dtype == torch.float32
    assert graph.costs["kl", None].value.dtype == torch.float32


@every_kind
@pytest.mark.parametrize("prior", ["fixed", "conditional"])
def test_autocast_leaves_distributions_and_divergences_as_they_are(kind, prior):
    made = KINDS[kind](6)
    parameters = torch.randn(4, made.parameters, generator=torch.Generator().manual_seed(1))
    narrow = parameters.unflatten(1, (6, -1)).clone()
    narrow[..., -1] = -6
    narrow = narrow.flatten(1)
    found = []
    for enabled in (False, True):
        torch.manual_seed(2)
        leaf = narrow.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            posterior = made.distribution(leaf)
            against = made.prior(leaf.detach(), [parameters] if prior == "conditional" else [])
            value = posterior.rsample()
            parts, _ = divergence(posterior, against, value)
        gradient = torch.autograd.grad(parts.sum() + value.sum(), leaf)[0]
        assert value.dtype == parts.dtype == torch.float32
        found.append((value.detach(), parts.detach(), gradient))
    for plain, cast in zip(*found, strict=True):
        torch.testing.assert_close(cast, plain)


@every_kind
@pytest.mark.parametrize("source", ["posterior", "prior"])
def test_the_latent_never_waits_for_the_device(kind, source, monkeypatch):
    """A step reads nothing that a step of the plain transformer does not."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "criterions")
    from host_reads import HostReads

    flags = {"free_bits": 0.1, "kl_weight": "linear:0:1:9", "word_dropout": 0.5}
    model, criterion = tiny(
        {"latent": kind, "latent_prior": "conditional", "latent_from": source, **flags}
    )
    args = Namespace(**SIZES, **SMOOTH)
    ARCH_CONFIG_REGISTRY["transformer"](args)
    plain = TransformerModel.build_model(args, task_of_words()).double()
    sample = batch(*TARGETS, sources=SOURCES)
    found = []
    for each in (plain, model):
        criterion(each, sample)
        with HostReads() as reads:
            criterion(each, sample)[0].backward()
        found.append(reads.operations)
    assert found[1] == found[0]


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"objective": "leave_one_out", "samples": 2},
        {"objective": "reinforce", "layer_estimator": "none"},
        {"objective": "scheduled_sampling"},
    ],
    ids=["cross_entropy", "leave_one_out", "none", "scheduled_sampling"],
)
@pytest.mark.parametrize("kind", ["gaussian", "sphere"])
def test_pytorchs_data_parallel_wrapper_finds_a_gradient_of_every_parameter(
    lone_worker, kind, objective
):
    """It stops in the second update where a network that the objective has no use for has none."""
    model, criterion = tiny({"latent": kind, "latent_prior": "conditional"}, **objective)
    wrapped = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(model))
    sample = batch(*TARGETS, sources=SOURCES)
    for _ in range(3):
        criterion(wrapped, sample)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.decoder.latent_projection.weight.grad.any()


@pytest.fixture
def watched(monkeypatch):
    """Makes lists of what the transformer's own decoder and the posterior are given."""
    fed, seen = [], []
    features = TransformerDecoder.extract_features_scriptable
    posterior = LatentTransformerDecoder.posterior

    def watched_features(self, tokens, *rest, **keywords):
        fed.append(tokens)
        return features(self, tokens, *rest, **keywords)

    def watched_posterior(self, source, reference):
        seen.append(reference)
        return posterior(self, source, reference)

    monkeypatch.setattr(TransformerDecoder, "extract_features_scriptable", watched_features)
    monkeypatch.setattr(LatentTransformerDecoder, "posterior", watched_posterior)
    return fed, seen


def test_word_dropout_hides_words_from_the_decoder_alone(watched):
    fed, seen = watched
    model, criterion = tiny({"word_dropout": 0.3})
    sample = batch(*[[WORD, OTHER] * 20, [OTHER] * 9] * 50)
    reference = sample["net_input"]["prev_output_tokens"]
    torch.manual_seed(1)
    criterion(model, sample)
    assert seen[-1].equal(reference)
    hidden = fed[-1].ne(reference)
    assert fed[-1][hidden].eq(UNK).all()
    words = reference.eq(WORD) | reference.eq(OTHER)
    assert not hidden[~words].any(), "start symbols and padding stay"
    assert reference[:, 0].eq(EOS).all()
    assert reference.eq(PAD).any()
    share = float(hidden[words].double().mean())
    assert share == pytest.approx(0.3, abs=5 * (0.21 / int(words.sum())) ** 0.5)
    rows = hidden[0::2, 1:]
    assert len(rows.unique(dim=0)) == len(rows)


def test_with_padding_on_the_left_the_start_symbol_stays_as_well():
    model, _ = tiny({"word_dropout": 0.99})
    tokens = torch.tensor([[PAD, PAD, EOS, WORD, OTHER], [EOS, WORD, WORD, WORD, WORD]])
    torch.manual_seed(1)
    with StochasticGraph():
        fed = model.decoder.with_word_dropout(tokens)
    assert fed.eq(UNK).sum() > 3
    assert fed.eq(UNK).logical_and(tokens.lt(UNK)).sum() == 0


def test_word_dropout_is_for_training_with_the_target(watched):
    """Not in validation, nor for tokens that the model chose: while they are decoded or scored."""
    fed, _ = watched
    model, criterion = tiny({"word_dropout": 0.9})
    sample = batch([WORD, OTHER] * 6)
    reference = sample["net_input"]["prev_output_tokens"]
    model.eval(), criterion.eval()
    criterion(model, sample)
    logits_of(model, sample)
    model.train()
    logits_of(model, sample)  # as of fairseq's own criterions
    assert len(fed) == 3
    assert all(tokens.equal(reference) for tokens in fed)
    for options in (
        {"objective": "leave_one_out", "samples": 3, "max_decode_length": 4},
        {"objective": "scheduled_sampling", "teacher_forcing": 0},
    ):
        model, criterion = tiny({"word_dropout": 0.9}, **options)
        with torch.no_grad():
            model.decoder.output_projection.weight[UNK] = 0  # the model never chooses it
            model.decoder.output_projection.weight[UNK, 0] = -1e4
        model.decoder.layers[-1].final_layer_norm.register_forward_hook(_first_channel_is_1)
        del fed[:]
        criterion(model, sample)
        assert len(fed) > 1
        assert not any(tokens.eq(UNK).any() for tokens in fed)
    model, criterion = tiny(
        {"word_dropout": 0.9}, objective="leave_one_out", samples=3, cross_entropy_weight=0.5
    )
    del fed[:]
    criterion(model, sample)
    shares = [float(t[:, 1:].eq(UNK).double().mean()) for t in fed if t.shape == reference.shape]
    assert max(shares) > 0.6


def _first_channel_is_1(module, arguments, output):
    return torch.cat([torch.ones_like(output[..., :1]), output[..., 1:]], dim=-1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"latent": "moebius"}, "--latent must be one of circle, gaussian"),
        ({"latent_dim": 0}, "--latent-dim must be at least 1; got 0"),
        ({"latent_prior": "x"}, "--latent-prior must be one of conditional, fixed"),
        ({"latent_from": "x"}, "--latent-from must be one of posterior, prior"),
        ({"latent_in_evaluation": "x"}, "--latent-in-evaluation must be one of"),
        ({"kl_weight": "linear:0:1"}, "--kl-weight: schedule 'linear:0:1' is not understood"),
        ({"kl_weight": "linear:1:-1:5"}, "--kl-weight must be at least 0; got -1"),
        ({"free_bits": -0.5}, "--free-bits must be at least 0; got -0.5"),
        ({"free_bits": float("nan")}, "--free-bits must be at least 0; got nan"),
        ({"free_bits": float("inf")}, "--free-bits must be finite; got inf"),
        ({"kl_weight": "linear:1:-1:10000000000"}, "--kl-weight must be at least 0; got -1"),
        ({"word_dropout": 1.0}, "--word-dropout must be below 1; got 1"),
        ({"word_dropout": -0.1}, "--word-dropout must be at least 0; got -0.1"),
        ({"word_dropout": float("nan")}, "--word-dropout must be at least 0; got nan"),
    ],
)
def test_bad_flags_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        tiny(given)


@pytest.mark.parametrize("base", ["transformer", "transformer_iwslt_de_en"])
def test_architectures_have_the_sizes_of_their_bases(base):
    plain, ours = Namespace(encoder_layers=3), Namespace(encoder_layers=3)
    ARCH_CONFIG_REGISTRY[base](plain)
    ARCH_CONFIG_REGISTRY[f"latent_{base}"](ours)
    assert vars(plain) == vars(ours)
