"""``--arch actor_transformer`` and ``actor_lstm``: trained models, and what an actor adds."""

import copy
import re
import shlex
from argparse import SUPPRESS, ArgumentParser, Namespace

import pytest
import torch
from console_scripts import REPOSITORY
from decoded_outputs import decoded, outputs_of
from fairseq import options
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from fairseq_setup import evaluating, setup

from criterions.stochastic_graph import StepwiseDraws, StochasticGraph, deterministic_value
from fairseq_plugins.models.actor.actor import NODE, Actor, ActorFlags

BASES = ("transformer", "lstm")
GAUSSIAN, DETERMINISTIC = ("--actor", "gaussian"), ("--actor", "deterministic")

every_base = pytest.mark.parametrize("base", BASES)


def with_actor(corpus, base, *flags, name="stochastic_graph", **options):
    flags = ("--arch", f"actor_{base}", "--actor-hidden-size", 5, *flags)
    return setup(corpus, base, flags=flags, name=name, **options)


def steered(built, scale=2.0):
    """Give the actor an opinion: it has none at first."""
    torch.manual_seed(11)
    write = built.model.decoder.actor.write
    torch.nn.init.normal_(write.weight, std=scale)
    torch.nn.init.normal_(write.bias, std=scale)
    return built


def is_actors(name):
    return name.startswith("decoder.actor.")


def logits_of(built, batch):
    with evaluating(built), torch.no_grad():
        return built.model(**batch["net_input"])[0]


def generated(built, batch, beam):
    generator = SequenceGenerator(
        [built.model], built.task.target_dictionary, beam_size=beam, max_len_b=12
    )
    with evaluating(built):
        return [
            [hypothesis["tokens"].tolist() for hypothesis in sentence]
            for sentence in generator.generate([built.model], batch)
        ]


@pytest.mark.parametrize("actor", [GAUSSIAN, DETERMINISTIC], ids=["gaussian", "deterministic"])
@every_base
def test_before_training_the_model_says_what_it_said(corpus, learnt, base, actor):
    """Bit for bit: in a pass, greedily step by step, and in beam search."""
    plain = setup(corpus, base, weights=learnt(base))
    ours = with_actor(corpus, base, *actor, weights=learnt(base))
    batch = plain.batch(*range(20, 26))
    assert torch.equal(logits_of(plain, batch), logits_of(ours, batch))
    assert outputs_of(decoded(plain, batch, 12)) == outputs_of(decoded(ours, batch, 12))
    for beam in (1, 3):
        assert generated(plain, batch, beam) == generated(ours, batch, beam)


@every_base
def test_an_actor_changes_what_is_said(corpus, learnt, base):
    ours = steered(with_actor(corpus, base, weights=learnt(base)))
    plain = setup(corpus, base, weights=learnt(base))
    batch = plain.batch(*range(20, 26))
    assert generated(plain, batch, 3) != generated(ours, batch, 3)


@every_base
def test_the_source_has_a_say_and_its_padding_has_none(corpus, learnt, base):
    ours = steered(with_actor(corpus, base, weights=learnt(base)))
    actor = ours.model.decoder.actor
    memory = torch.randn(2, 4, actor.read_source.in_features)
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    source = actor.source(memory, padding)
    torch.testing.assert_close(source[1:], actor.source(memory[1:, :2], None))
    assert not torch.allclose(source[1:], actor.source(memory[1:], None))


@every_base
def test_steps_one_by_one_are_the_pass(corpus, learnt, base):
    """What is decoded incrementally is what the parallel pass finds most probable."""
    ours = steered(with_actor(corpus, base, weights=learnt(base)), scale=0.3)
    batch = ours.batch(*range(20, 26))
    result = decoded(ours, batch, 12)
    fed = torch.cat([batch["net_input"]["prev_output_tokens"][:, :1], result.tokens[:, :-1]], 1)
    logits = logits_of(ours, {"net_input": {**batch["net_input"], "prev_output_tokens": fed}})
    dictionary = ours.task.target_dictionary
    logits[:, :, dictionary.pad()] = -torch.inf
    logits[:, 0, dictionary.eos()] = -torch.inf
    exists = torch.arange(result.tokens.size(1)) < result.emitted.unsqueeze(1)
    assert torch.equal(logits.argmax(2)[exists], result.tokens[exists])


@every_base
def test_in_training_a_gaussian_is_drawn_and_elsewhere_its_mean_is_taken(corpus, learnt, base):
    flags = (*GAUSSIAN, "--actor-std", 0.25)
    ours = steered(with_actor(corpus, base, *flags, weights=learnt(base)))
    batch = ours.batch(20, 24, 28)
    with StochasticGraph() as graph:
        ours.model(**batch["net_input"])
    fed = batch["net_input"]["prev_output_tokens"]
    nodes = [node for (name, _), node in graph.nodes.items() if name == NODE]
    assert len(nodes) == (fed.size(1) if base == "lstm" else 1)
    for node in nodes:
        assert node.distribution.event_shape == (16,)
        assert node.distribution.base_dist.stddev.eq(0.25).all()
        assert not torch.equal(node.value, node.distribution.mean)
        mask = fed[:, node.step].ne(1) if base == "lstm" else fed.ne(1)
        assert torch.equal(node.mask, mask)
        assert torch.equal(deterministic_value(node.distribution), node.distribution.mean)
    with evaluating(ours):
        one, two = (ours.model(**batch["net_input"])[0] for _ in range(2))
    assert torch.equal(one, two)


