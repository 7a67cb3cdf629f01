"""Flags of ``--criterion stochastic_graph``: presets, what overrides them, what is refused."""

from dataclasses import MISSING, fields, replace

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from fairseq_setup import ARCHITECTURES, graph_criterion, layer_for, setup

from fairseq_plugins.stochastic_graph.config import StochasticGraphCriterionConfig
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES

every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
NAMES = {field.name for field in fields(StochasticGraphCriterionConfig)} - {"_name"}


@pytest.fixture(scope="module")
def built(corpus):
    return setup(corpus, name="stochastic_graph")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@every_objective
def test_every_objective_trains_every_architecture(corpus, arch, objective):
    built = setup(corpus, arch, name="stochastic_graph", objective=objective)
    with layer_for(built, objective):
        loss, gradients, _ = built.gradient(built.batch(0, 1, 2))
    assert torch.tensor(loss).isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert any(gradient.ne(0).any() for gradient in gradients.values())


@every_objective
def test_an_objective_is_its_flags(built, objective):
    named = graph_criterion(built, objective=objective).settings
    spelt = graph_criterion(built, **OBJECTIVES[objective].flags).settings
    assert replace(named, objective=spelt.objective) == spelt
    for name, value in OBJECTIVES[objective].flags.items():
        assert getattr(named, name) == value


@pytest.mark.parametrize(
    ("objective", "given", "expected"),
    [
        ("reinforce", {"baseline": "none"}, {"baseline": "none", "cost": "reward"}),
        ("leave_one_out", {"samples": 2}, {"samples": 2, "baseline": "leave_one_out"}),
        ("minimum_risk", {"candidate_sharpness": 1.0}, {"candidate_sharpness": 1.0}),
        ("scheduled_sampling", {"teacher_forcing": "0.25"}, {"teacher_forcing": "0.25"}),
        ("expected_bleu", {"cross_entropy_weight": 0.0}, {"cross_entropy_weight": 0.0}),
        ("cross_entropy", {"cost": "reward"}, {"estimator": "score_function"}),
        ("cross_entropy", {"feed": "soft"}, {"estimator": "pathwise"}),
        ("cross_entropy", {"feed": "gumbel"}, {"estimator": "pathwise"}),
        ("cross_entropy", {"feed": "gumbel_st"}, {"estimator": "straight_through"}),
        ("soft_feeding", {"feed": "straight_through"}, {"estimator": "straight_through"}),
        ("soft_feeding", {"feed": "sample"}, {"estimator": "none"}),
        ("soft_feeding", {"cost": "reward"}, {"estimator": "score_function", "feed": "soft"}),
        ("minimum_risk", {"samples": 3}, {"estimator": "candidate_set"}),
        ("minimum_risk", {"emit": "greedy", "feed": "greedy"}, {"estimator": "none"}),
        ("trainable_greedy", {"cost": "cross_entropy"}, {"estimator": "none", "feed": "greedy"}),
        (
            "free_running",
            {"estimator": "score_function"},
            {"estimator": "score_function", "cost": "cross_entropy"},
        ),
    ],
)
def test_a_flag_wins_over_the_objective_and_the_estimator_follows(
    built, objective, given, expected
):
    settings = graph_criterion(built, objective=objective, **given).settings
    assert {name: getattr(settings, name) for name in expected} == expected


def test_the_command_line_reaches_the_settings(corpus):
    flags = ("--objective", "leave_one_out", "--samples", 3, "--candidate-reference")
    with pytest.raises(ValueError, match="--candidate-reference True does not go with"):
        setup(corpus, name="stochastic_graph", flags=flags)
    flags = ("--objective", "minimum_risk", "--samples", 3, "--candidate-reference")
    settings = setup(corpus, name="stochastic_graph", flags=flags).criterion.settings
    assert (settings.samples, settings.candidate_reference) == (3, True)
    for name, value in OBJECTIVES["minimum_risk"].flags.items():
        assert getattr(settings, name) == (3 if name == "samples" else value)
    assert settings.raml_distance == "edit"  # no objective sets it


def groups():
    """fairseq's configuration groups and the options of its registries, by name."""
    for field in fields(FairseqConfig):
        if field.default_factory is not MISSING:
            yield field.name, field.default_factory()
        elif hasattr(field.default, "__dataclass_fields__"):
            yield field.name, field.default
    yield "translation", TASK_DATACLASS_REGISTRY["translation"]
    yield from MODEL_DATACLASS_REGISTRY.items()
    for registry_name, registry in REGISTRIES.items():
        if registry_name != "criterion":
            yield from registry["dataclass_registry"].items()


def test_no_option_of_another_part_of_fairseq_has_the_name_of_one_of_ours():
    """One command line has all options: of two of a name, one would set the other."""
    known = {"sentence_avg", "ddp_backend", "use_bmuf"}  # of the whole training, deliberately
    names = []
    for group, options in groups():
        if options is None:
            continue
        names.append(group)
        shared = NAMES & options.__dataclass_fields__.keys() - known
        assert not shared, f"{group} has {sorted(shared)} as well"
    assert {"common", "optimization", "generation", "translation", "transformer_lm", "adam"} <= {
        *names
    }
