"""Stochastic layers inside the model, where the objective decodes outputs before it scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from criterions.stochastic_graph import (
    Estimator,
    Expectation,
    GreedyDecode,
    Mode,
    NotReplayableError,
    SampleRequest,
    SharedDrawError,
    StepwiseDraws,
    StochasticGraph,
)
from fairseq_plugins.model_pass import replaced_method
from fairseq_plugins.stochastic_graph.estimators import EMITTED, FED

Decode = Callable[[StepwiseDraws], Any]


class DrawnLayers:
    """Lets outputs be decoded under the law of the pass that scores them.

    What layers do in training, they do while outputs are decoded: those that draw, draw, and the
    pass with gradient replays their outcomes; the others have the value that they will have there.

    Args:
        estimator: for layers that ask for none.
    """

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self._exist: bool | None = None

    def draws(self, samples: int, update: int, first_step: Decode) -> StepwiseDraws:
        """Within which to decode; it says whether there are layers that draw.

        Args:
            samples: of each source.
            update: number of the update.
            first_step: decodes one step; called once, to see whether a layer draws.  Leaves the
                random number generators as they were.
        """
        if self._exist is None:
            found = self._new(samples, update, may_draw=True)
            first_step(found)
            self._exist = bool(found.values)
        return self._new(samples, update, may_draw=self._exist)

    def expect(self) -> None:
        """From now on there are layers that draw."""
        self._exist = True

    def appeared(self, graph: StochasticGraph) -> bool:
        """Whether a layer draws all the same, so that the outputs have to be decoded again."""
        if not self._exist:
            self._exist = bool(drawn_layers_of(graph))
            return self._exist
        return False

    def _new(self, samples: int, update: int, *, may_draw: bool) -> StepwiseDraws:
        return StepwiseDraws(
            default_estimator=self._estimator, samples=samples, update=update, may_draw=may_draw
        )


def layers_of(graph: StochasticGraph) -> list[Any]:
    """The nodes that the model recorded, and not the criterion."""
    return [node for node in graph.nodes.values() if node.name not in (EMITTED, FED)]


def drawn_layers_of(graph: StochasticGraph) -> list[Any]:
    """Those of them that draw."""
    return [n for n in layers_of(graph) if not isinstance(n.estimator, (Expectation, Mode))]


@contextmanager
def flags_in_errors() -> Iterator[None]:
    """Name the flags where a layer does not go with decoded outputs."""
    try:
        yield
    except NotReplayableError as error:
        raise ValueError(f"--layer-estimator, or the layer's own estimator: {error}") from error
    except SharedDrawError as error:
        raise ValueError(f"{error} (--samples 1)") from error


@contextmanager
def unchanged_random_state(device: torch.device) -> Iterator[None]:
    """Let what is drawn here leave no trace in what is drawn later."""
    with torch.random.fork_rng([device.index] if device.type == "cuda" else []):
        yield


def check_candidates(graph: StochasticGraph) -> None:
    """Raise ``ValueError`` for layers with a score term under a loss over a set of candidates.

    A layer's outcome for one candidate has part in the loss of the whole set, which is the cost of
    each of its rows: every score term would be too small by the size of the set.
    """
    for node in layers_of(graph):
        if node.log_prob is not None:
            raise ValueError(
                f"--estimator candidate_set does not go with the score function of {node}: use "
                "--layer-estimator straight_through, none, expectation or mode, or --estimator "
                "score_function"
            )


@contextmanager
def encoder_draws_nothing(model: Any, graph: StochasticGraph, samples: int) -> Iterator[None]:
    """For a while, refuse layers in the encoder if several samples share its output."""
    if samples == 1:
        yield
        return

    def refuse(request: SampleRequest) -> None:
        raise ValueError(
            f"--samples {samples} does not go with node {request.name!r} in the encoder, whose "
            "output the samples of a source share: use --samples 1"
        )

    with ExitStack() as stack:
        encoding = stack.enter_context(ExitStack())
        handles = [
            model.encoder.register_forward_pre_hook(
                lambda module, arguments: encoding.enter_context(
                    replaced_method(graph, "record", refuse)
                )
            ),
            model.encoder.register_forward_hook(lambda module, arguments, output: encoding.close()),
        ]
        for handle in handles:
            stack.callback(handle.remove)
        yield


def check_something_drawn(graph: StochasticGraph, samples: int) -> None:
    """Raise ``ValueError`` for several samples where all of a source are the same."""
    if samples > 1 and not drawn_layers_of(graph):
        raise ValueError(
            f"--samples {samples} does not go with --feed teacher here: the model has no layer "
            "that draws, so that the samples of a source would be the same; use --samples 1"
        )


def check_layers_have_scores(graph: StochasticGraph) -> None:
    """Raise ``ValueError`` where greedy outputs are rewarded and no layer would learn from it."""
    layers = layers_of(graph)
    if any(node.log_prob is not None for node in layers):
        return
    found = ", ".join(sorted({node.name for node in layers}))
    raise ValueError(
        "--emit greedy trains the stochastic layers of the model, by the score function: the most "
        "probable tokens themselves are no random choice and have no gradient.  "
        + (
            f"Of its layers ({found}) none has that estimator: use --layer-estimator score_function"
            if found
            else "This model has no layer that draws: use one that has (--arch actor_transformer "
            "or actor_lstm with --actor gaussian, or one of your own), or --emit sample --feed "
            "sample"
        )
    )


def set_greedy_baselines(graph: StochasticGraph, cost: Tensor) -> None:
    """Give the cost of the greedy output to all nodes that compare themselves with it.

    Args:
        graph: with its nodes recorded.
        cost: ``[batch]``.
    """
    for node in graph.nodes.values():
        if isinstance(getattr(node.estimator, "baseline", None), GreedyDecode):
            graph.set_baseline_input(node.name, cost, node.step)


def check_not_enumerated(cost: str, logits: Tensor) -> None:
    """Raise ``ValueError`` for ``[values, rows, length, vocab]`` where the cost takes no values."""
    if logits.dim() != 3:
        raise ValueError(
            f"--cost {cost} does not go with --layer-estimator enumeration (the decoder's logits "
            f"have shape {list(logits.shape)}): use --cost cross_entropy, or another estimator"
        )


@contextmanager
def decoder_runs_once(model: Any, graph: StochasticGraph) -> Iterator[Callable[[], None]]:
    """For a while, give a check that no layer of the decoder was recorded.

    Relaxed feeding runs the decoder several times over in one graph.  Layers of the encoder, which
    runs once, are let through.
    """
    before: list[int] = []
    handle = model.decoder.register_forward_pre_hook(
        lambda module, arguments: before.append(len(layers_of(graph)))
    )

    def check() -> None:
        layers = layers_of(graph)
        if before and len(layers) > before[0]:
            raise ValueError(
                f"{layers[before[0]]} is in the decoder, which relaxed feeding (--feed soft, "
                "gumbel, gumbel_st, straight_through) runs once for every token: use --feed "
                "teacher, greedy or sample"
            )

    try:
        yield check
    finally:
        handle.remove()
