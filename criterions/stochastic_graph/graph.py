"""The stochastic computation graph: records nodes, gives the surrogate loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from criterions.checks import check_choice
from criterions.stochastic_graph.active import ACTIVE
from criterions.stochastic_graph.credit import check_steps
from criterions.stochastic_graph.enumeration import EnumeratedAxes
from criterions.stochastic_graph.estimators import Estimator, ScoreFunction
from criterions.stochastic_graph.nodes import (
    CostNode,
    NodeKey,
    StochasticNode,
    describe,
)
from criterions.stochastic_graph.recomputation import check_keeps_gradient
from criterions.stochastic_graph.recording import cost_node, enumerated_axis, score_node
from criterions.stochastic_graph.samples import SampleLayout
from criterions.stochastic_graph.statistics import score_statistics
from criterions.stochastic_graph.surrogate import Surrogate, build_surrogate

REDUCTIONS = ("sum", "mean", "none")


class StochasticGraph:
    """Records stochastic nodes and costs; its surrogate's gradient estimates ``grad E[sum_c c]``.

    ``surrogate = sum_c c + sum_z log p(z | parents) * stop_gradient(Q_z - b_z)`` with ``Q_z`` the
    sum of the costs downstream of ``z`` (Schulman et al. 2015, theorem 1 and its surrogate loss).

    Within ``with graph:`` every call of :func:`criterions.stochastic_graph.sample` in the model is
    recorded.  **Which costs are downstream of a node** follows from the order of recording: a node
    or cost may depend on all stochastic nodes recorded before it, unless it names its ``parents``;
    then it depends on those and, in turn, on all that they depend on.  On the time axis, the costs
    of earlier steps are not downstream (see :meth:`cost`).

    Args:
        estimators: estimator of a node by the node's name; it wins over what the layer asks for.
        default_estimator: for nodes that neither names (default: score function, no baseline).
        samples: how many samples each source has in the batch.
        leading_samples: where they lie, see :class:`SampleLayout`.  False:
            ``[batch * samples, ...]``, the samples of a source side by side.  True:
            ``[samples, batch, ...]``.
        update: number of the update, for schedules.
        values: outcomes to replay instead of drawing, by the node's name (or ``(name, step)``):
            forced outcomes in a test, or the tokens of a sampling pass in the pass that computes
            their probabilities.
    """

    def __init__(
        self,
        *,
        estimators: Mapping[str, Estimator] | nn.ModuleDict | None = None,
        default_estimator: Estimator | None = None,
        samples: int = 1,
        leading_samples: bool = False,
        update: int = 0,
        values: Mapping[str | NodeKey, Tensor] | None = None,
    ) -> None:
        self.update = update
        self.layout = SampleLayout(samples, leading_samples)
        self._estimators: dict[str, Any] = dict(estimators.items()) if estimators else {}
        self._default = ScoreFunction() if default_estimator is None else default_estimator
        self._values = dict(values or {})
        self._nodes: dict[NodeKey, StochasticNode] = {}
        self._costs: dict[NodeKey, CostNode] = {}
        self._baseline_inputs: dict[NodeKey, Tensor] = {}
        self._observed: dict[str, Tensor] = {}
        self._enumerated = EnumeratedAxes()
        self._rows: int | None = None
        self._result: Surrogate | None = None
        self._entered: list[Token[StochasticGraph | None]] = []
        self._with_gradient = torch.is_grad_enabled()

    def __enter__(self) -> StochasticGraph:
        self._entered.append(ACTIVE.set(self))
        self._with_gradient = torch.is_grad_enabled()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ACTIVE.reset(self._entered.pop())

    @property
    def nodes(self) -> Mapping[NodeKey, StochasticNode]:
        """Stochastic nodes by ``(name, step)``, in recording order."""
        return self._nodes

    @property
    def costs(self) -> Mapping[NodeKey, CostNode]:
        """Cost nodes by ``(name, step)``, in recording order."""
        return self._costs

    def estimator_of(self, name: str, asked: Estimator | None = None) -> Estimator:
        """The estimator of a node ``name`` whose layer asks for ``asked``."""
        chosen: Estimator = self._estimators.get(name, self._default if asked is None else asked)
        return chosen

    def downstream(self, name: str, step: int | None = None) -> list[CostNode]:
        """The costs downstream of a node (of which reward-to-go may take a part only)."""
        key = (name, step)
        if key not in self._nodes:
            raise ValueError(f"no {describe('node', *key)}; {self._recorded()}")
        position = list(self._nodes).index(key)
        return [cost for cost in self._costs.values() if position in cost.ancestors]

    def sample(
        self,
        name: str,
        law: Distribution,
        *,
        estimator: Estimator | None = None,
        mask: Tensor | None = None,
        parents: Iterable[str] | None = None,
        step: int | None = None,
        causal: bool = True,
        value: Tensor | None = None,
        baseline_input: Tensor | None = None,
    ) -> Tensor:
        """Record a stochastic node and return its value.

        Args:
            name: of the node; used once, or once for each ``step``.
            law: of batch shape ``[batch]`` or ``[batch, time]`` (``batch`` with its samples, see
                ``samples``), after axes of enumerated ancestors.  Further axes hold independent
                parts of one outcome.  A latent vector is ``Independent(Normal(m, s), 1)``.
            estimator: what the layer asks for; the graph's ``estimators`` wins.
            mask: boolean, of the batch shape, True where the node exists.  Other positions have no
                score term.
            parents: names of the stochastic nodes that it may depend on (default: all so far).
            step: decoder step, if the model records the node step by step with laws ``[batch]``.
            causal: whether the axis after the batch is the costs' time, so that position t answers
                for costs from step t on only.  False: every position answers for all costs
                (positions of a source sentence, say).
            value: outcome to take instead of drawing one.
            baseline_input: what the baseline is computed from, see its class.

        Returns:
            the shape of one sample of ``law``; an enumerated node: ``[values, *that]``.

        Raises:
            ValueError: the name was used, a parent is unknown, or law, estimator and shapes do
                not fit.
            RuntimeError: the surrogate was already asked for, or activation checkpointing runs
                the layer without gradient.
        """
        key = (name, step)
        what = describe("node", *key)
        self._check_open(what)
        check_keeps_gradient(what, self._with_gradient)
        if key in self._nodes:
            raise ValueError(
                f"{what} was recorded before: give each stochastic layer its own name, "
                "or number the steps of one with step="
            )
        ancestors = self._ancestors(what, parents)
        chosen = self.estimator_of(name, estimator)
        replayed = self._values.get(key, self._values.get(name, value))
        try:
            draw = chosen.draw(law, value=replayed, update=self.update)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error

        depth = self._enumerated.depth(ancestors)
        node = StochasticNode(name, step, law, chosen, draw.value, ancestors, depth)
        if draw.log_prob is not None:
            node = score_node(node, draw.log_prob, mask, causal, self._enumerated, self.layout)
            self._check_rows(what, node.log_prob, depth)
        elif draw.weights is not None:
            axis = enumerated_axis(
                node, draw, len(self._nodes), causal, self._enumerated, self.layout
            )
            self._check_rows(what, axis.weights, len(self._enumerated) + 1)
            self._enumerated.append(axis)
            node = axis.node
        self._nodes[key] = node
        if baseline_input is not None:
            self._baseline_inputs[key] = baseline_input
        return node.value

    def cost(
        self,
        name: str,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        parents: Iterable[str] | None = None,
        before: Iterable[str] = (),
        step: int | None = None,
    ) -> None:
        """Record a cost; what is minimised is the expected sum of all costs.

        **Time.**  Step t of a node ``[batch, time]`` answers for ``sum_{s >= t} c_s`` of a cost
        ``[batch, time]``: *the same step's cost counts* (``z_t`` is emitted at step t, ``c_t``
        judges it).  Where every step's cost is settled before the step's node is drawn (``z_t`` is
        fed to step t + 1), name the node in ``before``; then ``sum_{s > t} c_s``.  Leaving it out
        costs variance, not bias; naming a node that does influence its own step's cost is biased.
        Such a node, too, is recorded before the cost.
        A cost ``[batch]`` counts in whole for every step.

        Args:
            name: of the cost; used once, or once for each ``step``.
            value: ``[batch]`` or ``[batch, time]``, floating (``batch`` with its samples), after
                axes of enumerated ancestors.  Its own gradient is part of the estimate.
            mask: boolean, of the same shape, True where the position exists.
            parents: names of the stochastic nodes that it depends on (default: all so far).
            before: names of nodes on the time axis that draw after the same step's cost.
            step: decoder step of a cost ``[batch]``.

        Raises:
            ValueError: the name was used, a parent is unknown or shapes do not fit.
            RuntimeError: the surrogate was already asked for.
        """
        key = (name, step)
        what = describe("cost", *key)
        self._check_open(what)
        if key in self._costs:
            raise ValueError(f"{what} was recorded before: give each cost its own name or step=")
        ancestors = self._ancestors(what, parents)
        names = frozenset(self._known(what, "before", before))
        cost = cost_node(name, step, value, mask, ancestors, names, self._enumerated, self.layout)
        self._check_rows(what, cost.value, self._enumerated.depth(ancestors))
        for position, node in enumerate(self._nodes.values()):
            if position in ancestors:
                check_steps(node, cost)
        self._costs[key] = cost

    def observe(self, name: str, value: Tensor) -> None:
        """Let ``statistics()`` tell the mean of something that is no part of the loss.

        Args:
            name: of the quantity; used once.
            value: any shape; detached.

        Raises:
            ValueError: the name was used.
            RuntimeError: the surrogate was already asked for.
        """
        what = f"observed value {name!r}"
        self._check_open(what)
        if name in self._observed:
            raise ValueError(f"{what} was recorded before: give each its own name")
        self._observed[name] = value.detach()

    def set_baseline_input(self, name: str, value: Tensor, step: int | None = None) -> None:
        """Give what a node's baseline is computed from, where the layer could not.

        Args:
            name: of a recorded node.
            value: for ``greedy`` the greedy output's cost, for ``learned`` a state.
            step: of the node.
        """
        key = (name, step)
        if key not in self._nodes:
            raise ValueError(f"no {describe('node', *key)}; {self._recorded()}")
        self._check_open(f"baseline_input of {describe('node', *key)}")
        self._baseline_inputs[key] = value

    def surrogate(self, reduction: str = "sum") -> Tensor:
        """The loss whose gradient is the estimate; its value means nothing, log ``statistics()``.

        The first call ends the recording and, for baselines in training mode, updates them after
        all were used.  Later calls return the same numbers.

        Args:
            reduction: over sources, each the mean of its samples: ``sum``, ``mean`` or ``none``.

        Returns:
            a scalar, or ``[batch]``.

        Raises:
            ValueError: there is no cost, or an estimator, value or baseline does not fit.
        """
        return self._reduce(self._finish().rows, reduction)

    def baseline_loss(self, reduction: str = "sum") -> Tensor:
        """Loss of the baselines' own parameters (0 without learned ones), to add to the surrogate.

        Args and returns as :meth:`surrogate`.
        """
        return self._reduce(self._finish().baseline_rows, reduction)

    def statistics(self) -> dict[str, Tensor]:
        """What to log: detached scalars, past the end nothing counts.

        ``cost/NAME`` is a mean over the batch of the expected cost, summed over its steps;
        ``observed/NAME`` is the mean of what was observed;
        for every score-function node: see :func:`score_statistics`.
        """
        result = self._finish()
        statistics = {f"cost/{name}": rows.mean() for name, rows in result.cost_rows.items()}
        statistics |= {f"observed/{name}": value.mean() for name, value in self._observed.items()}
        return statistics | score_statistics(result.terms, self.layout)

    def _finish(self) -> Surrogate:
        if self._result is None:
            names = {name for name, _ in self._nodes}
            for argument, given in (("estimators", self._estimators), ("values", self._values)):
                for key in given:
                    if key not in names and key not in self._nodes:
                        raise ValueError(
                            f"{argument} of the graph names {key!r}, which no layer recorded; "
                            f"{self._recorded()}"
                        )
            if not self._costs:
                raise ValueError("the graph has no cost: record one with graph.cost(name, value)")
            self._result = build_surrogate(
                self._nodes, self._costs, self._baseline_inputs, self._enumerated, self.layout
            )
        return self._result

    def _reduce(self, rows: Tensor, reduction: str) -> Tensor:
        check_choice("reduction", reduction, REDUCTIONS)
        batch = self.layout.mean(rows)
        if reduction == "none":
            return batch
        return batch.sum() if reduction == "sum" else batch.mean()

    def _check_open(self, what: str) -> None:
        if self._result is not None:
            raise RuntimeError(
                f"{what} comes after surrogate(), baseline_loss() or statistics(): record "
                "everything first, and open a new graph for every update"
            )

    def _check_rows(self, what: str, tensor: Tensor | None, depth: int) -> None:
        rows = None if tensor is None else tensor.size(depth)
        if self._rows is None:
            self._rows = rows
        if rows != self._rows:
            raise ValueError(
                f"{what} has {rows} rows, but the graph has {self._rows} (batch times samples): "
                "every score-function or enumerated node and every cost must have them all"
            )

    def _known(self, what: str, argument: str, names: Iterable[str]) -> list[str]:
        if isinstance(names, str):
            raise ValueError(f"{argument} of {what} must be a list of names; got {names!r} alone")
        recorded = {name for name, _ in self._nodes}
        names = list(names)
        for name in names:
            if name not in recorded:
                raise ValueError(f"{argument} of {what} names unknown {name!r}; {self._recorded()}")
        return names

    def _ancestors(self, what: str, parents: Iterable[str] | None) -> frozenset[int]:
        """The parents and all that they may depend on."""
        if parents is None:
            return frozenset(range(len(self._nodes)))
        names = self._known(what, "parents", parents)
        found: set[int] = set()
        for position, node in enumerate(self._nodes.values()):
            if node.name in names:
                found |= {position} | node.ancestors
        return frozenset(found)

    def _recorded(self) -> str:
        names = list(dict.fromkeys(name for name, _ in self._nodes))
        return f"recorded stochastic nodes: {', '.join(names) if names else 'none'}"
