"""How scores become weights: what is selected when, and what the draws are."""

import pytest
import torch
from stochastic_attention_models import build, build_preset, build_stochastic, sentences

from criterions.stochastic_graph import (
    Enumeration,
    ScoreFunction,
    StepwiseDraws,
    StochasticGraph,
)
from fairseq_plugins.models.stochastic_attention.choice import AttentionFlags, PositionChoice
from fairseq_plugins.models.stochastic_attention.mixture import mixture_log_probabilities

LOGITS = torch.tensor([1.0, 0.0, -0.5, -torch.inf])
PROBABILITIES = LOGITS.softmax(0)
ROWS = 20_000


def choice(kind, evaluation="soft", temperature="1"):
    flags = AttentionFlags(
        attention=kind, attention_in_evaluation=evaluation, attention_temperature=temperature
    )
    return PositionChoice("attention", flags)


def draws_of(made, rows=ROWS, update=0):
    """Weights ``[rows, 4]`` drawn in a graph."""
    torch.manual_seed(1)
    with StochasticGraph(update=update):
        return made.weights(made.selection(), LOGITS.expand(rows, -1))


def within_error(frequencies):
    """Five standard errors of a mean of ``ROWS`` draws."""
    error = (PROBABILITIES * (1 - PROBABILITIES) / ROWS).sqrt()
    return bool(((frequencies - PROBABILITIES).abs() <= 5 * error).all())


IN_TRAINING = {
    "soft": "soft",
    "hard": "draw",
    "gumbel": "draw",
    "gumbel_st": "draw",
    "greedy": "mode",
    "exact": "exact",
}


@pytest.mark.parametrize(("kind", "selection"), IN_TRAINING.items())
@pytest.mark.parametrize("training", [True, False])
def test_a_graph_decides_whatever_the_mode_of_the_modules(kind, selection, training):
    """The pass with gradient may be one without dropout, in evaluation mode."""
    made = choice(kind, "sample").train(training)
    with StochasticGraph():
        assert made.selection() == selection
    with StepwiseDraws():
        assert made.selection() == selection


@pytest.mark.parametrize("kind", IN_TRAINING)
@pytest.mark.parametrize("evaluation", ["mode", "soft", "sample", "exact"])
def test_evaluation_and_decoding_select_as_in_evaluation(kind, evaluation):
    made = choice(kind, evaluation)
    assert made.eval().selection() == evaluation
    with torch.no_grad():
        assert made.train().selection() == evaluation


@pytest.mark.parametrize(("kind", "selection"), [*IN_TRAINING.items()])
def test_training_without_a_graph_is_refused_for_hard_attention_alone(kind, selection):
    if kind == "hard":
        with pytest.raises(ValueError, match=r"--attention hard.*--criterion stochastic_graph"):
            choice(kind).selection()
    else:
        assert choice(kind).selection() == selection


def test_hard_attention_is_drawn_with_its_probabilities():
    drawn = draws_of(choice("hard"))
    assert drawn.sum(1).eq(1).all()
    assert drawn.max(1).values.eq(1).all()
    assert within_error(drawn.mean(0))


@pytest.mark.parametrize("kind", ["gumbel", "gumbel_st"])
def test_gumbel_noise_is_added_to_log_probabilities(kind):
    """So that the largest weight is at each position with its probability."""
    drawn = draws_of(choice(kind))
    likeliest = torch.nn.functional.one_hot(drawn.argmax(1), 4).float()
    assert within_error(likeliest.mean(0))
    assert drawn[:, 3].eq(0).all(), "padding has no weight"
    assert drawn.eq(likeliest).all() == (kind == "gumbel_st")


def test_a_cold_gumbel_sample_is_nearly_one_hot():
    warm, cold = (draws_of(choice("gumbel", temperature=t)).max(1).values for t in ("1", "0.01"))
    assert float(warm.mean()) < 0.85
    assert float(cold.mean()) > 0.99


def test_the_temperature_follows_the_update_with_and_without_a_graph():
    made = choice("gumbel", temperature="geometric:2:0.02:10")
    assert draws_of(made, update=0).max(1).values.mean() < 0.7
    assert draws_of(made, update=10).max(1).values.mean() > 0.98
    for update, of_graph in ((0, draws_of(made)), (10, draws_of(made, update=10))):
        made.set_num_updates(update)
        torch.manual_seed(1)
        assert made.weights(made.selection(), LOGITS.expand(ROWS, -1)).equal(of_graph)


