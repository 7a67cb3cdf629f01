"""Expected BLEU of an autoregressive decoder, fed the reference or its own output."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions import BleuStatistics, expected_statistics
from fairseq_plugins.decoding import ForcedTokens, Sampling, decode, decode_limits
from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig
from fairseq_plugins.expected_bleu.scored_batch import AddedLoss, ScoredBatch, check_prefix
from fairseq_plugins.reference import Reference, prefix_columns, reference_of
from fairseq_plugins.target_positions import FedRows, cross_entropy, rows_of


def autoregressive_statistics(
    fed: FedRows,
    reference: Reference,
    dictionary: Dictionary,
    *,
    overlap: str = "exact",
    max_order: int = 4,
    expected_length: bool = True,
    count_eos: bool = True,
) -> BleuStatistics:
    """Expected statistics of BLEU for each sentence, its positions taken as independent.

    Given another token at one position, the decoder would change the distributions after it.

    Args:
        fed, reference: the decoder's distributions, and what they are compared with.
        dictionary: of the target; its special symbols, but for a counted ``</s>``, never match.
        overlap, max_order: value and orders of :func:`criterions.expected_statistics`.
        expected_length: the probabilities of ``</s>`` end the hypothesis; otherwise it has as many
            tokens as the decoder was fed.
        count_eos: ``</s>`` is a token of hypothesis and reference.
    """
    p_ref = fed.rows.reference_probabilities(reference, dictionary)
    eos_probabilities = fed.rows.log_eos.exp()
    lengths, reference_lengths = fed.number, reference.lengths
    if not expected_length and count_eos:
        is_eos = reference.tokens.eq(dictionary.eos()).unsqueeze(1)
        p_ref = torch.where(is_eos, eos_probabilities.unsqueeze(2), p_ref)
        reference_lengths = reference.rows
    elif not expected_length:
        lengths = fed.words
    return expected_statistics(
        p_ref,
        reference.tokens,
        value=overlap,
        max_order=max_order,
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities if expected_length else None,
        count_eos=reference.rows > reference.lengths if count_eos and expected_length else False,
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
        reference = reference_of(sample, self.dictionary)
        scored = reference.without_prefix(settings.ignore_prefix_size)
        added, logged = [], {}
        if settings.feed == "teacher" or settings.cross_entropy_weight > 0 or not training:
            logits = self._logits(model, sample, sample["net_input"]["prev_output_tokens"])
            rows = rows_of(logits, scored, self.dictionary.eos()).reordered(scored.order)
            smoothed, logged["nll_loss"] = cross_entropy(
                rows, scored, logits.size(-1), settings.label_smoothing
            )
            added.append(AddedLoss(smoothed, sample["ntokens"], settings.cross_entropy_weight))
        if settings.feed == "teacher":
            fed = FedRows(rows, scored.rows, scored.lengths)
        else:
            fed = self._fed_own_output(model, sample, reference, scored, training)
        statistics = autoregressive_statistics(
            fed,
            scored,
            self.dictionary,
            overlap=str(settings.overlap),
            max_order=settings.max_order,
            expected_length=settings.hypothesis_length != "fixed",
            count_eos=settings.sentence_end == "ngram",
        )
        return ScoredBatch(statistics, added, logged)

    @staticmethod
    def _logits(model: Any, sample: dict[str, Any], prev_output_tokens: Tensor) -> Tensor:
        """``[batch, tgt_len, vocab]``, through the wrapped model so that workers stay in step."""
        net_input = {**sample["net_input"], "prev_output_tokens": prev_output_tokens}
        return model(**net_input)[0]

    def _fed_own_output(
        self,
        model: Any,
        sample: dict[str, Any],
        reference: Reference,
        scored: Reference,
        training: bool,
    ) -> FedRows:
        """The decoder's distributions where it reads what it emitted itself."""
        settings, prefix_size = self.settings, self.settings.ignore_prefix_size
        # With padding on the left, the first column is not where every sentence starts.
        start = sample["net_input"]["prev_output_tokens"].gather(1, reference.order[:, :1])
        net_input = {**sample["net_input"], "prev_output_tokens": start}
        prefix = reference.tokens[:, :prefix_size]
        forced = ForcedTokens(prefix, torch.ones_like(prefix, dtype=torch.bool))
        longest = min(settings.max_decode_length, model.max_decoder_positions() - 1)
        limits = decode_limits(net_input["src_lengths"], settings.max_decode_ratio, longest)
        decoded = decode(
            model,
            net_input,
            limits,
            eos=self.dictionary.eos(),
            pad=self.dictionary.pad(),
            sampling=Sampling() if settings.feed == "sample" and training else None,
            forced=forced if prefix_size else None,
        )
        fed = torch.cat([start, decoded.tokens[:, :-1]], dim=1)
        cut = prefix_columns(prefix_size, fed.size(1))
        logits = self._logits(model, sample, fed)[:, cut:]
        return FedRows(
            rows_of(logits, scored, self.dictionary.eos()),
            (decoded.emitted - prefix_size).clamp(min=0),
            (decoded.lengths - prefix_size).clamp(min=0),
        )
