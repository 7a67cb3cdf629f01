"""From the flags of the command line to settings, with every check of them."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any

from fairseq_plugins.rewards import Reward, build_reward
from fairseq_plugins.stochastic_graph.config import StochasticGraphCriterionConfig
from fairseq_plugins.stochastic_graph.consistency import check_consistent
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES
from fairseq_plugins.stochastic_graph.ranges import check_ranges
from fairseq_plugins.stochastic_graph.settings import Settings, resolve


def settings_of(cfg: StochasticGraphCriterionConfig) -> Settings:
    """The objective's point, with the flags that were given besides."""
    axes = {field.name for field in fields(Settings)}
    values = {
        # fairseq hands choices over as enumeration members.
        field.name: str(value) if isinstance(value, Enum) else value
        for field in fields(StochasticGraphCriterionConfig)
        for value in [getattr(cfg, field.name)]
    }
    options = {name: value for name, value in values.items() if name not in axes}
    given = {name: values[name] for name in axes if values[name] is not None}
    # What has a default of its own cannot be told from a flag that was given with that value.
    changed = {
        field.name
        for field in fields(StochasticGraphCriterionConfig)
        if field.name in options and options[field.name] != field.default
    }
    settings = resolve(OBJECTIVES[values["objective"]].flags, given)
    check_consistent(settings, given.keys() | changed, options)
    check_ranges(settings)
    return settings


def reward_of(cfg: StochasticGraphCriterionConfig, settings: Settings, task: Any) -> Reward | None:
    """The reward of whole outputs; None where the cost is another."""
    if settings.cost != "reward":
        return None
    reward = build_reward(
        settings.reward,
        level=settings.reward_level,
        task=task,
        workers=cfg.reward_workers,
        bpe=cfg.reward_remove_bpe,
        detokenizer=cfg.reward_detok,
        detokenizer_args=cfg.reward_detok_args,
        sacrebleu_tokenizer=cfg.reward_sacrebleu_tokenizer,
        max_order=cfg.max_order,
        smoothing=str(cfg.smoothing),
    )
    if settings.credit == "reward_to_go" and not reward.per_token:
        raise ValueError(
            f"--credit reward_to_go does not go with --reward {settings.reward}: it does "
            "not tell what each token adds; use sentence_bleu or gleu"
        )
    return reward


def bounds_of(flag: str, text: str | None) -> tuple[float | None, float | None]:
    """``LOW:HIGH``, either of which may be left out."""
    if text is None:
        return None, None
    try:
        low, high = (float(part) if part else None for part in text.split(":"))
    except ValueError:
        raise ValueError(f"{flag} must be LOW:HIGH, such as 0:1 or -2:; got {text!r}") from None
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{flag}: the lower bound must be below the upper one; got {text!r}")
    return low, high
