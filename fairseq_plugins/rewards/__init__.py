"""Rewards of whole outputs: on token ids, on detokenised text, or a user's function.

See docs/rewards.md for the table of names.
"""

from fairseq_plugins.rewards.base import LEVELS, Reward, RewardOptions
from fairseq_plugins.rewards.build import build_reward, reward_names
from fairseq_plugins.rewards.outputs import Outputs

__all__ = ["LEVELS", "Outputs", "Reward", "RewardOptions", "build_reward", "reward_names"]
