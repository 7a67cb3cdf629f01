"""Rollouts: what the decoder is fed and what it emits, decided before the pass with gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions.stochastic_graph import (
    NotReplayableError,
    SharedDrawError,
    StepwiseDraws,
    UnexpectedDrawError,
)
from criterions.token_categorical import TokenCategorical
from fairseq_plugins.batch import Batch, columns_of
from fairseq_plugins.decoding import Sampling, decode_batch
from fairseq_plugins.flags import at_least, schedule_of
from fairseq_plugins.rewards import Outputs
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.edited_references import edited
from fairseq_plugins.stochastic_graph.node_estimators import CriterionEstimators


@dataclass(frozen=True)
class Rollout:
    """Input and output of the decoder, ``rows`` as in the batch.

    ``batch``: sources and references, with a row for each sample.
    ``fed``: ``[rows, length]``, the decoder's input.
    ``tokens``: ``[rows, length]``, the token emitted at each position; then padding.
    ``action_mask``: ``[rows, length]`` bool, True where a token exists and is the model's choice.
    ``num_tokens``: ``[rows]``, tokens emitted, ``</s>`` included.
    ``lengths``: ``[rows]``, tokens before ``</s>``.
    ``forced``: ``[rows, tgt_len]`` bool, where the reference's token is taken, not the model's;
    None for nowhere.
    ``draws``: what the model's stochastic layers drew while the tokens were decoded, for the pass
    with gradient to replay; None where that pass scores no decoded tokens, or no layer draws.
    ``right``: ``[batch, tgt_len]``, the probability of each token of the reference after those
    before it, where the baseline is the expected cost; else None.
    """

    batch: Batch
    fed: Tensor
    tokens: Tensor
    action_mask: Tensor
    num_tokens: Tensor
    lengths: Tensor
    forced: Tensor | None
    draws: StepwiseDraws | None = None
    right: Tensor | None = None

    @classmethod
    def of_reference(cls, batch: Batch, forced: Tensor) -> Rollout:
        """The reference, where nothing is decoded before the pass with gradient."""
        reference = batch.reference
        return cls(
            batch,
            fed=batch.prev_output_tokens,
            tokens=reference.tokens,
            action_mask=torch.zeros_like(forced),
            num_tokens=reference.num_tokens,
            lengths=reference.lengths,
            forced=forced,
        )

    @property
    def outputs(self) -> Outputs:
        """What a reward judges: the output without the ignored prefix."""
        batch, reference = self.batch, self.batch.reference
        tokens, lengths = self.tokens, self.lengths
        if batch.prefix_size:
            reference, tokens = batch.scored, batch.after_prefix(tokens)
            lengths = batch.size_after_prefix(lengths)
        return Outputs(
            tokens=tokens,
            lengths=lengths,
            references=reference.tokens[:: batch.samples],
            reference_lengths=reference.lengths[:: batch.samples],
            sources=batch.net_input["src_tokens"],
            samples=batch.samples,
        )

    @torch.no_grad()
    def emitting(
        self, distribution: TokenCategorical, eos: int, pad: int, *, greedy: bool
    ) -> Rollout:
        """Tokens that the pass with gradient emits, of which none is fed.

        An output has as many tokens as the reference, ``</s>`` included, at most.

        Args:
            distribution: of batch shape ``[rows, tgt_len]``.
            eos, pad: indices of ``</s>`` and of padding.
            greedy: take the most probable tokens in place of drawn ones.
        """
        batch = self.batch
        tokens = distribution.mode if greedy else distribution.sample()
        start = batch.reference.tokens[:, : batch.prefix_size]
        tokens = torch.cat([start, tokens[:, start.size(1) :]], dim=1)
        lengths = (tokens.ne(eos) & batch.exists).long().cumprod(1).sum(1)
        num_tokens = torch.minimum(lengths + 1, batch.reference.num_tokens)
        columns = columns_of(tokens)
        exists = columns < num_tokens.unsqueeze(1)
        return replace(
            self,
            tokens=tokens.masked_fill(~exists, pad),
            action_mask=exists & (columns >= batch.prefix_size),
            num_tokens=num_tokens,
            lengths=lengths,
        )


class Rollouts:
    """Makes the rollouts of one criterion.

    Args:
        settings: the objective.
        estimators: those of stochastic layers decide what is drawn while tokens are decoded.
        dictionary: of the target language.
    """

    def __init__(
        self, settings: Settings, estimators: CriterionEstimators, dictionary: Dictionary
    ) -> None:
        self.settings, self.dictionary, self.estimators = settings, dictionary, estimators
        self.teacher_forcing = schedule_of(
            "--teacher-forcing", settings.teacher_forcing, at_least, 0, at_most=1
        )
        self.teacher_prefix = schedule_of("--teacher-prefix", settings.teacher_prefix, at_least, 0)
        drawn = settings.sample_temperature, settings.sample_topk, settings.sample_topp
        sampling = Sampling(*drawn)  # whose values are checked whatever is fed
        self.sampling = sampling if settings.feed == "sample" else None

    def of(self, model: Any, sources: Batch, update: int, *, replay: bool = True) -> Rollout:
        """Decode what ``--feed`` asks for, in training.

        Args:
            model: in training mode.
            sources: the batch, with one row for each source.
            update: number of the update, for schedules.
            replay: whether stochastic layers of the model may draw, for the pass with gradient to
                replay; False for a model that has none.
        """
        settings = self.settings
        batch = sources.repeated(settings.samples)
        if settings.target == "raml":
            kind, temperature = settings.raml_distance, settings.raml_temperature
            batch = edited(batch, self.dictionary, kind=kind, temperature=temperature)
        if settings.feed == "teacher":
            return Rollout.of_reference(batch, batch.exists)
        forced = None
        if settings.forces_tokens or settings.relaxed:
            forced = self.forced_prefix(batch, update)
            if (probability := self.teacher_forcing(update)) > 0:
                drawn = torch.rand(forced.shape, device=forced.device) < probability
                forced = forced | (drawn & batch.exists)
            if settings.relaxed:
                return Rollout.of_reference(batch, forced)
        draws = None
        if replay and settings.scores_tokens:
            draws = StepwiseDraws(
                default_estimator=self.estimators.layers["cost"],
                samples=batch.samples + settings.candidate_reference,
                update=update,
            )
        rollout = self._decoded(
            model,
            batch,
            forced,
            sampling=self.sampling,
            dropout=settings.sample_dropout == "both",
            # A cost for each token of the reference needs a position for each.
            limits=batch.reference.num_tokens if settings.cost == "cross_entropy" else None,
            draws=draws,
        )
        if settings.candidate_reference:
            return _with_references(rollout, sources, self.dictionary.pad())
        return rollout

    def greedy(self, model: Any, sources: Batch, update: int | None) -> Rollout:
        """The most probable tokens, one row for each source, while no layer draws.

        The model may be in any mode; ``update`` as of :meth:`forced_prefix`.
        """
        return self._decoded(model, sources, self.forced_prefix(sources, update))

    def forced_prefix(self, batch: Batch, update: int | None) -> Tensor:
        """``[rows, tgt_len]`` bool: the reference's first tokens, that are always fed.

        ``update`` is its number; None outside training, where there is no teacher.
        """
        teacher = 0 if update is None else int(self.teacher_prefix(update))
        return batch.first_tokens(max(batch.prefix_size, teacher))

    def _decoded(
        self,
        model: Any,
        batch: Batch,
        forced: Tensor | None,
        limits: Tensor | None = None,
        draws: StepwiseDraws | None = None,
        **options: Any,
    ) -> Rollout:
        """What a model emits, as a rollout; ``options`` are those of :func:`decode`.

        ``limits`` are tokens of each sentence, also after its ``</s>``.
        """
        try:
            decoded = decode_batch(
                model,
                batch,
                self.dictionary,
                self.settings,
                forced,
                limits,
                stop_at_eos=limits is None,
                layers=draws,
                **options,
            )
        except NotReplayableError as error:
            raise ValueError(f"--layer-estimator, or the layer's own estimator: {error}") from error
        except SharedDrawError as error:
            raise ValueError(f"{error} (--samples 1)") from error
        except UnexpectedDrawError as error:
            raise ValueError(
                f"{error}: a layer has to draw at the first step that is decoded, or at none"
            ) from error
        tokens, num_tokens = decoded.tokens, decoded.emitted
        action_mask = columns_of(tokens) < num_tokens.unsqueeze(1)
        if forced is not None:
            both = min(tokens.size(1), forced.size(1))
            action_mask[:, :both] &= ~forced[:, :both]
        fed = batch.fed_for(tokens)
        return Rollout(batch, fed, tokens, action_mask, num_tokens, decoded.lengths, forced, draws)


def _with_references(rollout: Rollout, sources: Batch, pad: int) -> Rollout:
    """One more row for each source, after its samples: the reference.

    Args:
        rollout: of the samples.
        sources: the batch, with one row for each source.
        pad: index of padding.

    Raises:
        ValueError: stochastic layers drew, which they did not do for the reference.
    """
    if rollout.draws is not None and rollout.draws.values:
        raise ValueError(
            "--candidate-reference does not go with stochastic layers that draw: the "
            "reference was not decoded, and so has no outcome of theirs"
        )
    reference, fed = sources.reference, sources.prev_output_tokens
    length = max(rollout.fed.size(1), fed.size(1))

    def joined(samples: Tensor, references: Tensor, filling: int = 0) -> Tensor:
        groups = [samples.reshape(len(fed), -1, *samples.shape[1:]), references.unsqueeze(1)]
        if samples.dim() == 2:
            groups = [
                torch.nn.functional.pad(group, (0, length - group.size(2)), value=filling)
                for group in groups
            ]
        return torch.cat(groups, dim=1).flatten(0, 1)

    return replace(
        rollout,
        batch=sources.repeated(rollout.batch.samples + 1),
        fed=joined(rollout.fed, fed, pad),
        tokens=joined(rollout.tokens, reference.tokens, pad),
        action_mask=joined(rollout.action_mask, sources.counts),
        num_tokens=joined(rollout.num_tokens, reference.num_tokens),
        lengths=joined(rollout.lengths, reference.lengths),
    )
