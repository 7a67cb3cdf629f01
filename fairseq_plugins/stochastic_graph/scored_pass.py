"""The pass with gradient: the model on a rollout's input, its stochastic layers in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions.stochastic_graph import (
    Expectation,
    Mode,
    ReplayingGraph,
    SampleRequest,
    Schedule,
    StochasticGraph,
    StochasticNode,
    UncheckedOneHotCategorical,
)
from fairseq_plugins.decoding import evaluation_mode
from fairseq_plugins.model_pass import model_pass
from fairseq_plugins.reference_prefix import given_reference
from fairseq_plugins.relaxed_feeding import two_pass_logits, unrolled_logits
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.estimators import EMITTED, FED, CriterionEstimators
from fairseq_plugins.stochastic_graph.rollout import Rollout


@dataclass(frozen=True)
class ScoredPass:
    """What the pass gives.

    ``graph``: with the nodes of the model's layers, and of relaxed tokens; still without costs.
    ``logits``: ``[rows, length, vocab]``, after axes of enumerated layers if any.
    ``states``: ``[rows, length, channels]``, what a learned baseline reads; else None.
    """

    graph: StochasticGraph
    logits: Tensor
    states: Tensor | None

    @property
    def layers(self) -> list[StochasticNode]:
        """The nodes that the model recorded, and not the criterion."""
        return layers_of(self.graph)


@dataclass(frozen=True)
class ScoredPasses:
    """Runs the model with gradient as one criterion asks for it.

    ``settings``: the objective.
    ``estimators``: of all nodes.
    ``temperature``: of soft feeding, by update.
    ``dictionary``: of the target language.
    """

    settings: Settings
    estimators: CriterionEstimators
    temperature: Schedule
    dictionary: Dictionary

    def of(self, model: Any, rollout: Rollout, update: int) -> ScoredPass:
        """Run the model on a rollout.

        Args:
            model: in training mode.
            rollout: its layers' outcomes are replayed.
            update: its number, for schedules.

        Raises:
            ValueError: a layer does not go with the samples, or the states do not fit.
        """
        settings, batch = self.settings, rollout.batch
        graph = self._graph(rollout, update)
        states = None
        with graph, self._mode(model), given_reference(batch.prev_output_tokens):
            if settings.relaxed:
                logits = self._relaxed_logits(model, rollout, graph)
            else:
                with _no_layers_in_encoder(model, graph, batch.samples):
                    done = model_pass(
                        model,
                        batch.net_input,
                        rollout.fed,
                        samples=batch.samples,
                        features=settings.baseline == "learned",
                    )
                logits, states = done.logits, done.features
        if states is not None:
            self.estimators.check_state(states)
        tokens_drawn = settings.feed != "teacher" or settings.target == "raml"
        if batch.samples > 1 and not tokens_drawn and settings.cost != "reward":
            _check_something_drawn(graph, batch.samples)
        return ScoredPass(graph, logits, states)

    def _graph(self, rollout: Rollout, update: int) -> StochasticGraph:
        if rollout.draws is not None:
            return ReplayingGraph(rollout.draws, rollout.number)
        layers = self.estimators.layers["cost"]
        samples = rollout.batch.samples
        return StochasticGraph(default_estimator=layers, samples=samples, update=update)

    @contextmanager
    def _mode(self, model: Any) -> Iterator[None]:
        """Without dropout where the estimate is to be unbiased for the model without it."""
        with ExitStack() as stack:
            if self.settings.scores_tokens and self.settings.sample_dropout == "off":
                stack.enter_context(evaluation_mode(model, keep_recurrent=True))
            yield

    def _relaxed_logits(self, model: Any, rollout: Rollout, graph: StochasticGraph) -> Tensor:
        """Logits of a decoder that is fed relaxed tokens, which are recorded in the graph."""
        settings, batch, forced = self.settings, rollout.batch, rollout.forced

        def feed(logits: Tensor, step: int | None) -> Tensor:
            check_layers()
            # Padding has no embedding, and decoding never emits it.
            pad = torch.full((1,), self.dictionary.pad(), dtype=torch.long, device=logits.device)
            allowed = logits.index_fill(-1, pad, -torch.inf)
            if settings.feed == "soft":
                allowed = allowed / self.temperature(graph.update)
            distribution = UncheckedOneHotCategorical(logits=allowed)
            return graph.sample(FED, distribution, estimator=self.estimators.relaxed, step=step)

        unroll = unrolled_logits if settings.unroll == "step_by_step" else two_pass_logits
        with _no_layers_in_decoder(model, graph) as check_layers:
            return unroll(
                model,
                batch.net_input,
                batch.prev_output_tokens,
                feed=feed,
                teacher_mask=torch.cat([torch.ones_like(forced[:, :1]), forced[:, :-1]], dim=1),
            )


def layers_of(graph: StochasticGraph) -> list[StochasticNode]:
    """The nodes that the model recorded, and not the criterion."""
    return [node for node in graph.nodes.values() if node.name not in (EMITTED, FED)]


def _check_something_drawn(graph: StochasticGraph, samples: int) -> None:
    """Raise ``ValueError`` for several samples where all of a source are the same."""
    if all(isinstance(node.estimator, (Expectation, Mode)) for node in layers_of(graph)):
        raise ValueError(
            f"--samples {samples} does not go with --feed teacher here: the model has no layer "
            "that draws, so that the samples of a source would be the same; use --samples 1"
        )


@contextmanager
def _no_layers_in_encoder(model: Any, graph: StochasticGraph, samples: int) -> Iterator[None]:
    """For a while, refuse layers in the encoder if several samples share its output."""
    if samples == 1:
        yield
        return

    def refuse(request: SampleRequest) -> None:
        raise ValueError(
            f"--samples {samples} does not go with node {request.name!r} in the encoder, whose "
            "output the samples of a source share: use --samples 1"
        )

    handles = [
        model.encoder.register_forward_pre_hook(lambda *_: setattr(graph, "record", refuse)),
        model.encoder.register_forward_hook(lambda *_: delattr(graph, "record")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _no_layers_in_decoder(model: Any, graph: StochasticGraph) -> Iterator[Any]:
    """For a while, give a check that no layer of the decoder was recorded.

    Relaxed feeding runs the decoder several times over in one graph.  Layers of the encoder, which
    runs once, are let through.
    """
    before: list[int] = []
    handle = model.decoder.register_forward_pre_hook(
        lambda *_: before.append(len(layers_of(graph)))
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