@every_base
def test_a_gaussian_without_a_graph_is_refused_in_training_alone(corpus, learnt, base):
    """Its mean alone would be trained, and a learned standard deviation not at all."""
    ours = steered(with_actor(corpus, base, *GAUSSIAN, weights=learnt(base)))
    net_input = ours.batch(20, 24)["net_input"]
    with pytest.raises(ValueError, match=r"--actor gaussian.*--criterion stochastic_graph"):
        ours.model(**net_input)
    with torch.no_grad():
        assert ours.model(**net_input)[0].isfinite().all()
    with evaluating(ours):
        assert ours.model(**net_input)[0].isfinite().all()


@every_base
def test_every_sample_draws_its_own_noise_at_every_step(corpus, learnt, base):
    ours = with_actor(corpus, base, *GAUSSIAN, weights=learnt(base))
    draws = StepwiseDraws(samples=3)
    decoded(ours, ours.batch(20, 24), 4, samples=3, layers=draws)
    values = draws.values
    if base == "lstm":
        drawn = torch.stack([value for _, value in sorted(values.items(), key=lambda v: v[0][1])])
    else:
        drawn = values[NODE, None].transpose(0, 1)
    assert drawn.shape[1:] == (6, 16)
    assert drawn.flatten(0, 1).unique(dim=0).size(0) == drawn.size(0) * 6


@every_base
def test_a_deterministic_actor_is_no_node(corpus, learnt, base):
    ours = with_actor(corpus, base, *DETERMINISTIC, weights=learnt(base))
    with StochasticGraph() as graph:
        ours.model(**ours.batch(20, 24)["net_input"])
    assert not graph.nodes


@pytest.mark.parametrize(
    ("name", "flags", "options"),
    [
        ("stochastic_graph", DETERMINISTIC, {}),
        ("stochastic_graph", DETERMINISTIC, {"objective": "expected_bleu"}),
        ("stochastic_graph", DETERMINISTIC, {"objective": "reinforce"}),
        ("stochastic_graph", GAUSSIAN, {}),
        ("stochastic_graph", GAUSSIAN, {"layer_estimator": "reparameterized"}),
        ("stochastic_graph", (*GAUSSIAN, "--actor-learn-std"), {"objective": "reinforce"}),
        ("expected_bleu", DETERMINISTIC, {}),
        ("label_smoothed_cross_entropy", DETERMINISTIC, {}),
    ],
    ids=str,
)
@every_base
def test_the_actor_learns_and_nothing_else(corpus, learnt, base, name, flags, options):
    built = with_actor(corpus, base, *flags, name=name, weights=learnt(base), **options)
    _, gradients, _ = built.gradient(built.batch(*range(20, 26)))
    moved = {each for each, gradient in gradients.items() if gradient.ne(0).any()}
    # The layer before the last gets a gradient once the last is no longer 0.
    assert {"decoder.actor.write.weight", "decoder.actor.write.bias"} <= moved
    assert all(map(is_actors, moved))
    trained = {each for each, value in built.model.named_parameters() if value.requires_grad}
    assert trained == {each for each in gradients if is_actors(each)}
    if "--actor-learn-std" in flags:
        assert "decoder.actor.log_std" in moved
    _, gradients, _ = steered(built).gradient(built.batch(*range(20, 26)))
    assert all(gradients[each].ne(0).any() for each in trained if "log_std" not in each)


@every_base
def test_all_is_trained_where_that_is_asked_for(corpus, base):
    """Also without a checkpoint."""
    built = with_actor(corpus, base, "--actor-train-all")
    _, gradients, _ = built.gradient(built.batch(*range(20, 26)))
    assert any(gradient.ne(0).any() for name, gradient in gradients.items() if not is_actors(name))


@every_base
def test_an_actor_of_random_weights_is_refused(corpus, base):
    built = with_actor(corpus, base)
    batch = built.batch(20)
    with pytest.raises(ValueError, match=r"--finetune-from-model.*--actor-train-all"):
        built.criterion(built.model, batch)
    with evaluating(built):
        built.criterion(built.model, batch)


@every_base
def test_what_is_frozen_has_no_dropout_unless_it_is_kept(corpus, learnt, base):
    def losses(*flags):
        flags = ("--dropout", 0.5, *DETERMINISTIC, *flags)
        built = with_actor(corpus, base, *flags, weights=learnt(base))
        built.model.train()
        batch = built.batch(20, 24, 28)
        return [float(built.criterion(built.model, batch)[0]) for _ in range(2)]

    assert len(set(losses())) == 1
    assert len(set(losses("--actor-keep-dropout"))) == 2
    assert len(set(losses("--actor-train-all"))) == 2


