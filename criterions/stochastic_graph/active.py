"""The graph that is being recorded, and the one call that a stochastic layer makes."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from torch import Tensor
from torch.distributions import Distribution

from criterions.stochastic_graph.laws import deterministic_value
from criterions.stochastic_graph.recomputation import check_not_recomputing

if TYPE_CHECKING:
    from criterions.stochastic_graph.drawing import StepwiseDraws
    from criterions.stochastic_graph.estimators import Estimator
    from criterions.stochastic_graph.graph import StochasticGraph

ACTIVE: ContextVar[StochasticGraph | None] = ContextVar("active_stochastic_graph", default=None)
DRAWING: ContextVar[StepwiseDraws | None] = ContextVar("active_stepwise_draws", default=None)


def active_graph() -> StochasticGraph | None:
    """The innermost graph whose ``with`` block is being run in this thread, or None."""
    return ACTIVE.get()


def active_draws() -> StepwiseDraws | None:
    """What layers draw into while outputs are decoded in this thread, or None."""
    return DRAWING.get()


def estimator_of(name: str, asked: Estimator | None = None) -> Estimator | None:
    """The estimator that :func:`sample` would draw with; None where it would draw nothing.

    For layers that have to know beforehand whether a sample is asked for, and of which kind.

    Args:
        name: of the node.
        asked: what the layer asks for.
    """
    recorder = active_graph() or DRAWING.get()
    return None if recorder is None else recorder.estimator_of(name, asked)


def sample(
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
    """A value of ``law``: drawn and recorded in the active graph, deterministic outside one.

    For use inside a model's ``forward``.  Where no graph is active (evaluation, generation) it
    returns ``value`` if that is given, else :func:`deterministic_value` of the law.  While outputs
    are decoded for a graph to come, it is drawn, see :class:`StepwiseDraws`.

    Args:
        name, law, estimator, mask, parents, step, causal, value, baseline_input: as in
            :meth:`StochasticGraph.sample`.

    Returns:
        a tensor of the shape of one sample of ``law`` (an enumerated node: all its values, one
        axis more).

    Raises:
        RuntimeError: activation checkpointing runs the layer a second time.
    """
    check_not_recomputing(name)
    recorder = active_graph() or DRAWING.get()
    if recorder is None:
        return deterministic_value(law) if value is None else value
    return recorder.sample(
        name,
        law,
        estimator=estimator,
        mask=mask,
        parents=parents,
        step=step,
        causal=causal,
        value=value,
        baseline_input=baseline_input,
    )
