"""The base class of what is minimised, and the registry in which ``--cost`` looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from criterions.registry import Registry
from criterions.stochastic_graph import Estimator, SampleRequest
from criterions.token_categorical import TokenCategorical
from fairseq_plugins.batch import Batch
from fairseq_plugins.existing_positions import ExistingTokens
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.rollout import Rollout
from fairseq_plugins.stochastic_graph.scored_pass import ScoredPass

Logs = dict[str, Tensor]


@dataclass(frozen=True)
class CostOptions:
    """What a cost is built from.

    ``settings``: all flags.
    ``task``: fairseq's.
    ``token_estimator``: of the nodes of tokens.
    ``sum_over_workers``: for what is normalised over the whole batch.
    """

    settings: Settings
    task: Any
    token_estimator: Estimator
    sum_over_workers: Callable[[Tensor], Tensor]


class Cost(ABC):
    """The expected cost that an objective minimises, a mean over sentences.

    To add one: derive from it, and register the class in :data:`COSTS`.
    """

    per_token: ClassVar[bool] = False
    """Whether it is a sum over tokens, as fairseq's own criterions have it, instead."""

    bears_enumeration: ClassVar[bool] = False
    """Whether the logits may have axes of enumerated layers in front."""

    reads_logits: ClassVar[bool] = True
    """Whether ``record`` asks for other logits than :meth:`token_distribution`."""

    def __init__(self, options: CostOptions) -> None:
        self.options, self.settings = options, options.settings
        self.dictionary = options.task.target_dictionary

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

    def token_distribution(self, done: ScoredPass) -> Distribution:
        """What decoding draws from, for all positions ``[rows, length]`` of a pass."""
        eos, pad = self.dictionary.eos(), self.dictionary.pad()
        temperature = self.settings.sample_temperature

        def distribution(logits: Tensor, columns: Tensor) -> TokenCategorical:
            # Decoding never emits padding, nor </s> at once.
            excluded = {pad: None, eos: columns.eq(0).expand(logits.shape[:-1])}
            return TokenCategorical(logits, temperature=temperature, excluded=excluded)

        if (positions := done.positions) is None:
            columns = torch.arange(done.logits.size(-2), device=done.logits.device)
            return distribution(done.logits, columns)
        pairs = zip(done.logits, positions.indices, strict=True)
        width = positions.shape[1]
        return ExistingTokens(positions, [distribution(z, index % width) for z, index in pairs])

    def record_tokens(
        self,
        done: ScoredPass,
        name: str,
        distribution: Distribution,
        tokens: Tensor,
        mask: Tensor,
    ) -> None:
        """Add tokens that were drawn, ``[rows, length]``, where ``mask`` is True."""
        done.graph.record(
            SampleRequest(
                name,
                distribution,
                estimator=self.options.token_estimator,
                mask=mask,
                value=tokens,
                baseline_input=done.states,
            )
        )


COSTS: Registry[Cost] = Registry("--cost", Cost)  # type: ignore[type-abstract]
