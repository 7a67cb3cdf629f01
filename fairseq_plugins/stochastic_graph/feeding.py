"""What the decoder is fed, and the rows that it answers with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions.stochastic_graph import (
    Estimator,
    OneHotLaw,
    Schedule,
    StepwiseDraws,
    StochasticGraph,
)
from fairseq_plugins.decoding import (
    DecodedTokens,
    ForcedTokens,
    Sampling,
    decode,
    decode_limits,
    evaluation_mode,
)
from fairseq_plugins.model_pass import model_pass
from fairseq_plugins.relaxed_feeding import two_pass_logits, unrolled_logits
from fairseq_plugins.stochastic_graph.batch import Batch
from fairseq_plugins.stochastic_graph.estimators import FED
from fairseq_plugins.stochastic_graph.layers import (
    decoder_runs_once,
    flags_in_errors,
    unchanged_random_state,
)
from fairseq_plugins.stochastic_graph.plan import Plan, columns_of
from fairseq_plugins.stochastic_graph.settings import Settings


@dataclass(frozen=True)
class Feeding:
    """How one criterion feeds the decoder.

    ``settings``: the objective.
    ``teacher_forcing``, ``teacher_prefix``, ``temperature``: its schedules.
    ``relaxed``: estimator of relaxed feeding, or None.
    ``dictionary``: of the target language.
    ``ratio``, ``longest``: limits of an output's tokens, see :func:`decode_limits`.
    ``kept``: tokens of the reference that every output starts with.
    """

    settings: Settings
    teacher_forcing: Schedule
    teacher_prefix: Schedule
    temperature: Schedule
    relaxed: Estimator | None
    dictionary: Dictionary
    ratio: float
    longest: int
    kept: int

    def greedy(self, model: Any, batch: Batch, update: int | None) -> DecodedTokens:
        """The model's most probable tokens, one row for each source."""
        return self._decode(model, batch, self.prefix(batch, update))

    @property
    def decodes(self) -> bool:
        """Whether tokens are decoded before the pass with gradient."""
        return self.settings.feed != "teacher" and not self.settings.relaxed

    @property
    def scored(self) -> bool:
        """Whether the pass with gradient has to give the laws of what was drawn in decoding."""
        settings = self.settings
        return settings.estimator in ("score_function", "candidate_set") or settings.emits_greedily

    def first_step(self, model: Any, batch: Batch, layers: StepwiseDraws) -> None:
        """Decode one step, for what the model's layers do in it."""
        tokens = batch.prev_output_tokens
        with unchanged_random_state(tokens.device), flags_in_errors():
            decode(
                model,
                batch.net_input,
                torch.ones_like(tokens[:, 0]),
                eos=self.dictionary.eos(),
                pad=self.dictionary.pad(),
                samples=batch.samples,
                layers=layers,
            )

    def plan(
        self, model: Any, batch: Batch, update: int, layers: StepwiseDraws | None = None
    ) -> Plan | None:
        """Decode what will be fed; None where that is known beforehand, or only in the pass.

        Args:
            model: in training mode.
            batch: with a row for each sample.
            update: number of the update, for schedules.
            layers: within which to decode; see :func:`decode`.
        """
        settings = self.settings
        if not self.decodes:
            return None
        teacher = self._teacher_columns(batch, update)
        sampling = None
        if settings.feed == "sample":
            sampling = Sampling(
                settings.sample_temperature, settings.sample_topk, settings.sample_topp
            )
        decoded = self._decode(
            model,
            batch,
            teacher,
            sampling=sampling,
            dropout=settings.sample_dropout == "both",
            # A cost for each token of the reference needs a row for each.
            as_long_as_reference=settings.cost == "cross_entropy",
            layers=layers,
        )
        tokens = decoded.tokens
        free = columns_of(tokens) < decoded.emitted.unsqueeze(1)
        both = min(tokens.size(1), teacher.size(1))
        free[:, :both] &= ~teacher[:, :both]
        fed = torch.cat([batch.prev_output_tokens[:, :1], tokens[:, :-1]], dim=1)
        return Plan(fed, tokens, free, decoded.emitted, decoded.lengths)

    @contextmanager
    def mode(self, model: Any) -> Iterator[None]:
        """The mode of the pass with gradient: the law of the samples, where that is claimed."""
        if self.scored and self.settings.sample_dropout == "off":
            with evaluation_mode(model, keep_recurrent=True):
                yield
        else:
            yield

    def rows(
        self,
        model: Any,
        batch: Batch,
        plan: Plan | None,
        graph: StochasticGraph,
        *,
        features: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The pass with gradient; relaxed tokens are recorded in the graph.

        Returns:
            logits ``[rows, length, vocab]``; if asked for, the states that they were computed
            from, ``[rows, length, channels]``.
        """
        if not self.settings.relaxed:
            fed = batch.prev_output_tokens if plan is None else plan.fed
            done = model_pass(model, batch.net_input, fed, samples=batch.samples, features=features)
            return done.logits, done.features

        def feed(logits: Tensor, step: int | None) -> Tensor:
            check_layers()
            # Padding has no embedding, and decoding never emits it.
            allowed = logits.index_fill(-1, self._pad_index(logits), -torch.inf)
            if self.settings.feed == "soft":
                allowed = allowed / self.temperature(graph.update)
            law = OneHotLaw(logits=allowed)
            return graph.sample(FED, law, estimator=self.relaxed, step=step)

        unroll = unrolled_logits if self.settings.unroll == "step_by_step" else two_pass_logits
        teacher = self._teacher_columns(batch, graph.update)
        first = torch.ones_like(teacher[:, :1])
        with decoder_runs_once(model, graph) as check_layers:
            logits = unroll(
                model,
                batch.net_input,
                batch.prev_output_tokens,
                feed=feed,
                teacher_mask=torch.cat([first, teacher[:, :-1]], dim=1),
            )
        return logits, None

    def _pad_index(self, like: Tensor) -> Tensor:
        return torch.full((1,), self.dictionary.pad(), dtype=torch.long, device=like.device)

    def _decode(
        self,
        model: Any,
        batch: Batch,
        forced: Tensor,
        *,
        sampling: Sampling | None = None,
        dropout: bool = False,
        as_long_as_reference: bool = False,
        layers: StepwiseDraws | None = None,
    ) -> DecodedTokens:
        if as_long_as_reference:
            limits = batch.reference.rows
        else:
            # The start symbol, too, takes one of the decoder's positions.
            longest = min(self.longest, model.max_decoder_positions() - 1)
            limits = decode_limits(batch.net_input["src_lengths"], self.ratio, longest)
        # Where no layer draws, decoding may drop rows and share steps as ever.
        drawn = layers if layers is not None and layers.may_draw else None
        within = nullcontext() if layers is drawn else layers
        with flags_in_errors(), within:
            return decode(
                model,
                batch.net_input,
                limits,
                eos=self.dictionary.eos(),
                pad=self.dictionary.pad(),
                sampling=sampling,
                samples=batch.samples,
                forced=ForcedTokens(batch.reference.tokens, forced),
                stop_at_eos=not as_long_as_reference,
                dropout=dropout,
                layers=drawn,
            )

    def prefix(self, batch: Batch, update: int | None) -> Tensor:
        """``[rows, tgt_len]`` bool: the reference's first tokens, that are always fed.

        Args:
            batch: with the references.
            update: number of the update; None outside training, where there is no teacher.
        """
        teacher = 0 if update is None else int(self.teacher_prefix(update))
        columns = columns_of(batch.reference.tokens)
        return batch.exists & (columns < max(self.kept, teacher))

    def _teacher_columns(self, batch: Batch, update: int) -> Tensor:
        """``[rows, tgt_len]`` bool: where the reference's token is fed next, not the model's."""
        forced = self.prefix(batch, update)
        probability = self.teacher_forcing(update)
        if probability > 0:
            drawn = torch.rand(forced.shape, device=forced.device) < probability
            forced = forced | (drawn & batch.exists)
        return forced
