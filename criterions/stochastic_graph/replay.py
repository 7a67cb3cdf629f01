"""Draw a model's layers while it decodes step by step, then replay them in one scoring pass.

A cost of decoded outputs depends on the stochastic layers twice: through the tokens, which were
drawn given the layers' outcomes, and in the pass that computes the log-probabilities.  The
estimate is on-policy only if the outcomes are the same in both (Schulman et al. 2015, section 2:
one sample of all nodes of the graph)::

    draws = StepwiseDraws(default_estimator=ScoreFunction())
    with torch.no_grad(), draws:
        memory = model.encode(sources)
        for step in range(longest):
            draws.at_step(step, incremental=True)
            tokens = model.decode_step(tokens, memory)
    with ReplayingGraph(draws, steps=lengths) as graph:
        log_probs = model(sources, tokens)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from criterions.stochastic_graph.context import (
    Recorder,
    SampleRequest,
    recorder_for_layer,
)
from criterions.stochastic_graph.estimators import Expectation, Mode
from criterions.stochastic_graph.graph import StochasticGraph
from criterions.stochastic_graph.nodes import NodeKey, describe


class NotReplayableError(ValueError):
    """The node's estimator has no outcome that could be drawn first and replayed afterwards."""


class SharedDrawError(ValueError):
    """The node would be drawn once for several samples of a source."""


class UnexpectedDrawError(RuntimeError):
    """A node has an outcome to draw where none was to be drawn."""


@dataclass(kw_only=True, eq=False, repr=False)
class StepwiseDraws(Recorder):
    """Takes a graph's place while a model decodes: layers draw, and the outcomes are kept.

    A node's value is that of its estimator in the graph: an outcome is drawn for
    ``score_function``, ``none`` and ``straight_through``; ``expectation`` and ``mode`` give their
    deterministic value.  Estimators whose value is not an outcome of the distribution (relaxed
    samples, enumeration) raise :class:`NotReplayableError`.

    Within ``with draws:``, the model first runs what it runs once (its encoder).  A node drawn
    there, or one without steps in the decoder, is drawn at the first call and keeps its outcome.
    After :meth:`at_step` a node with a time axis, ``[batch, time, ...]``, or with ``step=`` is
    drawn for the step that is decoded.

    Args:
        estimators, default_estimator, samples, update: as of :class:`Recorder`.
        may_draw: False for a model whose layers all take their deterministic value.  Nothing is
            kept then, :meth:`at_step` need not be called, and the batch may change its size.
    """

    may_draw: bool = True
    by_step: dict[str, list[Tensor]] = field(default_factory=dict, init=False)
    """Outcomes of each node on a time axis, step after step."""

    _drawn: dict[NodeKey, Tensor] = field(default_factory=dict, init=False)
    _step: int | None = field(default=None, init=False)
    _incremental: bool = field(default=True, init=False)

    def at_step(self, step: int, *, incremental: bool) -> None:
        """Say what the decoder computes next.

        Args:
            step: from 0, one more each time.
            incremental: whether it computes this step alone, from a state that it carries; else
                all steps so far, of which the last one is new.
        """
        self._step, self._incremental = step, incremental

    @property
    def values(self) -> dict[str | NodeKey, Tensor]:
        """The outcomes, for ``StochasticGraph(values=...)``: of all steps, ``[batch, time, ...]``.

        A node with ``step=`` has one for each ``(name, step)``.
        """
        values: dict[str | NodeKey, Tensor] = dict(self._drawn.items())
        for name, drawn in self.by_step.items():
            values[name, None] = torch.cat(drawn, dim=1)
        return values

    def record(self, request: SampleRequest) -> Tensor:
        """Draw the value that a layer continues with; see :func:`sample`.

        Raises:
            NotReplayableError: there is no outcome that the graph could replay.
            SharedDrawError: samples of a source would share the outcome.
            UnexpectedDrawError: there is an outcome to draw, but ``may_draw`` is False.
            ValueError: the distribution does not have the axes, or the node the number, of the
                step that is decoded.
        """
        name, step, distribution = request.name, request.step, request.distribution
        if request.value is not None:
            return request.value
        estimator = self.estimator_of(name, request.estimator)
        what = describe("node", name, step)
        if isinstance(estimator, (Expectation, Mode)):
            return estimator.draw(distribution, update=self.update).value
        if not estimator.replays:
            raise NotReplayableError(
                f"{what}: the outputs are decoded before the pass that scores them, and "
                f"{type(estimator).__name__} has no outcome that this pass could replay: use "
                "score_function, straight_through, none, expectation or mode"
            )
        if not self.may_draw:
            raise UnexpectedDrawError(f"{what} draws, but no layer was to draw")
        if self._step is None:
            if self.samples > 1:
                raise SharedDrawError(
                    f"{what} is drawn before decoding, once for each source, not for each of its "
                    f"{self.samples} samples: decode one sample, or draw it in the decoder"
                )
        elif step is not None:
            step = self._decoder_step(what, step, self._step)
        elif request.causal and len(distribution.batch_shape) > 1:
            return self._draw_steps(what, name, distribution, self._step)
        # A decoder that is not incremental asks again for the steps before.
        if (name, step) not in self._drawn:
            self._drawn[name, step] = distribution.sample()
        return self._drawn[name, step]

    def _draw_steps(self, what: str, name: str, distribution: Distribution, step: int) -> Tensor:
        """Outcomes of the steps that the decoder computes, of which the last is drawn."""
        before = 0 if self._incremental else step
        if distribution.batch_shape[1] != before + 1:
            raise ValueError(
                f"{what} has a distribution of batch shape {list(distribution.batch_shape)} at "
                f"decoder step {step}, where [batch, {before + 1}] was expected: the axis after "
                "the batch is time; if it is not, use causal=False or "
                "torch.distributions.Independent(distribution, 1)"
            )
        drawn = self.by_step.setdefault(name, [])
        drawn.append(distribution.sample()[:, before:])
        return torch.cat(drawn, dim=1) if before else drawn[-1]

    def _decoder_step(self, what: str, step: int, current: int) -> int:
        """The step counted from the output's start; an incremental decoder may count from 0."""
        fits = step in (0, current) if self._incremental else step <= current
        if not fits:
            raise ValueError(
                f"{what} was asked for while the decoder was at step {current}: number the "
                "steps from 0, or from the first that this call of the decoder computes"
            )
        return current if self._incremental else step


