"""A point of the space of objectives: one value on every axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from criterions.candidate_losses import CANDIDATE_LOSSES

FEEDS = ("teacher", "greedy", "sample", "soft", "gumbel", "gumbel_st", "straight_through")
RELAXED_FEEDS = ("soft", "gumbel", "gumbel_st", "straight_through")
UNROLLS = ("step_by_step", "two_pass")
TARGETS = ("reference", "raml")
EMITS = ("sample", "greedy")
COSTS = ("cross_entropy", "expected_bleu", "reward")
TOKEN_ESTIMATORS = ("none", "score_function", "pathwise", "straight_through", "candidate_set")
LAYER_BASELINES = ("none", "moving_average", "leave_one_out", "greedy")
CREDITS = ("whole", "reward_to_go")
CANDIDATE_LOSS_NAMES = tuple(CANDIDATE_LOSSES)
SAMPLE_DROPOUTS = ("off", "scoring", "both")


@dataclass(frozen=True)
class Settings:
    """Where an objective lies; the fields are the flags of ``--criterion stochastic_graph``.

    The defaults are the point ``cross_entropy``.  Schedules are kept as they were written.
    """

    feed: str = "teacher"
    teacher_forcing: str = "0"
    teacher_prefix: str = "0"
    unroll: str = "step_by_step"
    relaxation_temperature: str = "1"
    target: str = "reference"
    raml_distance: str = "edit"
    raml_temperature: float = 0.85
    emit: str = "sample"
    samples: int = 1
    sample_temperature: float = 1.0
    sample_topk: int = 0
    sample_topp: float = 1.0
    sample_dropout: str = "off"
    cost: str = "cross_entropy"
    reward: str = "sentence_bleu"
    reward_level: str = "tokens"
    reward_normalization: str = "none"
    credit: str = "whole"
    estimator: str = "none"
    baseline: str = "none"
    candidate_loss: str = "risk"
    candidate_sharpness: float = 0.005
    candidate_reference: bool = False
    cross_entropy_weight: float = 0.0
    label_smoothing: float = 0.0

    @property
    def relaxed(self) -> bool:
        """Whether vectors are fed in place of tokens."""
        return self.feed in RELAXED_FEEDS

    @property
    def emits_greedily(self) -> bool:
        """Whether outputs are rewarded whose tokens are no random choice, but the layers' are."""
        return self.cost == "reward" and self.emit == "greedy"

    @property
    def scores_tokens(self) -> bool:
        """Whether the pass with gradient has to give the distributions of what was decoded."""
        return self.estimator in ("score_function", "candidate_set") or self.emits_greedily

    @property
    def samples_layers_only(self) -> bool:
        """Whether nothing is drawn but by layers of the model."""
        teacher = self.feed == "teacher" and self.target == "reference"
        return teacher and self.cost != "reward"

    @property
    def needs_cross_entropy(self) -> bool:
        """Whether a cross-entropy is part of what is minimised."""
        return self.cost == "cross_entropy" or self.cross_entropy_weight > 0


def flag(name: str) -> str:
    """``reward_level`` as it is written on the command line."""
    return "--" + name.replace("_", "-")


def resolve(preset: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """A preset with the flags that were given besides.

    Args:
        preset: fields of :class:`Settings`.
        given: the same, of the flags that the user wrote; they win.
    """
    unknown = (preset.keys() | given.keys()) - {field.name for field in fields(Settings)}
    assert not unknown, f"Settings has no field {sorted(unknown)}"
    settings = replace(Settings(), **{**preset, **given})
    if "estimator" not in {**preset, **given} or (
        "estimator" not in given and given.keys() & {"feed", "emit", "cost"}
    ):
        settings = replace(settings, estimator=_usual_estimator(settings, preset))
    return settings


def _usual_estimator(settings: Settings, preset: Mapping[str, Any]) -> str:
    """What the cost and the feed leave no choice about, or what is done commonly."""
    if settings.emits_greedily:
        return "none"
    if settings.cost == "reward":
        return "candidate_set" if preset.get("estimator") == "candidate_set" else "score_function"
    if settings.relaxed:
        return "pathwise" if settings.feed in ("soft", "gumbel") else "straight_through"
    return "none"
