"""Every flag of ``stochastic_graph`` against every objective: it matters, or is refused."""

from dataclasses import fields

import pytest
import torch
from fairseq_setup import graph_criterion, layer_for, setup
from torch.distributions import OneHotCategorical

from criterions.stochastic_graph import sample
from fairseq_plugins.stochastic_graph.config import RELAXED_FEEDS, StochasticGraphCriterionConfig
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES

DEFAULTS = {field.name: field.default for field in fields(StochasticGraphCriterionConfig)}

# Values other than the default's that every flag is tried with.
TRIED = {
    "feed": ["teacher", "greedy", "sample", *RELAXED_FEEDS],
    "teacher_forcing": ["0.1"],
    "teacher_prefix": ["2"],
    "unroll": ["two_pass"],
    "relaxation_temperature": ["0.7"],
    "target": ["raml"],
    "raml_distance": ["hamming"],
    "raml_temperature": [0.4],
    "emit": ["greedy"],
    "samples": [3],
    "sample_temperature": [1.5],
    "sample_topk": [4],
    "sample_topp": [0.6],
    "sample_dropout": ["scoring", "both"],
    "cost": ["cross_entropy", "expected_bleu", "reward"],
    "reward": ["gleu"],
    "reward_level": ["text"],
    "reward_normalization": ["batch", "group"],
    "credit": ["reward_to_go"],
    "estimator": ["none", "score_function", "pathwise", "straight_through", "candidate_set"],
    "baseline": ["none", "moving_average", "greedy", "leave_one_out", "learned", "expected"],
    "candidate_loss": ["risk", "sequence_nll", "multi_margin"],
    "candidate_sharpness": [0.5],
    "candidate_reference": [True],
    "cross_entropy_weight": [0.5],
    "label_smoothing": [0.1],
    "baseline_state_dim": [8],
    "reward_clip": [":0.05"],
    "reward_workers": [1],
    "reward_remove_bpe": ["sentencepiece"],
    "reward_detok": ["nltk"],
    "reward_detok_args": ['{"source_lang": "de"}'],
    "reward_sacrebleu_tokenizer": ["char"],
    "max_order": [2],
    "smoothing": ["none"],
    "sentence_end": ["ngram", "ignore"],
    "max_decode_ratio": [0.1],
    "max_decode_length": [3],
    "ignore_prefix_size": [1],
}
ELSEWHERE = {
    "objective": "every test",
    "sentence_avg": "test_graph_objectives",
    **dict.fromkeys(("ddp_backend", "use_bmuf"), "test_parallel_training"),
    "baseline_decay": "test_a_flag_of_stochastic_layers_has_an_effect_on_a_model_with_one",
    "layer_estimator": "test_a_flag_of_stochastic_layers_has_an_effect_on_a_model_with_one",
    "layer_baseline": "test_a_flag_of_stochastic_layers_has_an_effect_on_a_model_with_one",
}


@pytest.fixture(scope="module")
def built(corpus):
    """With dropout: some flags are about nothing else."""
    return setup(corpus, name="stochastic_graph", flags=("--dropout", "0.2"))


@pytest.fixture(scope="module")
def batch(built):
    return built.batch(0, 1, 2)


def test_every_flag_is_tried():
    assert TRIED.keys() | ELSEWHERE.keys() == DEFAULTS.keys() - {"_name"}


def behaviour(built, batch, options, steps=2):
    """What a run with these options shows, one thing after the other.

    Losses, gradients and the log of a few steps (the second knows the baselines of the first), then
    the loss of a validation.
    """
    torch.manual_seed(5)
    criterion = graph_criterion(built, **options)
    # Late enough for the teacher's share and prefix to be neither everything nor nothing.
    criterion.train_step.update = 9400
    for _ in range(steps):
        built.model.train()
        criterion.train()
        built.model.zero_grad()
        loss, _, logged = criterion(built.model, batch)
        yield [loss.detach(), *logged.values()]
        loss.backward()
        parameters = [*built.model.parameters(), *criterion.parameters()]
        yield [p.grad.clone() for p in parameters if p.grad is not None]
    built.model.eval()
    criterion.eval()
    with torch.no_grad():
        yield [criterion(built.model, batch)[0]]


def differ(one, other):
    """Whether the behaviours do; only as much of them happens as it takes to tell."""
    for ours, theirs in zip(one, other, strict=True):
        if len(ours) != len(theirs):
            return True
        if not all(map(torch.equal, map(torch.as_tensor, ours), map(torch.as_tensor, theirs))):
            return True
    return False


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_flag_has_an_effect_or_is_refused(built, batch, objective):
    with layer_for(built, objective):
        wrong = without_effect(built, batch, objective)
    assert not wrong


def without_effect(built, batch, objective):
    """Flags that change nothing and are not refused under their name, each with what happens."""
    options = {"objective": objective}
    before = list(behaviour(built, batch, options))
    assert not differ(before, behaviour(built, batch, options)), "else every flag seems to matter"
    settings = graph_criterion(built, **options).settings
    wrong = []
    for name, value in ((name, value) for name, values in TRIED.items() for value in values):
        if value == getattr(settings, name, DEFAULTS[name]):
            continue
        given = {**options, name: value}
        try:
            if not differ(before, behaviour(built, batch, given)):
                wrong.append(f"{name}={value} has no effect")
        except ValueError as error:
            if f"--{name.replace('_', '-')} " not in str(error):
                wrong.append(f"{name}={value} is not named in: {error}")
    return wrong


class Layer(torch.nn.Module):
    """A stochastic layer: noise on what it is given."""

    def forward(self, states):
        distribution = OneHotCategorical(
            logits=states.mean((0, 2)).unsqueeze(1) * states.new_tensor([1, 2])
        )
        return states * (1 + sample("layer", distribution)[:, 1].view(1, -1, 1))


@pytest.mark.parametrize(
    "flags",
    [
        {"layer_baseline": "none"},
        {"layer_baseline": "greedy"},
        {"layer_baseline": "leave_one_out", "samples": 2},
        {"baseline_decay": 0.1},
    ],
)
def test_a_flag_of_stochastic_layers_has_an_effect_on_greedy_outputs(built, batch, flags):
    before = {"objective": "trainable_greedy", "samples": flags.get("samples", 1)}
    with layer_for(built, "trainable_greedy"):
        without = list(behaviour(built, batch, before, steps=3))
        assert differ(without, behaviour(built, batch, {**before, **flags}, steps=3))


@pytest.mark.parametrize(
    "flags",
    [
        {"layer_estimator": "straight_through"},
        {"layer_estimator": "none"},
        {"layer_baseline": "none"},
        {"baseline_decay": 0.1},
    ],
)
def test_a_flag_of_stochastic_layers_has_an_effect_on_a_model_with_one(corpus, flags):
    built = setup(corpus, name="stochastic_graph")
    built.model.encoder.layers[0].register_forward_hook(lambda *given: Layer()(given[2]))
    batch = built.batch(0, 1, 2)
    # The decay weighs past updates, so that there have to be two of them.
    before = list(behaviour(built, batch, {}, steps=3))
    assert not differ(before, behaviour(built, batch, {}, steps=3))
    assert differ(before, behaviour(built, batch, flags, steps=3))
