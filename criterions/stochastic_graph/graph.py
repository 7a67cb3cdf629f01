"""The stochastic computation graph: records stochastic nodes and costs, gives a surrogate loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from criterions.stochastic_graph.context import (
    CHECKPOINTING_REMEDY,
    Recorder,
    SampleRequest,
    recorder_for_layer,
)
from criterions.stochastic_graph.enumeration import (
    Enumerated,
    axes,
    check_axes,
    check_no_independent_steps,
    depth_of,
    enumerated_node,
)
from criterions.stochastic_graph.estimators import Draw, Estimator
from criterions.stochastic_graph.nodes import (
    CostNode,
    NodeKey,
    StochasticNode,
    describe,
    expanded_mask,
    summed_parts,
)
from criterions.stochastic_graph.surrogate import Surrogate, build_surrogate, score_statistics


@dataclass(kw_only=True, eq=False, repr=False)
class StochasticGraph(Recorder):
    """Records stochastic nodes and costs; its surrogate's gradient estimates ``grad E[sum_c c]``.

    Within ``with graph:`` every call of :func:`criterions.stochastic_graph.sample` in the model is
    recorded.  **Which costs are downstream of a node** follows from the order of recording: a node
    or cost may depend on all stochastic nodes recorded before it, unless it names its ``parents``;
    then it depends on those and, in turn, on all that they depend on.  On the time axis, the costs
    of earlier steps are not downstream (see :meth:`cost`).

    Args:
        estimators, default_estimator, samples, update: as of :class:`Recorder`.
        values: outcomes to replay instead of drawing, by the node's name (or ``(name, step)``):
            forced outcomes in a test, or the tokens of a sampling pass in the pass that computes
            their probabilities.
    """

    values: Mapping[Any, Tensor] | None = None
    nodes: dict[NodeKey, StochasticNode] = field(default_factory=dict, init=False)
    """Stochastic nodes by ``(name, step)``, in recording order."""

    costs: dict[NodeKey, CostNode] = field(default_factory=dict, init=False)
    """Cost nodes, likewise."""

    _enumerated: list[StochasticNode] = field(default_factory=list, init=False)
    _baseline_inputs: dict[NodeKey, Tensor] = field(default_factory=dict, init=False)
    _observed: dict[str, Tensor] = field(default_factory=dict, init=False)
    _batch: int | None = field(default=None, init=False)
    _result: Surrogate | None = field(default=None, init=False)
    _with_gradient: bool = field(default_factory=torch.is_grad_enabled, init=False)

    def __enter__(self) -> StochasticGraph:
        self._with_gradient = torch.is_grad_enabled()
        super().__enter__()
        return self

    def sample(self, name: str, distribution: Distribution, **options: Any) -> Tensor:
        """As :func:`criterions.stochastic_graph.sample`, whose options it takes, in this graph."""
        return self.record(SampleRequest(name, distribution, **options))

    def record(self, request: SampleRequest) -> Tensor:
        """Record a stochastic node and return its value; see :func:`sample`."""
        key = (request.name, request.step)
        what = describe("node", *key)
        self._check_open(what)
        if self._with_gradient and not torch.is_grad_enabled():
            raise RuntimeError(
                f"{what} is recorded where gradients are off, though they are on around the "
                f"graph: {CHECKPOINTING_REMEDY}; under torch.no_grad its log-probability would "
                "have no gradient"
            )
        if key in self.nodes:
            raise ValueError(
                f"{what} was recorded before: give each stochastic layer its own name, "
                "or number the steps of one with step="
            )
        ancestors = self._ancestors(what, request.parents)
        estimator = self.estimator_of(request.name, request.estimator)
        values = self.values or {}
        value = values.get(key, values.get(request.name, request.value))
        try:
            draw = estimator.draw(request.distribution, value=value, update=self.update)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error

        position, enumerated = len(self.nodes), self._enumerated
        node = _stochastic_node(request, estimator, draw, position, ancestors, enumerated)
        if node.log_prob is not None:
            self._check_batch(what, node.log_prob, node.depth)
        elif node.weights is not None:
            self._check_batch(what, node.weights, len(enumerated) + 1)
            enumerated.append(node)
        self.nodes[key] = node
        if request.baseline_input is not None:
            self._baseline_inputs[key] = request.baseline_input
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

        **Time.**  Step t of a node ``[batch, time]`` is credited with ``sum_{s >= t} c_s`` of a
        cost ``[batch, time]``: *the same step's cost counts* (``z_t`` is emitted at step t, ``c_t``
        judges it).  Where every step's cost is settled before the step's node is drawn (``z_t`` is
        fed to step t + 1), name the node in ``before``; then ``sum_{s > t} c_s``.  Leaving it out
        costs variance, not bias; naming a node that does influence its own step's cost is biased.
        Such a node, too, is recorded before the cost.
        A cost ``[batch]`` counts in whole for every step; and so does any cost that depends on a
        node without a time axis, for the steps of all nodes that this one depends on.

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
        if key in self.costs:
            raise ValueError(f"{what} was recorded before: give each cost its own name or step=")
        ancestors = self._ancestors(what, parents)
        later = frozenset(self._known(what, "before", before)) if before else frozenset()
        if not value.is_floating_point():
            raise ValueError(
                f"{what} must be floating; got {value.dtype}: convert it with .float()"
            )
        enumerated = self._enumerated
        depth = depth_of(ancestors, enumerated) if enumerated else 0
        has_time = step is None and value.dim() == depth + 2
        if value.dim() != depth + 1 + has_time:
            other = " (it has a step)" if step is not None else f" or {axes(depth, time=True)}"
            raise ValueError(f"{what} must be {axes(depth)}{other}; got shape {list(value.shape)}")
        if depth:
            check_axes(what, value, ancestors, enumerated[:depth], has_time)
        if mask is not None:
            value = value.masked_fill(~expanded_mask(what, mask, value, depth), 0)
        if has_time or later:
            for node in self.nodes.values():
                if node.position in ancestors and node.log_prob is not None:
                    self._check_steps(what, value.size(-1) if has_time else None, node, later)
        self._check_batch(what, value, depth)
        self.costs[key] = CostNode(name, step, value, ancestors, later, has_time)

    def observe(self, name: str, value: Tensor) -> None:
        """Let ``statistics()`` report the mean of a quantity that is not part of the loss.

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
        """Set what a node's baseline is computed from, where the layer could not.

        Args:
            name: of a recorded node.
            value: for ``greedy`` the greedy output's cost, for ``learned`` a state.
            step: of the node.
        """
        key = (name, step)
        if key not in self.nodes:
            raise ValueError(f"no {describe('node', *key)}; {self._recorded()}")
        self._check_open(f"baseline_input of {describe('node', *key)}")
        self._baseline_inputs[key] = value

    def surrogate(self) -> Tensor:
        """The loss whose gradient is the estimate; its value means nothing, log ``statistics()``.

        The first call ends the recording and, for baselines in training mode, updates them after
        all were used.  Later calls return the same numbers.

        Returns:
            a scalar: the sum of :meth:`surrogate_per_source`.

        Raises:
            ValueError: there is no cost, or an estimator, value or baseline does not fit.
        """
        return self._finish().losses.sum() / self.samples

    def surrogate_per_source(self) -> Tensor:
        """As :meth:`surrogate`, ``[sources]``: the mean over the samples of each."""
        return self._finish().losses.view(-1, self.samples).mean(1)

    def baseline_loss(self) -> Tensor:
        """Loss of the baselines' own parameters (0 without learned ones), to add to the surrogate.

        Returns:
            a scalar, reduced as :meth:`surrogate`.
        """
        return self._finish().baseline_losses.sum() / self.samples

    def statistics(self) -> dict[str, Tensor]:
        """What to log: detached scalars; positions past the end do not count.

        ``cost/NAME`` is a mean over the batch of the expected cost, summed over its steps;
        ``observed/NAME`` is the mean of what was observed;
        for every score-function node: see :func:`score_statistics`.
        """
        result = self._finish()
        statistics = {f"cost/{name}": value.mean() for name, value in result.costs.items()}
        statistics |= {f"observed/{name}": value.mean() for name, value in self._observed.items()}
        return statistics | score_statistics(result.terms)

    def _finish(self) -> Surrogate:
        if self._result is None:
            known = {*self.nodes, *self._names()}
            for argument, given in (("estimators", self.estimators), ("values", self.values)):
                for key in given or ():
                    if key not in known:
                        raise ValueError(
                            f"{argument} of the graph names {key!r}, which no layer recorded; "
                            f"{self._recorded()}"
                        )
            if not self.costs:
                raise ValueError("the graph has no cost: record one with graph.cost(name, value)")
            nodes, costs = list(self.nodes.values()), list(self.costs.values())
            self._result = build_surrogate(nodes, costs, self._baseline_inputs, self.samples)
        return self._result

    def _check_open(self, what: str) -> None:
        if self._result is not None:
            raise RuntimeError(
                f"{what} comes after surrogate(), baseline_loss() or statistics(): record "
                "everything first, and open a new graph for every update"
            )

    def _check_batch(self, what: str, tensor: Tensor, axis: int) -> None:
        batch = tensor.size(axis)
        if batch % self.samples:
            raise ValueError(
                f"{what} has a batch of {batch}, which samples={self.samples} does not divide: "
                "repeat every source that many times"
            )
        if self._batch is None:
            self._batch = batch
        if batch != self._batch:
            raise ValueError(
                f"{what} has a batch of {batch}, but the graph has {self._batch} (sources times "
                "samples): every score-function or enumerated node and every cost must have them "
                "all"
            )

    def _check_steps(
        self, what: str, steps: int | None, node: StochasticNode, before: frozenset[str]
    ) -> None:
        assert node.log_prob is not None
        if node.name in before and not node.has_time and node.step is None:
            raise ValueError(
                f"before of {what} names {node.name!r}, which has no time axis: leave it out, or "
                "name the cost's parents if it does not depend on that node"
            )
        if steps is None:
            return
        if node.has_time and node.log_prob.size(-1) != steps:
            raise ValueError(
                f"{what} has {steps} steps, but {node}, upstream of it, has "
                f"{node.log_prob.size(-1)}: pad both to the same length; if the node's second axis "
                "is not the costs' time, record it with causal=False or as "
                "torch.distributions.Independent(distribution, 1)"
            )
        if node.step is not None and node.step >= steps:
            raise ValueError(
                f"{what} has {steps} steps, numbered from 0, but {node} is upstream of it: "
                "pad the cost, or count the node's steps from 0"
            )

    def _known(self, what: str, argument: str, names: Iterable[str]) -> list[str]:
        if isinstance(names, str):
            raise ValueError(f"{argument} of {what} must be a list of names; got {names!r} alone")
        names, known = list(names), self._names()
        for name in names:
            if name not in known:
                raise ValueError(f"{argument} of {what} names unknown {name!r}; {self._recorded()}")
        return names

    def _ancestors(self, what: str, parents: Iterable[str] | None) -> frozenset[int]:
        """Positions of the parents and of all that these may depend on."""
        if parents is None:
            return frozenset(range(len(self.nodes)))
        names = self._known(what, "parents", parents)
        found: set[int] = set()
        for node in self.nodes.values():
            if node.name in names:
                found |= {node.position} | node.ancestors
        return frozenset(found)

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.nodes))

    def _recorded(self) -> str:
        return f"recorded stochastic nodes: {', '.join(self._names()) or 'none'}"


