"""The base class of what is minimised, and the registry in which ``--cost`` looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from criterions.registry import Registry
from fairseq_plugins.batch import Batch
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.rollout import Rollout
from fairseq_plugins.stochastic_graph.scored_pass import ScoredPass

Logs = dict[str, Tensor]


class Cost(ABC):
    """The expected cost that an objective minimises, a mean over sentences.

    To add one: derive from it, and register the class in :data:`COSTS`.

    Args:
        settings: all flags.
        task: fairseq's.
        sum_over_workers: for what is normalised over the whole batch.
    """

    per_token: ClassVar[bool] = False
    """Whether it is a sum over tokens, as fairseq's own criterions have it, instead."""

    bears_enumeration: ClassVar[bool] = False
    """Whether the logits may have axes of enumerated layers in front."""

    reads_logits: ClassVar[bool] = True
    """Whether ``record`` reads the pass' ``logits``, and not its ``token_distribution`` alone."""

    def __init__(
        self, settings: Settings, task: Any, sum_over_workers: Callable[[Tensor], Tensor]
    ) -> None:
        self.settings, self.dictionary = settings, task.target_dictionary
        self.sum_over_workers = sum_over_workers

    @abstractmethod
    def record(self, done: ScoredPass, rollout: Rollout, greedy: Rollout | None) -> Logs:
        """Add the cost, and the tokens it depends on, to the graph of a pass.

        Args:
            done: the pass with gradient.
            rollout: what it was fed.
            greedy: the greedy output, one for each source, where it is a baseline.

        Returns:
            what to log: means over a source's samples, summed over the sources.
        """

    @abstractmethod
    def validate(
        self, sources: Batch, logits: Tensor, greedy: Callable[[], Rollout]
    ) -> tuple[Tensor, Logs]:
        """The cost of each sentence of what the model does deterministically, ``[batch]``.

        With it, sums over the sentences to log.

        Args:
            sources: the batch, with one row for each source.
            logits: ``[batch, tgt_len, vocab]`` of the teacher-forced pass.
            greedy: decodes the greedy output.
        """


COSTS: Registry[Cost] = Registry("--cost", Cost)  # type: ignore[type-abstract]