class ReplayingGraph(StochasticGraph):
    """A graph in which layers take the outcomes that they had while the outputs were decoded.

    Args:
        draws: what was drawn; estimators, samples and update are taken from there.
        steps: ``[batch]``, how many steps of each output exist.  Later ones have no score term.
    """

    def __init__(self, draws: StepwiseDraws, steps: Tensor) -> None:
        super().__init__(
            estimators=draws.estimators,
            default_estimator=draws.default_estimator,
            samples=draws.samples,
            update=draws.update,
            values=draws.values,
        )
        self._draws = draws
        self._steps = steps

    def record(self, request: SampleRequest) -> Tensor:
        """As :meth:`StochasticGraph.record`.

        Raises:
            ValueError: also if the node has a random value that was not drawn while decoding.
        """
        value = super().record(replace(request, mask=self._mask(request)))
        key = (request.name, request.step)
        node = self.nodes[key]
        replayed = request.value is not None or key in self._draws.values
        if not replayed and not isinstance(node.estimator, (Expectation, Mode)):
            raise ValueError(
                f"{node} was not drawn when the outputs were decoded, so these do not depend on "
                "it: draw it in the encoder's or the decoder's forward"
            )
        return value

    def _mask(self, request: SampleRequest) -> Tensor | None:
        """The layer's mask, without the steps past the end of the output."""
        name, step, mask = request.name, request.step, request.mask
        if step is not None and (name, step) in self._draws.values:
            exists = self._steps > step
        elif name in self._draws.by_step:
            length = self._draws.values[name, None].size(1)
            steps = torch.arange(length, device=self._steps.device)
            exists = steps < self._steps.unsqueeze(1)
        else:
            return mask
        if mask is None:
            return exists
        return mask & exists.reshape(exists.shape + (1,) * (mask.dim() - exists.dim()))


def active_draws() -> StepwiseDraws | None:
    """The draws of the decoding pass that runs in this thread, or None."""
    recorder = recorder_for_layer()
    return recorder if isinstance(recorder, StepwiseDraws) else None