def test_gumbel_attention_has_a_gradient_without_a_graph():
    for kind in ("gumbel", "gumbel_st"):
        scores = torch.zeros(2, 3, requires_grad=True)
        made = choice(kind)
        (made.weights(made.selection(), scores) * torch.arange(3)).sum().backward()
        assert scores.grad.abs().sum() > 0


def test_values_of_evaluation():
    made = choice("hard").eval()
    scores = LOGITS.expand(ROWS, -1)
    assert made.weights("mode", scores)[0].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(made.weights("soft", scores)[0], PROBABILITIES)
    torch.manual_seed(2)
    assert within_error(made.weights("sample", scores).mean(0))


@pytest.mark.parametrize("arch", ["lstm", "transformer"])
@pytest.mark.parametrize("where", ["default", "by name"])
def test_enumeration_is_refused_with_the_way_out(arch, where):
    model = build_stochastic(arch, "hard")
    estimators = {"estimators": {"attention": Enumeration(), "attention.layer0": Enumeration()}}
    if where == "default":
        estimators = {"default_estimator": Enumeration()}
    with (
        StochasticGraph(**estimators),
        pytest.raises(ValueError, match=r"--layer-estimator enumeration.*--attention exact"),
    ):
        model(**sentences().net_input)


def test_an_estimator_of_the_graph_wins_over_that_of_the_layer():
    made = choice("gumbel")
    with StochasticGraph(estimators={"attention": ScoreFunction()}) as graph:
        drawn = made.weights(made.selection(), LOGITS.expand(5, -1))
    assert drawn.max(1).values.eq(1).all()
    assert graph.nodes["attention", None].log_prob is not None


