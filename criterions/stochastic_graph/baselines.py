"""Baselines of the score-function estimator: ``Q_z - b_z`` in place of the cost-to-go ``Q_z``.

A baseline leaves the estimate unbiased as long as it does not depend on the sample ``z``, since
``E[grad log p(z) * b] = b * grad sum_z p(z) = 0`` (Williams 1992; Schulman et al. 2015).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from criterions.registry import Registry


@dataclass(frozen=True)
class CostToGo:
    """The costs downstream of a stochastic node, as a baseline sees them.

    ``batch`` includes the samples of each source, side by side; axes of enumerated nodes come
    first.
    """

    node: str
    """``node 'attention' at step 3``, for error messages."""

    cost: Tensor
    """``[*enumerated, batch]`` or ``[*enumerated, batch, time]``: ``Q_z``, without gradient."""

    weight: Tensor
    """Broadcasts with ``cost``: 0 past the end, else the probability of the enumerated values."""

    has_time: bool
    """Whether the last axis is time."""

    samples: int
    """How many samples each source has."""

    input: Tensor | None
    """The node's ``baseline_input``, as given."""

    def expanded_input(self, expected: str) -> Tensor:
        """``baseline_input`` ``[batch, ...]``, repeated where it has one value per source.

        Args:
            expected: what the input must be, for the error message.

        Raises:
            ValueError: there is none, or its shape does not fit.
        """
        if self.input is None:
            raise ValueError(
                f"the baseline of {self.node} needs {expected}: give it as baseline_input "
                "of sample() or with graph.set_baseline_input()"
            )
        batch = self.cost.size(-2 if self.has_time else -1)
        sizes = dict.fromkeys((batch, batch // self.samples))
        if self.input.shape[:1] not in [(size,) for size in sizes]:
            wanted = " or ".join(f"[{size}, ...]" for size in sizes)
            raise ValueError(
                f"baseline_input of {self.node} must have shape {wanted}; "
                f"got {list(self.input.shape)}"
            )
        repeats = 1 if self.input.size(0) == batch else self.samples
        return self.input.repeat_interleave(repeats, dim=0)


class Baseline(nn.Module):
    """``b_z`` of a score-function node."""

    @abstractmethod
    def forward(self, node: CostToGo) -> Tensor:
        """The baseline, broadcastable to ``node.cost``; gradient only into own parameters."""

    def update(self, node: CostToGo) -> None:
        """Learn from the node's costs.  Called in training, after every baseline was used."""

    def loss(self, baseline: Tensor, node: CostToGo) -> Tensor | None:
        """Loss of the baseline's own parameters, or None.

        Args:
            baseline: what ``forward`` returned.
            node: the same as for ``forward``.

        Returns:
            elementwise, of ``node.cost``'s shape; the graph weights and sums it.
        """
        return None


BASELINES: Registry[Baseline] = Registry("baseline", Baseline)  # type: ignore[type-abstract]


@BASELINES.register("none")
class NoBaseline(Baseline):
    """``b = 0``."""

    def forward(self, node: CostToGo) -> Tensor:
        return torch.zeros_like(node.cost)


@BASELINES.register("moving_average")
class MovingAverage(Baseline):
    """Exponential moving average of the costs-to-go of earlier updates (Williams 1992).

    ``b = m / w`` where, after each update, ``m <- decay m + (1 - decay) mean(Q)`` and
    ``w <- decay w + (1 - decay)``: an average of past costs from the first update on, not one
    drawn towards 0; before the first update ``b = 0``.  The mean is over all steps that exist and,
    where several nodes share the baseline, is taken node by node.  The current costs enter only
    after they were used.  Both numbers are buffers and are never stored in less than float32.

    Args:
        decay: between 0 (the last update's mean only) and 1, exclusive.
    """

    total: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1; got {decay}")
        self.decay = decay
        self.register_buffer("total", torch.zeros((), dtype=torch.float32))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float32))

    def forward(self, node: CostToGo) -> Tensor:
        average = self.total / self.weight.clamp(min=torch.finfo(self.weight.dtype).tiny)
        return average.to(node.cost.dtype)

    @torch.no_grad()
    def update(self, node: CostToGo) -> None:
        weight = node.weight.expand_as(node.cost)
        self.take_in((weight * node.cost).sum(), weight.sum())

    @torch.no_grad()
    def take_in(self, cost: Tensor, exists: Tensor) -> None:
        """One step of the averages.

        Args:
            cost: scalar, sum of costs.
            exists: scalar, how many costs that were; with none, or a sum that is not finite,
                nothing changes: it would be part of the average, and of checkpoints, for good.
        """
        mean = cost / exists.clamp(min=torch.finfo(exists.dtype).tiny)
        known = (exists > 0) & mean.isfinite()
        mean, rate = torch.where(known, mean, 0), (1 - self.decay) * known
        self.total.mul_(1 - rate).add_(rate * mean)
        self.weight.mul_(1 - rate).add_(rate)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> MovingAverage:
        # module.half() would leave three digits, too few for an average's small steps.
        before = {name: getattr(self, name) for name in ("total", "weight")}
        super()._apply(fn, *args, **kwargs)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if torch.finfo(moved.dtype).bits < 32:
                setattr(self, name, buffer.to(moved.device))
        return self


