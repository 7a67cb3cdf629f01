"""The pass with gradient: the model on a rollout's input, its stochastic layers in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn
from torch.distributions import Distribution

from criterions.stochastic_graph import (
    Expectation,
    Mode,
    ReplayingGraph,
    SampleRequest,
    StochasticGraph,
    StochasticNode,
    UncheckedOneHotCategorical,
    deterministic_value,
)
from criterions.token_categorical import TokenCategorical
from fairseq_plugins.decoding import evaluation_mode
from fairseq_plugins.existing_positions import ExistingPositions, ExistingTokens, decodes_in_pieces
from fairseq_plugins.model_pass import (
    given_reference,
    model_pass,
    recorded_states,
    replaced_method,
)
from fairseq_plugins.relaxed_feeding import two_pass_logits, unrolled_logits
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.node_estimators import EMITTED, FED, CriterionEstimators
from fairseq_plugins.stochastic_graph.rollout import Rollout


@dataclass(frozen=True)
class ScoredPass:
    """What the pass gives.

    ``made_by``: ran it; with the settings, estimators and dictionary.
    ``graph``: with the nodes of the model's layers, and of relaxed tokens; still without costs.
    ``logits``: ``[rows, length, vocab]``, after axes of enumerated layers if any; with
    ``positions`` a list, ``[positions, vocab]`` of each of their pieces.
    ``states``: ``[rows, length, channels]``, what a learned baseline reads; else None.
    ``positions``: those that were computed; None for all.
    """

    made_by: ScoredPasses
    graph: StochasticGraph
    logits: Any
    states: Tensor | None
    positions: ExistingPositions | None = None

    @property
    def layers(self) -> list[StochasticNode]:
        """The nodes that the model recorded, and not the criterion."""
        return [node for node in self.graph.nodes.values() if node.name not in (EMITTED, FED)]

    @cached_property
    def token_distribution(self) -> Distribution:
        """What decoding draws from, for all positions ``[rows, length]``."""
        if (positions := self.positions) is None:
            columns = torch.arange(self.logits.size(-2), device=self.logits.device)
            return self._distribution(self.logits, columns)
        pairs = zip(self.logits, positions.indices, strict=True)
        width = positions.shape[1]
        pieces = [self._distribution(logits, index % width) for logits, index in pairs]
        return ExistingTokens(positions, pieces)

    def _distribution(self, logits: Tensor, columns: Tensor) -> TokenCategorical:
        # Decoding never emits padding, nor </s> at once.
        eos, pad = self.made_by.dictionary.eos(), self.made_by.dictionary.pad()
        excluded = {pad: None, eos: columns.eq(0).expand(logits.shape[:-1])}
        temperature = self.made_by.settings.sample_temperature
        return TokenCategorical(logits, temperature=temperature, excluded=excluded)

    def record_tokens(self, name: str, tokens: Tensor, mask: Tensor) -> None:
        """Add tokens that were drawn, ``[rows, length]``, as nodes where ``mask`` is True."""
        self.graph.sample(
            name,
            self.token_distribution,
            estimator=self.made_by.estimators.token,
            mask=mask,
            value=tokens,
            baseline_input=self.states,
        )


@dataclass(frozen=True)
class ScoredPasses:
    """Runs the model with gradient as one criterion asks for it.

    ``settings``: the objective.
    ``estimators``: of all nodes.
    ``dictionary``: of the target language.
    """

    settings: Settings
    estimators: CriterionEstimators
    dictionary: Dictionary

    def of(
        self,
        model: Any,
        rollout: Rollout,
        update: int,
        *,
        in_pieces: bool = False,
    ) -> ScoredPass:
        """Run the model on a rollout.

        Args:
            model: in training mode.
            rollout: its layers' outcomes are replayed.
            update: its number, for schedules.
            in_pieces: whether no layer asked for a sample while the tokens were decoded, and no
                logits but theirs are asked for: then positions that do not exist are left out,
                where the model allows that.

        Raises:
            ValueError: a layer does not go with the samples, or the states do not fit.
        """
        settings, batch = self.settings, rollout.batch
        if rollout.draws is not None:
            graph: StochasticGraph = ReplayingGraph(rollout.draws, rollout.num_tokens)
        else:
            layers: Any = self.estimators.layers["cost"]
            graph = StochasticGraph(default_estimator=layers, samples=batch.samples, update=update)
        with ExitStack() as stack:
            stack.enter_context(graph)
            stack.enter_context(given_reference(batch.prev_output_tokens))
            if settings.scores_tokens and settings.sample_dropout == "off":
                # The estimate is to be unbiased for the model without dropout.
                stack.enter_context(evaluation_mode(model, keep_recurrent=True))
            if settings.relaxed:
                logits = self._relaxed_logits(model, rollout, graph, update)
                return ScoredPass(self, graph, logits, None)
            positions = states = None
            if in_pieces and decodes_in_pieces(model):
                # With dropout, equal outputs are scored each by itself.
                group = batch.samples if settings.sample_dropout == "off" else 1
                positions = ExistingPositions.of(rollout.tokens, rollout.num_tokens, group)
                # Whoever asks all the same is noticed, and the pass is done again.
                stack.enter_context(replaced_method(graph, "record", _unrecorded))
            elif batch.samples > 1:
                error = (
                    f"--samples {batch.samples} does not go with {{}} in the encoder, whose output "
                    "the samples of a source share: use --samples 1"
                )
                stack.enter_context(_no_layers_in(model.encoder, graph, error))
            if self.estimators.reads_states:
                recorded = stack.enter_context(recorded_states(model.decoder))
            if positions is None:
                logits = model_pass(model, batch.net_input, rollout.fed, batch.samples)
            else:
                logits = positions.logits(model, batch.net_input, rollout.fed)
        if self.estimators.reads_states:
            states = recorded[-1]
            if positions is not None:
                states = positions.spread([piece.flatten(0, 1) for piece in recorded])
            self.estimators.check_states(states)
        scored = ScoredPass(self, graph, logits, states, positions)
        tokens_drawn = settings.feed != "teacher" or settings.target == "raml"
        if batch.samples > 1 and not tokens_drawn and settings.cost != "reward":
            _check_something_drawn(scored, batch.samples)
        return scored

    def _relaxed_logits(
        self, model: Any, rollout: Rollout, graph: StochasticGraph, update: int
    ) -> Tensor:
        """``[rows, tgt_len, vocab]`` of a decoder that is fed relaxed tokens of its own, as nodes.

        Raises:
            ValueError: a layer of the decoder, which runs several times, asks for a sample.
        """
        settings, batch, forced = self.settings, rollout.batch, rollout.forced
        assert forced is not None

        def feed(logits: Tensor, step: int | None) -> Tensor:
            # Padding has no embedding, and decoding never emits it.
            padding = torch.full((1,), self.dictionary.pad(), device=logits.device)
            allowed = logits.index_fill(-1, padding, -torch.inf)
            if settings.feed == "soft":
                allowed = allowed / self.estimators.temperature(update)
            distribution = UncheckedOneHotCategorical(logits=allowed)
            return graph.sample(FED, distribution, estimator=self.estimators.relaxed, step=step)

        unroll = unrolled_logits if settings.unroll == "step_by_step" else two_pass_logits
        error = (
            "{} is in the decoder, which relaxed feeding (--feed soft, gumbel, gumbel_st, "
            "straight_through) runs once for every token: use --feed teacher, greedy or sample"
        )
        with _no_layers_in(model.decoder, graph, error):
            # A token that is forced is fed in the next step.
            fed = {"feed": feed, "teacher_mask": forced.roll(1, dims=1)}
            return unroll(model, batch.net_input, batch.prev_output_tokens, **fed)


def _unrecorded(request: SampleRequest) -> Tensor:
    """A layer's value where it is no node."""
    if request.value is not None:
        return request.value
    return deterministic_value(request.distribution)


def _check_something_drawn(done: ScoredPass, samples: int) -> None:
    """Raise ``ValueError`` for several samples where all of a source are the same."""
    if all(isinstance(node.estimator, (Expectation, Mode)) for node in done.layers):
        raise ValueError(
            f"--samples {samples} does not go with --feed teacher here: the model has no layer "
            "that draws, so that the samples of a source would be the same; use --samples 1"
        )


@contextmanager
def _no_layers_in(module: nn.Module, graph: StochasticGraph, error: str) -> Iterator[None]:
    """For a while, refuse layers in the encoder or the decoder.

    ``error``: of the ``ValueError``, with ``{}`` where the node's name belongs.
    """

    def refuse(request: SampleRequest) -> Tensor:
        if request.name == FED:
            return StochasticGraph.record(graph, request)
        raise ValueError(error.format(f"node {request.name!r}"))

    handles = [
        module.register_forward_pre_hook(lambda *_: setattr(graph, "record", refuse)),
        module.register_forward_hook(lambda *_: delattr(graph, "record")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
