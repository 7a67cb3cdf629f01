"""The call that a stochastic layer makes in ``forward``, and the recorder that answers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from criterions.stochastic_graph.distributions import deterministic_value
from criterions.stochastic_graph.estimators import Estimator, ScoreFunction

Own = TypeVar("Own", bound="Recorder")


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """The arguments of :func:`sample`, as a recorder gets them."""

    name: str
    distribution: Distribution
    estimator: Estimator | None = None
    mask: Tensor | None = None
    parents: Iterable[str] | None = None
    step: int | None = None
    causal: bool = True
    value: Tensor | None = None
    baseline_input: Tensor | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class Recorder(ABC):
    """What :func:`sample` asks within ``with recorder:``: a graph, or the draws of decoding.

    ``asked``: whether a layer of a model has asked for anything.

    Args:
        estimators: estimator of a node by the node's name; takes precedence over the layer's.
        default_estimator: for nodes that neither names (default: score function, no baseline).
        samples: how many samples each source has in the batch, ``[sources * samples, ...]``, those
            of a source side by side (``torch.repeat_interleave``).
        update: number of the update, for schedules.

    Raises:
        ValueError: ``samples`` is below 1.
    """

    estimators: Mapping[str, Estimator] | nn.ModuleDict | None = None
    default_estimator: Estimator | None = None
    samples: int = 1
    update: int = 0
    asked: bool = field(default=False, init=False)
    _entered: list[Token[Recorder | None]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1; got {self.samples}")

    def __enter__(self: Own) -> Own:
        self._entered.append(RECORDER.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        RECORDER.reset(self._entered.pop())

    @abstractmethod
    def record(self, request: SampleRequest) -> Tensor:
        """The value that the layer continues with."""

    def estimator_of(self, name: str, asked: Estimator | None = None) -> Estimator:
        """The estimator of node ``name``, whose layer asks for ``asked``."""
        if self.estimators is not None and name in self.estimators:
            return cast(Estimator, self.estimators[name])
        return asked or self.default_estimator or ScoreFunction()


RECORDER: ContextVar[Recorder | None] = ContextVar("stochastic_graph_recorder", default=None)
"""The innermost recorder whose ``with`` block is running in this thread, or None."""

CHECKPOINTING_REMEDY = (
    "leave activation checkpointing (--checkpoint-activations, torch.utils.checkpoint) off, or "
    "move the stochastic layer out of what is checkpointed"
)

# Not public, and absent from torch before 2.0: -1 outside a backward pass.
_running_backward: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: -1)


def recorder_for_layer() -> Recorder | None:
    """:data:`RECORDER`'s value for a layer of a model; the recorder is told that it asked."""
    recorder = RECORDER.get()
    if recorder is not None:
        recorder.asked = True
    return recorder


def estimator_of(name: str, asked: Estimator | None = None) -> Estimator | None:
    """The estimator that :func:`sample` would use for node ``name``; None where it would not draw.

    For layers that need to know beforehand whether a sample is drawn, and how.

    Args:
        name: of the node.
        asked: the estimator that the layer asks for.
    """
    recorder = recorder_for_layer()
    return None if recorder is None else recorder.estimator_of(name, asked)


def sample(
    name: str,
    distribution: Distribution,
    *,
    estimator: Estimator | None = None,
    mask: Tensor | None = None,
    parents: Iterable[str] | None = None,
    step: int | None = None,
    causal: bool = True,
    value: Tensor | None = None,
    baseline_input: Tensor | None = None,
) -> Tensor:
    """Sample a stochastic layer, recorded as a node of the active graph.

    For use inside a model's ``forward``.  Within ``with StochasticGraph() as graph:`` the value
    is drawn by the node's estimator and recorded; within ``with StepwiseDraws():`` (decoding) it
    is drawn and kept for the scoring pass.  Elsewhere (evaluation, generation) it is ``value`` if
    that is given, else :func:`deterministic_value` of the distribution.

    Args:
        name: of the node; used once, or once for each ``step``.
        distribution: of batch shape ``[batch]`` or ``[batch, time]`` (``batch`` includes the
            samples of each source), after axes of enumerated ancestors.  Further axes hold
            independent parts of one outcome.  A latent vector is ``Independent(Normal(m, s), 1)``.
        estimator: what the layer asks for; the graph's ``estimators`` take precedence.
        mask: boolean, of the batch shape, True where the node exists.  Other positions have no
            score term.
        parents: names of the stochastic nodes that it may depend on (default: all so far).
        step: decoder step, if the model records the node step by step, with distributions
            ``[batch]``.
        causal: whether the axis after the batch is the costs' time, so that position t is
            credited with costs from step t on only.  False: every position is credited with all
            costs (positions of a source sentence, for example).
        value: outcome to take instead of drawing one.
        baseline_input: what the baseline is computed from, see its class.

    Returns:
        a tensor of the shape of one sample of ``distribution``; an enumerated node: all values,
        ``[values, *that]``.

    Raises:
        ValueError: the name was used, a parent is unknown, or distribution, estimator and shapes
            do not fit.
        RuntimeError: the surrogate was already asked for, or activation checkpointing runs the
            layer a second time or without gradient.
    """
    if _running_backward() != -1:
        # The second run would draw again, or take the deterministic value.
        raise RuntimeError(
            f"node {name!r} is asked for in the backward pass, where its layer is computed a "
            f"second time: {CHECKPOINTING_REMEDY}"
        )
    recorder = recorder_for_layer()
    if recorder is None:
        return deterministic_value(distribution) if value is None else value
    return recorder.record(
        SampleRequest(
            name, distribution, estimator, mask, parents, step, causal, value, baseline_input
        )
    )
