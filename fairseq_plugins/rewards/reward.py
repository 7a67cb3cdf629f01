"""The base class of rewards, what it reads, and the registry in which ``--reward`` looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from criterions.bleu.statistics import SMOOTHINGS
from criterions.checks import check_choice, check_order
from criterions.registry import Registry
from fairseq_plugins.flags import SENTENCE_ENDS, at_least

LEVELS = ("tokens", "text")
"""What a reward compares: token ids, on their device; or detokenised text."""


@dataclass(frozen=True)
class Outputs:
    """Sampled translations, and the sentence pairs they belong to.

    ``tokens``: ``[batch * samples, length]``, samples of a source adjacent, padding at the end.
    ``lengths``: ``[batch * samples]``, tokens before ``</s>``.
    ``references``: ``[batch, ref_len]``, without a start symbol; ``</s>`` and padding at the end.
    ``reference_lengths``: ``[batch]``, tokens before ``</s>``.
    ``sources``: ``[batch, src_len]``, with ``</s>``, padding on either side.
    ``samples``: outputs for each source.
    """

    tokens: Tensor
    lengths: Tensor
    references: Tensor
    reference_lengths: Tensor
    sources: Tensor
    samples: int = 1


@dataclass(frozen=True)
class RewardOptions:
    """What a reward is built from: flags, by their names, and fairseq's task.

    Raises:
        ValueError: a value is out of range; the message names the flag.
    """

    task: Any
    reward: str
    reward_level: str
    reward_workers: int = 0
    reward_remove_bpe: str | None = None
    reward_detok: str = "space"
    reward_detok_args: str = "{}"
    reward_sacrebleu_tokenizer: str = "13a"
    max_order: int = 4
    smoothing: str = "add-k"
    sentence_end: str = "ignore"

    @classmethod
    def of(cls, settings: Any, task: Any) -> RewardOptions:
        """From all flags of the criterion."""
        names = [known.name for known in fields(cls) if known.name != "task"]
        return cls(task, **{name: getattr(settings, name) for name in names})

    def __post_init__(self) -> None:
        check_choice("--reward-level", self.reward_level, LEVELS)
        check_order("--max-order", self.max_order)
        check_choice("--smoothing", self.smoothing, SMOOTHINGS)
        check_choice("--sentence-end", self.sentence_end, SENTENCE_ENDS)
        at_least("--reward-workers", self.reward_workers, 0)


class Reward(ABC):
    """A score of whole outputs; higher is better, and 1 is perfect for those built in.

    To add one: derive from it, and register the class for its level(s) in :data:`REWARDS`.  The
    first line of its docstring is its line in ``--help``.
    """

    per_token: bool = False
    """Whether :meth:`increments` is defined."""

    flags: ClassVar[frozenset[str]] = frozenset()
    """Which it reads of ``max_order``, ``smoothing``, ``sentence_end`` and
    ``reward_sacrebleu_tokenizer``; others of these are refused."""

    def __init__(self, options: RewardOptions) -> None:
        self.options = options

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """Reward of each output: ``[batch * samples]``, float32, on the device of the tokens."""

    def increments(self, outputs: Outputs) -> Tensor:
        """What each token adds to the reward of the prefix before it.

        Returns:
            ``[batch * samples, length]``, float32; the sum over tokens is the output's reward.

        Raises:
            ValueError: the reward of a prefix is not defined; see ``per_token``.
        """
        raise ValueError(
            "--credit reward_to_go needs the reward of every prefix, which --reward "
            f"{self.options.reward} with --reward-level {self.options.reward_level} does not have: "
            "use --reward sentence_bleu or gleu with --reward-level tokens, or another --credit"
        )


REWARDS: dict[str, Registry[Reward]] = {
    level: Registry(f"--reward with --reward-level {level}", Reward) for level in LEVELS
}
"""For each level, the built-in rewards by name."""
