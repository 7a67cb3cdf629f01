"""What every reward is, and the names under which rewards are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from criterions.stochastic_graph.registry import Registry
from fairseq_plugins.rewards.outputs import Outputs

LEVELS = ("tokens", "text")
"""What a reward compares: token ids, on their device; or detokenised text."""


@dataclass(frozen=True)
class RewardOptions:
    """What a reward is built from; see :func:`fairseq_plugins.rewards.build_reward`."""

    name: str
    level: str
    task: Any
    workers: int = 0
    bpe: str | None = None
    detokenizer: str = "space"
    detokenizer_args: str = "{}"
    sacrebleu_tokenizer: str = "13a"
    max_order: int = 4
    smoothing: str = "add-k"


class Reward(ABC):
    """Judges whole outputs; higher is better, and 1 is perfect for those built in."""

    per_token: ClassVar[bool] = False
    """Whether :meth:`increments` tells what each token adds."""

    def __init__(self, options: RewardOptions) -> None:
        self.options = options

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """Reward of each output: ``[rows]``, float32, on the device of ``outputs.tokens``."""

    def increments(self, outputs: Outputs) -> Tensor:
        """What each token adds to the reward.

        Returns:
            ``[rows, length]``, float32; each row sums to the output's reward.

        Raises:
            ValueError: the reward of a prefix is not known; see ``per_token``.
        """
        raise ValueError(
            "--credit reward_to_go needs to know what each token adds, which --reward "
            f"{self.options.name} with --reward-level {self.options.level} does not tell: choose "
            "--reward sentence_bleu or gleu with --reward-level tokens, or another --credit"
        )


REWARDS: dict[str, Registry[Reward]] = {
    level: Registry(f"--reward with --reward-level {level}", Reward) for level in LEVELS
}
"""For each level, the built-in rewards by name."""