class GivenCost(Baseline):
    """A cost that is the node's ``baseline_input``.

    ``[batch]`` (or one value for each sample), or with a time axis where the node has one.
    """

    what: ClassVar[str]

    def forward(self, node: CostToGo) -> Tensor:
        baseline = node.expanded_input(f"{self.what}, [batch]")
        if node.has_time and baseline.dim() == 1:
            baseline = baseline.unsqueeze(-1)
        if baseline.dim() != 1 + node.has_time:
            raise ValueError(
                f"baseline_input of {node.node} must be {self.what}, [batch]"
                f"{' or [batch, time]' if node.has_time else ''}; "
                f"got shape {list(baseline.shape)}"
            )
        return baseline.detach()


@BASELINES.register("greedy")
class GreedyDecode(GivenCost):
    """The cost of the model's own greedy output: self-critical training (Rennie et al. 2017)."""

    what = "the cost of the greedy output"


@BASELINES.register("expected")
class ExpectedCost(GivenCost):
    """What is expected of the cost once the sample is known, by a model of what follows.

    Unlike other baselines it depends on the sample, ``b(z)``, which is made good by the gradient of
    its expectation: beside the score term ``grad log p(z) (Q - b(z))`` the costs must have
    ``sum_v p(v) b(v)``, with gradient to ``p`` alone (an action-dependent baseline; Gu et al. 2017,
    arXiv 1611.02247).  The nearer ``b`` is to the mean of ``Q``, the smaller is the variance; with
    the mean itself, all values are summed over, and only those that come before are sampled.
    """

    what = "the expected cost of the sample"


@BASELINES.register("leave_one_out")
class LeaveOneOut(Baseline):
    """Mean cost of the source's other samples: ``b_i = sum_{j != i} Q_j / (k - 1)``.

    Kool et al. 2019.  The samples must be independent.  At a step past the end of sample j,
    ``Q_j`` has no costs to go and counts as such.
    """

    def forward(self, node: CostToGo) -> Tensor:
        if node.samples < 2:
            raise ValueError(
                f"the leave_one_out baseline of {node.node} needs samples >= 2: "
                "open the graph with samples=k"
            )
        axis = node.cost.dim() - (2 if node.has_time else 1)
        cost = node.cost.unflatten(axis, (-1, node.samples))
        others = cost.sum(axis + 1, keepdim=True) - cost
        baseline: Tensor = others / (node.samples - 1)
        return baseline.reshape(node.cost.shape)


@BASELINES.register("learned")
class LearnedBaseline(Baseline):
    """A linear regression on a state: ``b = head(state)``, with loss ``(b - Q)^2``.

    The state is the node's ``baseline_input``, ``[batch, features]``, or
    ``[batch, time, features]`` where the node has a time axis; the loss does not train what
    computed it.  It must not depend on the node's own sample: at step t, a state from before
    ``z_t`` was drawn.

    Args:
        features: size of the state's last axis.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(features, 1)

    def forward(self, node: CostToGo) -> Tensor:
        state = node.expanded_input("a state [batch, features]")
        if state.dim() != 2 + node.has_time or state.size(-1) != self.features:
            axes = "batch, time" if node.has_time else "batch"
            raise ValueError(
                f"baseline_input of {node.node} must be a state "
                f"[{axes}, {self.features}]; got shape {list(state.shape)}"
            )
        baseline: Tensor = self.head(state.detach())
        return baseline.squeeze(-1)

    def loss(self, baseline: Tensor, node: CostToGo) -> Tensor | None:
        return (baseline - node.cost).square()
