"""Estimators of the graph's nodes, from the settings, and moving averages over workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from criterions.stochastic_graph import (
    BASELINES,
    ESTIMATORS,
    Baseline,
    CostToGo,
    Estimator,
    Expectation,
    ExpectedCost,
    GreedyDecode,
    GumbelSoftmax,
    LearnedBaseline,
    MovingAverage,
    ScoreFunction,
    StraightThrough,
    StraightThroughGumbel,
)
from fairseq_plugins.flags import above, schedule_of
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.token_estimators import TOKEN_ESTIMATORS
from fairseq_plugins.workers import TrainStepWatch

FED = "fed_token"
"""Name of the node of the tokens (or weights) that the decoder is fed."""

EMITTED = "emitted_token"
"""Name of the node of the tokens that are rewarded."""


class WorkersMovingAverage(MovingAverage):
    """The moving average of the costs of all data-parallel workers, the same on each of them.

    The mean of an update is over all nodes that share the baseline.  It is taken in by
    :meth:`CriterionEstimators.learn`, which every worker calls once: of a layer that records a node
    for each step, a worker has as many nodes as its longest sentence has tokens.

    Args:
        decay: as for :class:`MovingAverage`.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay)
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def update(self, node: CostToGo) -> None:
        weight = node.weight.expand_as(node.cost)
        self._sums.append(torch.stack([(weight * node.cost).sum(), weight.sum()]).float())

    def seen(self) -> Tensor:
        """``[2]``: sum and number of this worker's costs since the last time."""
        sums, self._sums = [self.total.new_zeros(2), *self._sums], []
        return torch.stack(sums).sum(0)


class CriterionEstimators(nn.Module):
    """All estimators of one criterion: registered, so that their state is kept in checkpoints.

    ``token``: of tokens that were drawn.
    ``relaxed``: of relaxed feeding, or None.
    ``layers``: of the model's layers that do not ask for an estimator of their own: under the cost,
    and under an added cross-entropy, which has neither samples nor a greedy output to compare with
    and so takes a moving average.
    ``compare_with_greedy``: whether the cost of the greedy output is the baseline of either.
    ``expects_costs``: whether the tokens' baseline is the cost that is expected after each.
    ``reads_states``: whether the tokens' baseline reads the decoder's states.
    ``temperature``: of relaxed feeding, by update.

    Args:
        settings: the objective.
        train_step: sums over workers.
        state_size: finds the size of the decoder's state, where it is not given.
    """

    def __init__(
        self,
        settings: Settings,
        train_step: TrainStepWatch,
        state_size: Callable[[], int],
    ) -> None:
        super().__init__()
        self._train_step = train_step
        self.temperature = schedule_of(
            "--relaxation-temperature", settings.relaxation_temperature, above, 0
        )

        def baseline(name: str) -> Baseline:
            if name == "moving_average":
                return WorkersMovingAverage(settings.baseline_decay)
            if issubclass(kind := BASELINES.get(name), LearnedBaseline):
                return kind(settings.baseline_state_dim or state_size())
            return kind()

        def for_layers(own_baseline: str) -> Estimator:
            if settings.layer_estimator == "score_function":
                return ScoreFunction(baseline(own_baseline))
            return ESTIMATORS.create(settings.layer_estimator)

        scored = settings.estimator if settings.records_tokens else "score_function"
        self.token: Estimator = TOKEN_ESTIMATORS.create(scored, baseline(settings.baseline))
        self.relaxed: Estimator | None = None
        if settings.relaxed:
            self.relaxed = {
                "soft": Expectation,
                "gumbel": lambda: GumbelSoftmax(self.temperature),
                "gumbel_st": lambda: StraightThroughGumbel(self.temperature),
                "straight_through": StraightThrough,
            }[settings.feed]()
        # The costs of the two passes differ in kind and size, and so do their averages.
        added = "none" if settings.layer_baseline == "none" else "moving_average"
        self.layers = nn.ModuleDict(
            {"cost": for_layers(settings.layer_baseline), "cross_entropy": for_layers(added)}
        )
        self.compare_with_greedy = any(
            isinstance(estimator.baseline, GreedyDecode)
            for estimator in (self.token, self.layers["cost"])
        )
        self.expects_costs = isinstance(self.token.baseline, ExpectedCost)
        self.reads_states = isinstance(self.token.baseline, LearnedBaseline)
        if any(True for _ in self.buffers()) and not any(True for _ in self.parameters()):
            # fairseq saves a criterion's state only if it has a parameter; its legacy_ddp takes
            # slices of every gradient, so that it needs an axis.
            self.anchor = nn.Parameter(torch.zeros(1))

    def begin(self) -> None:
        """Forget the costs of a batch that was left out before its end."""
        for average in self._averages:
            average.seen()

    def learn(self) -> None:
        """Let moving averages take in the costs of the pass; every worker calls it."""
        if averages := self._averages:
            seen = torch.cat([average.seen() for average in averages])
            for average, sums in zip(
                averages, self._train_step.sum_over_workers(seen).view(-1, 2), strict=True
            ):
                average.take_in(*sums)

    @property
    def learned_size(self) -> int:
        """How many numbers :meth:`learn` sums over workers."""
        return 2 * len(self._averages)

    @property
    def _averages(self) -> list[WorkersMovingAverage]:
        return [module for module in self.modules() if isinstance(module, WorkersMovingAverage)]

    def check_states(self, states: Tensor) -> None:
        """Raise ``ValueError`` unless the baseline can read ``[rows, length, channels]``."""
        assert isinstance(self.token.baseline, LearnedBaseline)
        expected = self.token.baseline.features
        if states.size(-1) != expected:
            raise ValueError(
                f"--baseline-state-dim must be {states.size(-1)}, the size of this decoder's "
                f"state; got {expected}"
            )

    def anchored(self, loss: Tensor) -> Tensor:
        """The same loss, from which every parameter gets a gradient, be it 0."""
        anchor: Any = getattr(self, "anchor", None)
        return loss if anchor is None else loss + 0 * anchor.sum()
