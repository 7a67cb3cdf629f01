"""Expected BLEU of a non-autoregressive decoder's rows, which are independent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask
from torch import Tensor

from criterions import BleuStatistics, expected_statistics
from fairseq_plugins.decoding import decode_limits, evaluation_mode
from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig
from fairseq_plugins.expected_bleu.head_losses import head_loss, masked_sum, smoothed_loss
from fairseq_plugins.expected_bleu.non_autoregressive_checks import (
    WORDS,
    check_non_autoregressive,
    checked_logits,
    checked_words,
)
from fairseq_plugins.expected_bleu.scored_batch import AddedLoss, ScoredBatch
from fairseq_plugins.reference import Reference, prefix_columns, reference_of
from fairseq_plugins.target_positions import Rows, rows_of

_START = 1
"""Tokens before the words: ``<s>``, which the task ``translation_lev`` puts there."""
_ENDS = 2
"""Tokens beside the words: ``<s>`` and ``</s>``."""


class NonAutoregressiveScores:
    """Statistics of a batch, with the losses of ``nat_loss`` beside them.

    The candidate has the words' positions of the reference: as many tokens, so that totals and
    brevity penalty are constants.  A position that the model predicts has the model's
    distribution; one that its input shows (``cmlm_transformer``, ``levenshtein_transformer``) is
    the reference's token for certain.  Given that input the positions are independent, so the
    expected counts are those of the model itself.

    With ``--feed greedy`` the candidate is as long as the model predicts, and nothing of it is
    known, as in ``fairseq-generate`` before the first refinement; the predicted length is a
    constant, too.

    Args:
        settings: the criterion's.
        task: the translation task.

    Raises:
        ValueError: at the first batch, if a flag, the task or the model does not fit.
    """

    def __init__(self, settings: ExpectedBleuCriterionConfig, task: FairseqTask) -> None:
        self.settings, self.dictionary = settings, task.target_dictionary
        self.task_settings = getattr(task, "cfg", None)

    def __call__(self, model: Any, sample: dict[str, Any], *, training: bool) -> ScoredBatch:
        """Score one batch.

        Args:
            model: a fairseq non-autoregressive model, possibly wrapped for data parallelism.
            sample: a batch of the task ``translation_lev``, with ``prev_target``.
            training: makes no difference.

        Returns:
            the statistics; the loss of the words, that of ``<s>`` and ``</s>`` where they are
            predicted, and those of the other heads, as ``nat_loss`` has them; ``nll_loss`` of all
            that the first two are of, and ``NAME_loss`` of every other head, without its factor,
            to be logged.
        """
        check_non_autoregressive(model, sample, self.settings, self.task_settings)
        heads = _heads(model, sample, sample["prev_target"])
        words = checked_words(heads, type(model.decoder).__name__)
        reference = reference_of({"target": words["tgt"]}, self.dictionary)
        predicted = words["mask"].gather(1, reference.order)
        rows = rows_of(words["out"], reference, self.dictionary.eos()).reordered(reference.order)
        negative_log_likelihood = -rows.log_reference.diagonal(dim1=1, dim2=2)
        word_losses = smoothed_loss(negative_log_likelihood, -rows.log_mean, words.get("ls", 0.0))
        is_end = ends_of(reference)
        word_count = predicted.sum()
        factor = words.get("factor", 1.0)
        # No word of the candidate is in the rows of <s> and </s>: BLEU cannot train them.
        added = [
            AddedLoss(masked_sum(word_losses, predicted & which)[0], word_count, weight * factor)
            for which, weight in ((~is_end, self.settings.cross_entropy_weight), (is_end, 1.0))
        ]
        logged = {
            "nll_loss": masked_sum(negative_log_likelihood, predicted)[0],
            "nll_loss_count": word_count,
        }
        for name, head in heads.items():
            if name != WORDS:
                loss, count = head_loss(head)
                added.append(AddedLoss(loss, count, head.get("factor", 1.0)))
                logged[f"{name}_loss"], logged[f"{name}_loss_count"] = loss, count
        if self.settings.feed == "greedy":
            statistics = self._statistics_at_own_length(model, sample, reference)
        else:
            statistics = self._statistics_at_known_length(rows, reference, predicted)
        return ScoredBatch(statistics, added, logged)

    def _statistics_at_known_length(
        self, rows: Rows, reference: Reference, predicted: Tensor
    ) -> BleuStatistics:
        """Of candidates as long as the reference; all arguments still have ``<s>`` in front."""
        size = _START + self.settings.ignore_prefix_size
        scored = reference.without_prefix(size)
        cut = prefix_columns(size, reference.tokens.size(1))
        rows = Rows(
            rows.log_reference[:, cut:, cut:], rows.log_eos[:, cut:], rows.log_mean[:, cut:]
        )
        rows = with_known_tokens(rows, scored.tokens, ~predicted[:, cut:])
        return self._statistics(rows, scored, scored.lengths)

    def _statistics_at_own_length(
        self, model: Any, sample: dict[str, Any], reference: Reference
    ) -> BleuStatistics:
        """Of candidates of the length that the model predicts, no token of them known."""
        settings = self.settings
        longest = min(settings.max_decode_length, model.max_decoder_positions() - _ENDS)
        source_lengths = sample["net_input"]["src_lengths"]
        limits = decode_limits(source_lengths, settings.max_decode_ratio, longest)
        masked, words = own_input(model, sample["net_input"], limits, self.dictionary)
        logits = checked_logits(_heads(model, sample, masked), masked, type(model.decoder).__name__)
        size = _START + self.settings.ignore_prefix_size
        scored = reference.without_prefix(size)
        cut = prefix_columns(size, masked.size(1))
        rows = rows_of(logits[:, cut:], scored, self.dictionary.eos())
        lengths = (words - self.settings.ignore_prefix_size).clamp(min=0)
        return self._statistics(rows, scored, lengths)

    def _statistics(self, rows: Rows, scored: Reference, lengths: Tensor) -> BleuStatistics:
        return expected_statistics(
            rows.reference_probabilities(scored, self.dictionary),
            scored.tokens,
            value=str(self.settings.overlap),
            max_order=self.settings.max_order,
            lengths=lengths,
            reference_lengths=scored.lengths,
        )


def _heads(model: Any, sample: dict[str, Any], prev_output_tokens: Tensor) -> Any:
    """What the model returns in training; through its wrapper, so that workers stay in step."""
    net_input = sample["net_input"]
    return model(
        net_input["src_tokens"], net_input["src_lengths"], prev_output_tokens, sample["target"]
    )


def ends_of(reference: Reference) -> Tensor:
    """``[batch, tgt_len]`` bool: the columns before and after the words."""
    columns = torch.arange(reference.tokens.size(1), device=reference.tokens.device)
    return (columns < _START) | (columns >= reference.lengths.unsqueeze(1))


def own_input(
    model: Any, net_input: Mapping[str, Any], limits: Tensor, dictionary: Dictionary
) -> tuple[Tensor, Tensor]:
    """What ``fairseq-generate`` starts from: nothing but masks, as many as the model predicts.

    Without gradient and dropout.

    Args:
        model: one that predicts the length.
        net_input: ``sample["net_input"]``.
        limits: ``[batch]``, most words.
        dictionary: of the target.

    Returns:
        ``[batch, length]`` tokens, and ``[batch]``, how many of them are masks.
    """
    source = net_input["src_tokens"]
    with torch.no_grad(), evaluation_mode(model):
        encoder_out = model.forward_encoder([source, net_input["src_lengths"]])
        tokens = model.initialize_output_tokens(encoder_out, source).output_tokens
    predicted = tokens.ne(dictionary.pad()).sum(1)
    lengths = torch.minimum(predicted, limits + _ENDS)
    # fairseq's copy of the source into the decoder has as many columns as the longest has tokens.
    tokens = tokens[:, : int(lengths.max())]
    columns = torch.arange(tokens.size(1), device=tokens.device)
    tokens = tokens.masked_fill(columns >= lengths.unsqueeze(1), dictionary.pad())
    return tokens.scatter(1, lengths.unsqueeze(1) - 1, dictionary.eos()), lengths - _ENDS


def with_known_tokens(rows: Rows, tokens: Tensor, known: Tensor) -> Rows:
    """Rows that are certain of their token where ``known`` ``[batch, rows]`` is true.

    Args:
        rows: one for each of ``tokens``.
        tokens: ``[batch, rows]``.
        known: bool.
    """
    same = tokens.unsqueeze(2).eq(tokens.unsqueeze(1))
    by_row = known.unsqueeze(2)
    certain = rows.log_reference.masked_fill(by_row & same, 0)
    certain = certain.masked_fill(by_row & ~same, float("-inf"))
    return Rows(certain, rows.log_eos, rows.log_mean)