def active_graph() -> StochasticGraph | None:
    """The graph that is being recorded in this thread, if that is what :func:`sample` does now."""
    recorder = recorder_for_layer()
    return recorder if isinstance(recorder, StochasticGraph) else None


def _stochastic_node(
    request: SampleRequest,
    estimator: Estimator,
    draw: Draw,
    position: int,
    ancestors: frozenset[int],
    enumerated: Enumerated,
) -> StochasticNode:
    """The node of a sample, or ``ValueError`` if its shapes do not fit.

    Args:
        request: what the layer asked for.
        estimator, draw: the node's estimator, and what it drew.
        position, ancestors: of the node, and of those that it may depend on.
        enumerated: enumerated nodes recorded so far.
    """
    what = describe("node", request.name, request.step)
    depth = depth_of(ancestors, enumerated) if enumerated else 0
    log_prob, mask, part_mask = draw.log_prob, request.mask, None
    shape = request.distribution.batch_shape if log_prob is None else log_prob.shape
    has_time = request.causal and request.step is None and len(shape) > depth + 1
    if log_prob is not None:
        if depth:
            check_no_independent_steps(what, enumerated[:depth])
        parts = len(shape) - depth - 1 - has_time
        if mask is not None and parts > 0 and mask.shape in (shape, shape[depth:]):
            part_mask, mask = mask, mask.flatten(-parts).any(-1)
        log_prob = summed_parts(f"distribution of {what}", log_prob, depth, has_time, part_mask)
        if depth:
            check_axes(f"distribution of {what}", log_prob, ancestors, enumerated[:depth], has_time)
        if mask is not None:
            mask = expanded_mask(what, mask, log_prob, depth)
            log_prob = log_prob.masked_fill(~mask, 0)
    elif draw.weights is None:
        mask = None  # of score terms and probabilities only
    elif mask is not None:
        mask = expanded_mask(what, mask, draw.weights[0], depth)
    node = StochasticNode(
        name=request.name,
        step=request.step,
        distribution=request.distribution,
        estimator=estimator,
        value=draw.value,
        position=position,
        ancestors=ancestors,
        depth=depth,
        has_time=has_time,
        log_prob=log_prob,
        mask=mask,
        part_mask=part_mask,
    )
    if draw.weights is None:
        return node
    return enumerated_node(node, draw.weights, draw.independent_steps, enumerated)
