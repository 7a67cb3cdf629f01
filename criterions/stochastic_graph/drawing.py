"""Draw a model's layers while it decodes step by step, then replay them in one pass.

A cost of decoded outputs depends on the stochastic layers twice: through the tokens, which were
drawn given the layers' outcomes, and in the pass that computes the log-probabilities.  The estimate
is that of one model only if the outcomes are the same in both (Schulman et al. 2015, section 2:
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

from collections.abc import Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from criterions.stochastic_graph.active import ACTIVE, DRAWING
from criterions.stochastic_graph.estimators import Estimator, Expectation, Mode, ScoreFunction
from criterions.stochastic_graph.graph import StochasticGraph
from criterions.stochastic_graph.nodes import NodeKey, describe


class NotReplayableError(ValueError):
    """The node's estimator has no outcome that could be drawn first and replayed afterwards."""


class SharedDrawError(ValueError):
    """The node would be drawn once for several samples of a source."""


class UnexpectedDrawError(RuntimeError):
    """A node has an outcome to draw where none was to be drawn."""


class StepwiseDraws:
    """Takes a graph's place while a model decodes: layers draw, and the outcomes are kept.

    A node keeps what its estimator would make of it in the graph: an outcome is drawn for
    ``score_function``, ``none`` and ``straight_through``; ``expectation`` and ``mode`` give their
    value.  Others, whose value is noise and no outcome, are refused.

    Within ``with draws:``, the model first runs what it runs once (its encoder).  A node drawn
    there, or one without steps in the decoder, is drawn at the first call and keeps its outcome.
    After :meth:`at_step` a node with a time axis, ``[rows, time, ...]``, or with ``step=`` is drawn
    for the step that is decoded.

    Args:
        estimators: as of :class:`StochasticGraph`.
        default_estimator: likewise.
        samples: how many samples a source has among the rows, side by side.
        update: number of the update, for schedules.
        may_draw: False for a model whose layers all take their deterministic value.  Nothing is
            kept then, :meth:`at_step` need not be called, and rows may come and go.
    """

    def __init__(
        self,
        *,
        estimators: Mapping[str, Estimator] | nn.ModuleDict | None = None,
        default_estimator: Estimator | None = None,
        samples: int = 1,
        update: int = 0,
        may_draw: bool = True,
    ) -> None:
        self.estimators: dict[str, Any] = dict(estimators.items()) if estimators else {}
        self.default_estimator = ScoreFunction() if default_estimator is None else default_estimator
        self.samples = samples
        self.update = update
        self.may_draw = may_draw
        self._once: dict[NodeKey, Tensor] = {}
        self._steps: dict[NodeKey, Tensor] = {}
        self._columns: dict[str, list[Tensor]] = {}
        self._step: int | None = None
        self._incremental = True
        self._entered: list[tuple[Token[Any], Token[Any]]] = []

    def __enter__(self) -> StepwiseDraws:
        self._entered.append((ACTIVE.set(None), DRAWING.set(self)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        active, drawing = self._entered.pop()
        ACTIVE.reset(active)
        DRAWING.reset(drawing)

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
        """The outcomes, for ``StochasticGraph(values=...)``: of all steps, ``[rows, time, ...]``.

        A node with ``step=`` has one for each ``(name, step)``.
        """
        values: dict[str | NodeKey, Tensor] = {}
        for name, drawn in self._columns.items():
            values[name, None] = torch.cat(drawn, dim=1)
        for key, outcome in [*self._once.items(), *self._steps.items()]:
            values[key] = outcome
        return values

    def estimator_of(self, name: str, asked: Estimator | None = None) -> Estimator:
        """As :meth:`StochasticGraph.estimator_of`."""
        default = self.default_estimator if asked is None else asked
        chosen: Estimator = self.estimators.get(name, default)
        return chosen

    def step_of(self, name: str, step: int | None) -> int | None:
        """The one step that a drawn node stands for; None: all of them, or none at all."""
        return step if (name, step) in self._steps else None

    def has_steps(self, name: str) -> bool:
        """Whether a node was drawn for every step, on an axis of its own."""
        return name in self._columns

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
        """Draw what the layer goes on with; arguments as of :meth:`StochasticGraph.sample`.

        Raises:
            NotReplayableError: there is no outcome that the graph could replay.
            SharedDrawError: samples of a source would share the outcome.
            UnexpectedDrawError: there is an outcome to draw, but ``may_draw`` is False.
            ValueError: the law does not have the axes, or the node the number, of the step that is
                decoded.
        """
        if value is not None:
            return value
        chosen = self.estimator_of(name, estimator)
        what = describe("node", name, step)
        if isinstance(chosen, (Expectation, Mode)):
            return chosen.draw(law, update=self.update).value
        if not chosen.replays:
            raise NotReplayableError(
                f"{what}: the outputs are decoded before the pass that scores them, and "
                f"{type(chosen).__name__} has no outcome that this pass could replay: use "
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
            return self._drawn_once((name, step), law)
        if step is not None:
            return self._drawn_at((name, self._numbered(what, step)), law)
        if causal and len(law.batch_shape) > 1:
            return self._drawn_column(what, name, law)
        return self._drawn_once((name, None), law)

    def _drawn_once(self, key: NodeKey, law: Distribution) -> Tensor:
        if key not in self._once:
            self._once[key] = law.sample()
        return self._once[key]

    def _drawn_at(self, key: NodeKey, law: Distribution) -> Tensor:
        # A decoder that is not incremental comes here again for the steps before.
        if key not in self._steps:
            self._steps[key] = law.sample()
        return self._steps[key]

    def _drawn_column(self, what: str, name: str, law: Distribution) -> Tensor:
        assert self._step is not None
        before = 0 if self._incremental else self._step
        if law.batch_shape[1] != before + 1:
            raise ValueError(
                f"{what} has a law of batch shape {list(law.batch_shape)} at decoder step "
                f"{self._step}, where [rows, {before + 1}] was expected: the axis after the rows "
                "is time; if it is not, use causal=False or torch.distributions.Independent(law, 1)"
            )
        drawn = self._columns.setdefault(name, [])
        drawn.append(law.sample()[:, before:])
        return torch.cat(drawn, dim=1) if before else drawn[-1]

    def _numbered(self, what: str, step: int) -> int:
        """The step among all, of which an incremental decoder's loop sees one at a time."""
        assert self._step is not None
        fits = step in (0, self._step) if self._incremental else step <= self._step
        if not fits:
            raise ValueError(
                f"{what} was asked for while the decoder was at step {self._step}: number the "
                "steps from 0, or from the first that this call of the decoder computes"
            )
        return self._step if self._incremental else step


class ReplayingGraph(StochasticGraph):
    """A graph in which layers take the outcomes that they had while the outputs were decoded.

    Args:
        draws: what was drawn; estimators, samples and update are taken from there.
        steps: ``[rows]``, how many steps of each row exist.  Later ones have no score term.
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
        """As :meth:`StochasticGraph.sample`.

        Raises:
            ValueError: also if the node has a random value that was not drawn while decoding.
        """
        outcome = super().sample(
            name,
            law,
            estimator=estimator,
            mask=self._mask(name, step, mask),
            parents=parents,
            step=step,
            causal=causal,
            value=value,
            baseline_input=baseline_input,
        )
        node = self.nodes[name, step]
        if (
            value is None
            and (name, step) not in self._values
            and not isinstance(node.estimator, (Expectation, Mode))
        ):
            raise ValueError(
                f"{node} was not drawn when the outputs were decoded, so these do not depend on "
                "it: draw it in the encoder's or the decoder's forward"
            )
        return outcome

    def _mask(self, name: str, step: int | None, mask: Tensor | None) -> Tensor | None:
        """The layer's mask, without the steps past the end of the output."""
        at = self._draws.step_of(name, step)
        if at is not None:
            exists = self._steps > at
        elif self._draws.has_steps(name):
            columns = torch.arange(self._values[name, None].size(1), device=self._steps.device)
            exists = columns < self._steps.unsqueeze(1)
        else:
            return mask
        if mask is None:
            return exists
        return mask & exists.reshape(exists.shape + (1,) * (mask.dim() - exists.dim()))
