"""Expected BLEU of an autoregressive decoder, fed the reference or its own output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from torch import Tensor
from torch.nn import functional

from criterions import BleuStatistics, expected_statistics, token_log_probabilities
from criterions.token_categorical import label_smoothed
from fairseq_plugins.batch import Batch, Reference, is_special, prefix_columns
from fairseq_plugins.decoding import (
    DecodedTokens,
    ForcedTokens,
    Sampling,
    decode,
    decode_limits,
)
from fairseq_plugins.existing_positions import ExistingPositions
from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig
from fairseq_plugins.expected_bleu.scored_batch import AddedLoss, ScoredBatch, check_prefix
from fairseq_plugins.model_pass import decodes_in_pieces, model_pass


class PositionLogProbs(NamedTuple):
    """What the objective reads of the decoder's distributions, float32."""

    reference: Tensor
    """``[batch, positions, tgt_len]``: of each reference token, ``</s>`` included."""
    eos: Tensor
    """``[batch, positions]``: of ``</s>``."""
    mean: Tensor
    """``[batch, positions]``: mean over the vocabulary."""

    @classmethod
    def of(cls, logits: Tensor, reference: Reference, eos: int) -> PositionLogProbs:
        """From ``[batch, positions, vocab]``."""
        selected, mean = token_log_probabilities(logits, _with_end(reference, eos))
        return cls(selected[..., 1:], selected[..., 0], mean)

    @classmethod
    def of_pieces(
        cls,
        logits: Sequence[Tensor],
        positions: ExistingPositions,
        reference: Reference,
        eos: int,
    ) -> PositionLogProbs:
        """From the pieces of a pass over ``batch * n`` rows, the ``n`` of a sentence side by side.

        ``batch`` is that of the result, times ``n``; 0 at positions that do not exist.
        """
        tokens = _with_end(reference, eos)
        inputs = positions.shape[0] // len(tokens)
        picked = [
            token_log_probabilities(some.unflatten(0, (-1, length)), tokens[rows // inputs])
            for some, (rows, length) in zip(logits, positions.pieces, strict=True)
        ]
        selected, mean = (
            positions.spread([values.flatten(0, 1) for values in of_each])
            for of_each in zip(*picked, strict=True)
        )
        return cls(selected[..., 1:], selected[..., 0], mean)

    def part(self, sentences: slice, columns: slice) -> PositionLogProbs:
        """These sentences, and of each these positions."""
        return PositionLogProbs(*(values[sentences, columns] for values in self))


def _with_end(reference: Reference, eos: int) -> Tensor:
    """``[batch, 1 + tgt_len]``: ``</s>``, and the tokens of the reference."""
    return torch.cat([torch.full_like(reference.tokens[:, :1], eos), reference.tokens], dim=1)


def autoregressive_statistics(
    log_probs: PositionLogProbs,
    reference: Reference,
    dictionary: Dictionary,
    *,
    num_tokens: Tensor,
    overlap: str = "exact",
    max_order: int = 4,
    fixed_lengths: Tensor | None = None,
    count_eos: bool = True,
) -> BleuStatistics:
    """Expected statistics of BLEU for each sentence, its positions taken as independent.

    Given another token at one position, the decoder would change the distributions after it.

    Args:
        log_probs: of the positions.
        reference: what they are compared with.
        dictionary: of the target; its special symbols, but for a counted ``</s>``, never match.
        num_tokens: ``[batch]``, positions that exist, the one for ``</s>`` included.
        overlap, max_order: value and orders of :func:`criterions.expected_statistics`.
        fixed_lengths: ``[batch]``, tokens of the hypothesis without ``</s>``; None where the
            probabilities of ``</s>`` decide on its length.
        count_eos: ``</s>`` is a token of hypothesis and reference.
    """
    special = is_special(reference.tokens, dictionary).unsqueeze(1)
    p_ref = log_probs.reference.exp().masked_fill(special, 0)
    eos_probabilities = log_probs.eos.exp()
    lengths: dict[str, Any] = {"lengths": num_tokens, "reference_lengths": reference.lengths}
    if fixed_lengths is None:
        has_eos = reference.num_tokens > reference.lengths
        lengths |= {"eos_probabilities": eos_probabilities, "count_eos": count_eos and has_eos}
    elif count_eos:  # as any other token
        is_eos = reference.tokens.eq(dictionary.eos()).unsqueeze(1)
        p_ref = torch.where(is_eos, eos_probabilities.unsqueeze(2), p_ref)
        lengths["reference_lengths"] = reference.num_tokens
    else:
        lengths["lengths"] = fixed_lengths
    return expected_statistics(
        p_ref, reference.tokens, value=overlap, max_order=max_order, **lengths
    )


class AutoregressiveScores:
    """Expected statistics and cross-entropy of a batch, for the target's dictionary."""

    def __init__(self, settings: ExpectedBleuCriterionConfig, dictionary: Dictionary) -> None:
        self.settings, self.dictionary = settings, dictionary

    def __call__(self, model: Any, sample: dict[str, Any], *, training: bool) -> ScoredBatch:
        """The statistics, the cross-entropy, and ``nll_loss`` to be logged, of one batch.

        Args:
            model: a fairseq encoder-decoder model, possibly wrapped for data parallelism.
            sample: a batch of a translation task.
            training: whether prefixes may be sampled, and the cross-entropy left out where its
                weight is 0.

        Raises:
            ValueError: in training, the ignored prefix is the whole target of each sentence.
        """
        settings = self.settings
        if training:
            check_prefix(settings.ignore_prefix_size, sample["target"].size(1))
        batch = Batch.of(sample, self.dictionary, settings.ignore_prefix_size)
        reference = batch.scored
        num_tokens, lengths = reference.num_tokens, reference.lengths
        added, logged = [], {}
        inputs = []
        adds_cross_entropy = settings.cross_entropy_weight > 0 or not training
        if settings.feed == "teacher" or adds_cross_entropy:
            inputs.append((batch.prev_output_tokens, batch.reference.num_tokens))
        if settings.feed != "teacher":
            decoded = self._own_output(model, batch, training)
            num_tokens = batch.size_after_prefix(decoded.emitted)
            lengths = batch.size_after_prefix(decoded.lengths)
            start = batch.prev_output_tokens[:, :1]
            inputs.append((torch.cat([start, decoded.tokens[:, :-1]], dim=1), decoded.emitted))
        passes, vocabulary_size = self._log_probs(model, batch, inputs)
        log_probs = passes[-1]
        if settings.feed == "teacher" or adds_cross_entropy:
            outside = ~batch.after_prefix(batch.counts)
            log_target = passes[0].reference.diagonal(dim1=1, dim2=2)
            logged["nll_loss"] = -log_target.masked_fill(outside, 0).sum()
            uniform = -passes[0].mean.masked_fill(outside, 0).sum()
            smoothed = label_smoothed(
                logged["nll_loss"], uniform, settings.label_smoothing, vocabulary_size
            )
            added.append(AddedLoss(smoothed, sample["ntokens"], settings.cross_entropy_weight))
        statistics = autoregressive_statistics(
            log_probs,
            reference,
            self.dictionary,
            num_tokens=num_tokens,
            overlap=str(settings.overlap),
            max_order=settings.max_order,
            fixed_lengths=lengths if settings.hypothesis_length == "fixed" else None,
            count_eos=settings.sentence_end == "ngram",
        )
        return ScoredBatch(statistics, added, logged)

    def _log_probs(
        self, model: Any, batch: Batch, inputs: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[list[PositionLogProbs], int]:
        """Of the decoder that is fed each of the inputs, and the vocabulary's size.

        Through the wrapped model, so that workers stay in step; where the model allows it, several
        inputs are one pass with one encoding.

        Args:
            model: a fairseq encoder-decoder model.
            batch: with the references.
            inputs: ``[batch, length]``, with the number of each row's positions ``[batch]``.
        """
        eos, scored = self.dictionary.eos(), batch.scored
        if len(inputs) == 1 or not decodes_in_pieces(model):
            passes = [model_pass(model, batch.net_input, fed).logits for fed, _ in inputs]
            log_probs = [PositionLogProbs.of(batch.after_prefix(x), scored, eos) for x in passes]
            return log_probs, passes[0].size(-1)
        width, pad = max(fed.size(1) for fed, _ in inputs), self.dictionary.pad()
        padded = [functional.pad(x, (0, width - x.size(1)), value=pad) for x, _ in inputs]
        fed = torch.stack(padded, dim=1).flatten(0, 1)
        numbers = torch.stack([number for _, number in inputs], dim=1).flatten()
        positions = ExistingPositions.of(fed, numbers, 1)
        logits = model_pass(
            model, batch.net_input, fed, samples=len(inputs), positions=positions
        ).logits
        joint = PositionLogProbs.of_pieces(logits, positions, scored, eos)
        log_probs = []
        for first, (tokens, _) in enumerate(inputs):
            columns = slice(prefix_columns(batch.prefix_size, tokens.size(1)), tokens.size(1))
            log_probs.append(joint.part(slice(first, None, len(inputs)), columns))
        return log_probs, logits[0].size(-1)

    def _own_output(self, model: Any, batch: Batch, training: bool) -> DecodedTokens:
        """What the decoder emits, the ignored prefix forced."""
        settings, net_input = self.settings, batch.net_input
        prefix = batch.reference.tokens[:, : batch.prefix_size]
        longest = min(settings.max_decode_length, model.max_decoder_positions() - 1)
        return decode(
            model,
            net_input,
            decode_limits(net_input["src_lengths"], settings.max_decode_ratio, longest),
            eos=self.dictionary.eos(),
            pad=self.dictionary.pad(),
            sampling=Sampling() if settings.feed == "sample" and training else None,
            forced=ForcedTokens(prefix, torch.ones_like(prefix, dtype=torch.bool))
            if batch.prefix_size
            else None,
        )