@every_base
def test_checkpoints_of_any_kind_of_actor_load_into_any_other(corpus, learnt, base):
    kinds = [DETERMINISTIC, GAUSSIAN, (*GAUSSIAN, "--actor-learn-std")]
    states = []
    for kind in kinds:
        built = steered(with_actor(corpus, base, *kind, weights=learnt(base)))
        states.append(copy.deepcopy(built.model.state_dict()))
    for kind in kinds:
        for state in states:
            built = with_actor(corpus, base, *kind, weights=dict(state))
            for name, value in built.model.state_dict().items():
                if name in state:
                    assert torch.equal(value, state[name])


def test_an_actor_of_another_size_does_not_load(corpus, learnt):
    state = with_actor(corpus, "transformer", weights=learnt("transformer")).model.state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for decoder\.actor"):
        with_actor(corpus, "transformer", "--actor-hidden-size", 6, weights=state)


def test_the_standard_deviation_follows_its_schedule(corpus, learnt):
    flags = ("--actor-std", "linear:0.5:0.1:4")
    built = with_actor(corpus, "transformer", *flags, weights=learnt("transformer"))

    def std():
        with StochasticGraph() as graph:
            built.model(**built.batch(20)["net_input"])
        return float(graph.nodes[NODE, None].distribution.base_dist.stddev.max())

    found = []
    for update in (0, 2, 4, 9):
        built.model.set_num_updates(update)
        found.append(std())
    assert found == pytest.approx([0.5, 0.3, 0.1, 0.1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_base
def test_the_distribution_is_not_in_half_precision(corpus, learnt, base, dtype):
    built = steered(with_actor(corpus, base, "--actor-learn-std", weights=learnt(base)), 0.1)
    built.model.to(dtype)
    with StochasticGraph() as graph:
        logits = built.model(**built.batch(20, 24)["net_input"])[0]
    assert logits.dtype == dtype
    assert all(node.log_prob.dtype == torch.float32 for node in graph.nodes.values())
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--actor-hidden-size", "0"), "--actor-hidden-size must be at least 1; got 0"),
        (("--actor-std", "0"), "--actor-std must be above 0; got 0"),
        (("--actor-std", "linear:1:-1:5"), "--actor-std must be above 0; got -1"),
        (("--actor-std", "wide"), "--actor-std: .*'wide'"),
        (
            ("--actor-learn-std", "--actor-std", "linear:1:0.5:10"),
            "--actor-learn-std does not go with --actor-std linear:1:0.5:10",
        ),
    ],
)
def test_flags_that_cannot_work_are_refused(flags, message):
    parser = ArgumentParser(argument_default=SUPPRESS)
    ActorFlags.add_to(parser)
    given = ActorFlags.of(parser.parse_args(flags))
    with pytest.raises(ValueError, match=message):
        Actor(2, 2, 2, given)


def test_a_kind_that_model_overrides_name_is_checked():
    with pytest.raises(ValueError, match="--actor must be one of deterministic, gaussian; got 'x'"):
        ActorFlags.of(Namespace(actor="x"))


@pytest.mark.parametrize("base", ["transformer", "transformer_iwslt_de_en", "lstm"])
def test_the_architectures_have_the_sizes_of_their_bases(base):
    plain, ours = Namespace(encoder_layers=3), Namespace(encoder_layers=3)
    ARCH_CONFIG_REGISTRY[base](plain)
    ARCH_CONFIG_REGISTRY[f"actor_{base}"](ours)
    actors = {name for name in vars(ours) if name.startswith("actor")}
    assert {"actor", "actor_std", "actor_hidden_size"} <= actors
    assert vars(plain) == {name: v for name, v in vars(ours).items() if name not in actors}


PAGE = (REPOSITORY / "docs" / "actor.md").read_text(encoding="utf-8")


def test_the_page_lists_the_flags_with_their_defaults():
    defaults = Namespace()
    ActorFlags.set_defaults(defaults)
    expected = {
        "--" + name.replace("_", "-"): "off" if value is False else str(value)
        for name, value in vars(defaults).items()
    }
    rows = re.findall(r"^\| `(--actor[\w-]*)` \| (\S+) \|", PAGE, re.MULTILINE)
    assert {name: value.strip("`") for name, value in rows} == expected


def test_the_commands_of_the_page_are_understood(corpus):
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").strip().splitlines()]
    assert [line[:4] for line in lines] == [
        [command, "data-bin", "--user-dir", "fairseq_plugins"]
        for command in ("fairseq-train", "fairseq-train", "fairseq-generate")
    ]
    plain, ours = (
        setup(corpus, flags=line[4:], name=line[line.index("--criterion") + 1])
        for line in lines[:2]
    )
    assert ours.criterion.settings.emits_greedily
    ours.model.load_state_dict(plain.model.state_dict())
    assert ours.model.decoder.actor.std(0) == 0.3
    options.parse_args_and_arch(options.get_generation_parser(), [str(corpus), *lines[2][4:]])