@pytest.mark.parametrize("bias", [True, False])
def test_the_mixture_and_its_gradient(bias):
    """Against the sum of softmaxes; a component without weight at any place."""
    torch.manual_seed(0)
    inputs = [
        torch.randn(shape, dtype=torch.float64) for shape in [(2, 3, 4, 5), (2, 3, 4), (7, 5)]
    ]
    inputs += [torch.randn(7, dtype=torch.float64)] if bias else []
    absent = torch.tensor([[True, False, False, True], [False, True, False, False]]).unsqueeze(1)
    for tensor in inputs:
        tensor.requires_grad_()

    def mixed(features, scores, weight, bias=None):
        log_weights = scores.masked_fill(absent, -torch.inf).log_softmax(-1)
        return mixture_log_probabilities(features, log_weights, weight, bias)

    features, scores, weight, *rest = inputs
    of_components = torch.nn.functional.linear(features, weight, *rest).softmax(-1)
    weights = scores.masked_fill(absent, -torch.inf).softmax(-1).unsqueeze(-1)
    expected = (weights * of_components).sum(-2).log()
    torch.testing.assert_close(mixed(*inputs), expected)
    assert torch.autograd.gradcheck(mixed, inputs)
    assert torch.autograd.gradgradcheck(mixed, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mixtures_gradient_under_autocast_is_that_of_its_own_logits(dtype):
    """With features and parameters of 32 bits: the backward pass, outside, computes the same.

    Responsibilities of the components then add up to 1, and the gradient is as near to that of 32
    bits as autocast's is without the operation.
    """
    torch.manual_seed(0)
    features = torch.randn(16, 5, 32, requires_grad=True)
    scores = torch.randn(16, 5, requires_grad=True)
    weight = torch.randn(60, 32, requires_grad=True)
    inputs = [features, scores, weight]
    words = torch.randint(60, (16, 1))

    def plain(features, log_weights, weight, bias):
        logits = torch.nn.functional.linear(features, weight)
        return (log_weights.unsqueeze(-1) + logits.float().log_softmax(-1)).logsumexp(1)

    def gradients(mixed, enabled):
        with torch.autocast("cpu", dtype, enabled=enabled):
            found = mixed(features, scores.log_softmax(-1), weight, None)
        return torch.autograd.grad(found.float().gather(1, words).sum(), inputs)

    exact = gradients(plain, enabled=False)
    ours, theirs = (gradients(f, enabled=True) for f in (mixture_log_probabilities, plain))
    for actual, usual, expected in zip(ours, theirs, exact, strict=True):
        assert float((actual - expected).norm()) <= 1.05 * float((usual - expected).norm())

    log_weights = scores.detach().log_softmax(-1).requires_grad_()
    with torch.autocast("cpu", dtype):
        found = mixture_log_probabilities(features, log_weights, weight, None)
    (responsible,) = torch.autograd.grad(found.gather(1, words).sum(), log_weights)
    torch.testing.assert_close(responsible.sum(1), torch.ones(16), rtol=1e-5, atol=1e-5)


REFUSED = [
    ("lstm", {"attention": "hardest"}, "--attention must be one of soft, hard"),
    ("lstm", {"attention_in_evaluation": "best"}, "--attention-in-evaluation must be one of"),
    ("lstm", {"attention_temperature": "warm"}, "--attention-temperature.*'warm'"),
    ("lstm", {"attention_temperature": "linear:1:0:9"}, "--attention-temperature must be above 0"),
    ("lstm", {"decoder_attention": "0"}, "--decoder-attention"),
    (
        "lstm",
        {"attention": "exact", "criterion": "adaptive_loss", "adaptive_softmax_cutoff": "4"},
        "--attention exact.*adaptive_loss",
    ),
    ("transformer", {"attention_in_layers": "0;1"}, "--attention-in-layers.*'0;1'"),
    ("transformer", {"attention_in_layers": ""}, "--attention-in-layers.*''"),
    ("transformer", {"attention_in_layers": "2"}, "--attention-in-layers.*0 to 1.*got 2"),
    ("transformer", {"attention_in_heads": "0,0"}, "--attention-in-heads.*different.*0,0"),
    ("transformer", {"attention_in_heads": "-1"}, "--attention-in-heads.*0 to 1.*got -1"),
    ("transformer", {"no_cross_attention": True}, "--no-cross-attention"),
    (
        "transformer",
        {"attention": "exact", "attention_in_layers": "1", "adaptive_softmax_cutoff": "4"},
        "--attention exact.*--adaptive-softmax-cutoff",
    ),
    (
        "transformer",
        {"attention": "exact"},
        "exact.*--attention-in-layers 1 --attention-in-heads 0",
    ),
    (
        "transformer",
        {"attention_in_evaluation": "exact", "attention_in_layers": "0"},
        "exact.*--attention-in-layers 1 --attention-in-heads 0",
    ),
    (
        "transformer",
        {"attention": "gumbel", "checkpoint_activations": True},
        "--checkpoint-activations does not go with --attention gumbel",
    ),
    (
        "transformer",
        {"attention": "exact", "offload_activations": True},
        "--offload-activations does not go with --attention exact",
    ),
    (
        "transformer",
        {"attention": "soft", "attention_in_evaluation": "mode", "checkpoint_activations": True},
        "--checkpoint-activations.*--attention soft --attention-in-evaluation mode",
    ),
    (
        "transformer",
        {"encoder_xformers_att_config": "{'name': 'scaled_dot_product'}"},
        "--encoder-xformers-att-config does not go with --attention hard",
    ),
    (
        "transformer",
        {"attention": "exact", "quant_noise_pq": 0.1},
        "--quant-noise-pq does not go with --attention exact",
    ),
    (
        "transformer",
        {"attention": "exact", "quant_noise_scalar": 0.1},
        "--quant-noise-scalar does not go with --attention exact",
    ),
]


@pytest.mark.parametrize(
    ("arch", "options", "message"), REFUSED, ids=[f"{a} {o}" for a, o, _ in REFUSED]
)
def test_flags_that_cannot_work_are_refused(arch, options, message):
    with pytest.raises(ValueError, match=message):
        build(f"stochastic_attention_{arch}", **{"attention": "hard", **options})


@pytest.mark.parametrize("arch", ["lstm", "transformer"])
def test_every_model_has_the_state_of_fairseqs_own(arch):
    plain = build(arch).state_dict()
    for kind in IN_TRAINING:
        model = build_stochastic(arch, kind)
        model.load_state_dict(plain, strict=True)
        assert model.state_dict().keys() == plain.keys()


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        (
            "stochastic_attention_lstm_256",
            {
                "encoder.lstm.weight_hh_l0_reverse": [1024, 256],
                "decoder.layers.0.weight_hh": [1024, 256],
                "decoder.fc_out.weight": [6, 256],
            },
        ),
        (
            "stochastic_attention_transformer_iwslt_de_en",
            {"decoder.layers.5.fc1.weight": [1024, 512]},
        ),
    ],
)
def test_presets_have_their_sizes(preset, sizes):
    state = build_preset(preset).state_dict()
    assert {name: list(state[name].shape) for name in sizes} == sizes
