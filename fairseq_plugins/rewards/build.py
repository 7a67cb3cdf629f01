"""A reward from the names on the command line."""

from __future__ import annotations

from typing import Any

from criterions.bleu.statistics import SMOOTHINGS
from criterions.checks import check_choice, check_order

# Importing a module of rewards registers them.
from fairseq_plugins.rewards import constant, text_rewards, token_rewards  # noqa: F401
from fairseq_plugins.rewards.base import LEVELS, REWARDS, Reward, RewardOptions
from fairseq_plugins.rewards.user_function import UserFunction


def reward_names() -> tuple[str, ...]:
    """All built-in names, in alphabetical order."""
    return tuple(sorted({name for registry in REWARDS.values() for name in registry.names}))


def build_reward(
    name: str,
    *,
    level: str,
    task: Any,
    workers: int = 0,
    bpe: str | None = None,
    detokenizer: str = "space",
    detokenizer_args: str = "{}",
    sacrebleu_tokenizer: str = "13a",
    max_order: int = 4,
    smoothing: str = "add-k",
) -> Reward:
    """The reward that the flags ask for.

    Args:
        name: ``--reward``; a built-in one, or ``module:function``.
        level: ``--reward-level``; ``tokens`` or ``text``.
        task: fairseq's task; its dictionaries say what the ids mean.
        workers: ``--reward-workers``; processes for sacrebleu, 0 for this one.
        bpe: ``--reward-remove-bpe``; segmentation to undo (``sentencepiece``, ``"@@ "``, ...).
        detokenizer: ``--reward-detok``; one of fairseq's tokenizers, ``space`` for none.
        detokenizer_args: ``--reward-detok-args``; its options, a JSON object.
        sacrebleu_tokenizer: ``--reward-sacrebleu-tokenizer``; what splits text into BLEU's and
            GLEU's tokens.
        max_order: ``--max-order``; highest n-gram order of BLEU and GLEU.
        smoothing: ``--smoothing`` of BLEU.

    Raises:
        ValueError: a value does not fit; the message names the flag.
    """
    check_choice("--reward-level", level, LEVELS)
    check_order("--max-order", max_order)
    check_choice("--smoothing", smoothing, SMOOTHINGS)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ValueError(f"--reward-workers must be an integer of at least 0; got {workers!r}")
    options = RewardOptions(
        name=name,
        level=level,
        task=task,
        workers=workers,
        bpe=bpe,
        detokenizer=detokenizer,
        detokenizer_args=detokenizer_args,
        sacrebleu_tokenizer=sacrebleu_tokenizer,
        max_order=max_order,
        smoothing=smoothing,
    )
    if ":" in name:
        if level != "text":
            raise ValueError(
                f"--reward {name} takes text: set --reward-level text in place of {level}"
            )
        return UserFunction(options)
    if name not in reward_names():
        raise ValueError(
            f"--reward must be one of {', '.join(reward_names())}, or module:function; got {name!r}"
        )
    if name not in REWARDS[level].names:
        raise ValueError(
            f"--reward {name} is not defined on {level}: set --reward-level text, or choose one of "
            f"{', '.join(REWARDS[level].names)}"
        )
    return REWARDS[level].create(name, options)
