"""Expected BLEU of an autoregressive decoder, fed the reference or its own output."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions import BleuStatistics, expected_statistics, token_log_probabilities
from criterions.token_categorical import label_smoothed
from fairseq_plugins.batch import Batch, Reference, is_special
from fairseq_plugins.decoding import Sampling, decode_batch
from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig
from fairseq_plugins.expected_bleu.scored_batch import AddedLoss, ScoredBatch, check_prefix


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
        ends = torch.full_like(reference.tokens[:, :1], eos)
        picked = token_log_probabilities(logits, torch.cat([ends, reference.tokens], dim=1))
        return cls(picked.selected[..., 1:], picked.selected[..., 0], picked.mean)


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
        if settings.feed == "teacher" or settings.cross_entropy_weight > 0 or not training:
            log_probs, vocabulary_size = self._log_probs(model, batch, batch.prev_output_tokens)
            outside = ~batch.after_prefix(batch.counts)
            log_target = log_probs.reference.diagonal(dim1=1, dim2=2)
            logged["nll_loss"] = -log_target.masked_fill(outside, 0).sum()
            uniform = -log_probs.mean.masked_fill(outside, 0).sum()
            smoothed = label_smoothed(
                logged["nll_loss"], uniform, settings.label_smoothing, vocabulary_size
            )
            added.append(AddedLoss(smoothed, sample["ntokens"], settings.cross_entropy_weight))
        if settings.feed != "teacher":
            fed, num_tokens, lengths = self._own_output(model, batch, training)
            log_probs, _ = self._log_probs(model, batch, fed)
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

    def _log_probs(self, model: Any, batch: Batch, fed: Tensor) -> tuple[PositionLogProbs, int]:
        """Of the decoder that is fed ``[batch, length]``, and the vocabulary's size.

        Through the wrapped model, so that workers stay in step.
        """
        logits = model(**{**batch.net_input, "prev_output_tokens": fed})[0]
        picked = batch.after_prefix(logits), batch.scored, self.dictionary.eos()
        return PositionLogProbs.of(*picked), logits.size(-1)

    def _own_output(
        self, model: Any, batch: Batch, training: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the decoder emits, as its input ``[batch, length]``, and of it, ``[batch]`` each,
        the tokens after the ignored prefix with and without ``</s>``."""
        samples = self.settings.feed == "sample" and training
        decoded = decode_batch(
            model,
            batch,
            self.dictionary,
            self.settings,
            forced=batch.first_tokens(batch.prefix_size) if batch.prefix_size else None,
            sampling=Sampling() if samples else None,
        )
        sizes = (batch.size_after_prefix(size) for size in (decoded.emitted, decoded.lengths))
        return batch.fed_for(decoded.tokens), *sizes
