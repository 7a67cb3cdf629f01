"""The base class of rewards, what it reads, and the registry in which ``--reward`` looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
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
    """What a reward is built from.

    ``name``: ``--reward``; a registered one, or ``module:function``.
    ``level``: ``--reward-level``; ``tokens`` or ``text``.
    ``task``: fairseq's task, whose dictionaries translate ids into words.
    ``workers``: ``--reward-workers``; processes for sacrebleu, 0 for this one.
    ``bpe``: ``--reward-remove-bpe``; segmentation to undo (``sentencepiece``, ``"@@ "``, ...).
    ``detokenizer``: ``--reward-detok``; one of fairseq's tokenizers, ``space`` for none.
    ``detokenizer_args``: ``--reward-detok-args``; its options, a JSON object.
    ``sacrebleu_tokenizer``: ``--reward-sacrebleu-tokenizer``; splits text for BLEU and GLEU.
    ``max_order``: ``--max-order``; highest n-gram order of BLEU and GLEU.
    ``smoothing``: ``--smoothing`` of BLEU.
    ``sentence_end``: ``--sentence-end``; ``ngram`` if n-grams of ids that end in ``</s>`` count.

    Raises:
        ValueError: a value is out of range; the message names the flag.
    """

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
    sentence_end: str = "ignore"

    def __post_init__(self) -> None:
        check_choice("--reward-level", self.level, LEVELS)
        check_order("--max-order", self.max_order)
        check_choice("--smoothing", self.smoothing, SMOOTHINGS)
        check_choice("--sentence-end", self.sentence_end, SENTENCE_ENDS)
        at_least("--reward-workers", self.workers, 0)


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
            f"{self.options.name} with --reward-level {self.options.level} does not have: use "
            "--reward sentence_bleu or gleu with --reward-level tokens, or another --credit"
        )


REWARDS: dict[str, Registry[Reward]] = {
    level: Registry(f"--reward with --reward-level {level}", Reward) for level in LEVELS
}
"""For each level, the built-in rewards by name."""
