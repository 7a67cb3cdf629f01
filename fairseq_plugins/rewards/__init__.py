"""Rewards of whole outputs: of token ids, of detokenised text, or by a function of the user's.

docs/rewards.md has a table of the names.
"""

import inspect

# Importing a module of rewards registers them.
from fairseq_plugins.rewards import ngram_rewards, text_rewards  # noqa: F401
from fairseq_plugins.rewards.reward import LEVELS, REWARDS, Outputs, Reward, RewardOptions
from fairseq_plugins.rewards.user_function import UserFunction

__all__ = [
    "LEVELS",
    "Outputs",
    "Reward",
    "RewardOptions",
    "build_reward",
    "flags_of",
    "reward_help",
    "reward_names",
]


def reward_names() -> tuple[str, ...]:
    """All built-in names, in alphabetical order."""
    return tuple(sorted({name for registry in REWARDS.values() for name in registry.names}))


def reward_help() -> str:
    """Help text of ``--reward``: every registered name with the first line of its docstring."""
    lines = {
        name: inspect.getdoc(registry.get(name)).splitlines()[0].rstrip(".")
        for registry in REWARDS.values()
        for name in registry.names
    }
    listed = ", ".join(f"{name} ({lines[name]})" for name in sorted(lines))
    text = f"{listed}, or your own function as module:function; see docs/rewards.md"
    return text.replace("%", "%%")  # for argparse


def flags_of(name: str, level: str) -> frozenset[str]:
    """Which of the flags that some rewards read ``--reward NAME`` does; none of one's own does."""
    registry = REWARDS[level]
    return registry.get(name).flags if name in registry.names else frozenset()


def build_reward(options: RewardOptions) -> Reward:
    """The reward that the flags ask for.

    Raises:
        ValueError: a value does not fit; the message names the flag.
    """
    name, level = options.reward, options.reward_level
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
        other = LEVELS[1 - LEVELS.index(level)]
        raise ValueError(
            f"--reward {name} is not defined on {level}: set --reward-level {other}, or choose one "
            f"of {', '.join(REWARDS[level].names)}"
        )
    return REWARDS[level].create(name, options)
