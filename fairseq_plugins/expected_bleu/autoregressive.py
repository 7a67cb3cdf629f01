"""Expected BLEU of an autoregressive decoder's rows, given the reference or its own output."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions import BleuStatistics, expected_statistics
from fairseq_plugins.decoding import ForcedTokens, Sampling, decode, decode_limits
from fairseq_plugins.expected_bleu.config import Settings
from fairseq_plugins.expected_bleu.scored_batch import AddedLoss, ScoredBatch
from fairseq_plugins.rows import (
    FedRows,
    Reference,
    cross_entropy,
    prefix_columns,
    reference_of,
    rows_of,
)


class AutoregressiveScores:
    """Statistics and cross-entropy of a batch.

    The rows are taken as independent: given another token at position ``i``, the decoder would
    change the rows after it.

    Args:
        settings: the criterion's.
        dictionary: of the target.
    """

    def __init__(self, settings: Settings, dictionary: Dictionary) -> None:
        self.settings, self.dictionary = settings, dictionary

    def __call__(self, model: Any, sample: dict[str, Any], *, training: bool) -> ScoredBatch:
        """Score one batch.

        Args:
            model: a fairseq encoder-decoder model, possibly wrapped for data parallelism.
            sample: a batch of a translation task.
            training: whether prefixes may be sampled, and the cross-entropy left out where its
                weight is 0.

        Returns:
            the statistics, the cross-entropy, and ``nll_loss`` to be logged.
        """
        settings = self.settings
        reference = reference_of(sample, self.dictionary)
        scored = reference.without_prefix(settings.ignore_prefix_size)
        teacher_rows = None
        added, logged = [], {}
        if settings.feed == "teacher" or settings.cross_entropy_weight > 0 or not training:
            logits = self._logits(model, sample, sample["net_input"]["prev_output_tokens"])
            teacher_rows = rows_of(logits, scored, self.dictionary.eos()).reordered(scored.order)
            smoothed, logged["nll_loss"] = cross_entropy(
                teacher_rows, scored, logits.size(-1), settings.label_smoothing
            )
            weight = settings.cross_entropy_weight
            added.append(AddedLoss(smoothed, sample["ntokens"], weight))
        if settings.feed == "teacher":
            fed = FedRows(teacher_rows, scored.rows, scored.lengths)
        else:
            fed = self._free_running_rows(model, sample, reference, scored, training)
        return ScoredBatch(self._statistics(fed, scored), added, logged)

    @staticmethod
    def _logits(model: Any, sample: dict[str, Any], prev_output_tokens: Tensor) -> Tensor:
        """``[batch, tgt_len, vocab]``, through the wrapped model so that workers stay in step."""
        net_input = {**sample["net_input"], "prev_output_tokens": prev_output_tokens}
        return model(**net_input)[0]

    def _free_running_rows(
        self,
        model: Any,
        sample: dict[str, Any],
        reference: Reference,
        scored: Reference,
        training: bool,
    ) -> FedRows:
        """Rows given the model's own output."""
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

    def _statistics(self, fed: FedRows, scored: Reference) -> BleuStatistics:
        """Expected statistics of each sentence; ``scored`` is the reference without its prefix."""
        expected_length = self.settings.hypothesis_length != "fixed"
        return expected_statistics(
            fed.rows.reference_probabilities(scored, self.dictionary),
            scored.tokens,
            value=self.settings.overlap,
            max_order=self.settings.max_order,
            lengths=fed.number if expected_length else fed.words,
            reference_lengths=scored.lengths,
            eos_probabilities=fed.rows.log_eos.exp() if expected_length else None,
        )
