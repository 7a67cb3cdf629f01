"""Expected BLEU of a non-autoregressive decoder, whose positions are independent.

The losses of the model's heads are those of fairseq's ``nat_loss``. That selects the predicted
positions by boolean indexing, which makes the host wait for the device; here they are weighted by 0
or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask
from torch import Tensor
from torch.nn import functional

from criterions import BleuStatistics, expected_statistics, token_log_probabilities
from criterions.token_categorical import label_smoothed
from fairseq_plugins.batch import Reference, columns_of, is_special, prefix_columns
from fairseq_plugins.decoding import decode_limits, evaluation_mode
from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig
from fairseq_plugins.expected_bleu.non_autoregressive_checks import (
    WORDS,
    check_non_autoregressive,
    checked_logits,
    checked_words,
)
from fairseq_plugins.expected_bleu.scored_batch import AddedLoss, ScoredBatch, check_prefix

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
    """

    def __init__(self, settings: ExpectedBleuCriterionConfig, task: FairseqTask) -> None:
        self.settings, self.dictionary = settings, task.target_dictionary
        self.task_settings = getattr(task, "cfg", None)

    def __call__(self, model: Any, sample: dict[str, Any], *, training: bool) -> ScoredBatch:
        """Score one batch.

        Args:
            model: a fairseq non-autoregressive model, possibly wrapped for data parallelism.
            sample: a batch of the task ``translation_lev``, with ``prev_target``.
            training: whether an ignored prefix must leave something.

        Returns:
            the statistics; the loss of the words, that of ``<s>`` and ``</s>`` where they are
            predicted, and those of the other heads, as ``nat_loss`` has them; ``nll_loss`` of all
            that the first two are of, and ``NAME_loss`` of every other head, without its factor,
            to be logged.

        Raises:
            ValueError: a flag, the task or the model does not fit.
        """
        check_non_autoregressive(model, sample, self.settings, self.task_settings)
        if training:
            check_prefix(self.settings.ignore_prefix_size, sample["target"].size(1) - _START)
        heads = _heads(model, sample, sample["prev_target"])
        words = checked_words(heads, type(model.decoder).__name__)
        reference, order = Reference.of(words["tgt"], self.dictionary)
        predicted = words["mask"].gather(1, order)
        log_probs, mean = token_log_probabilities(words["out"], reference.tokens)
        log_probs = log_probs.gather(1, order.unsqueeze(2).expand_as(log_probs))
        negative_log_likelihood = -log_probs.diagonal(dim1=1, dim2=2)
        uniform = -mean.gather(1, order)
        word_losses = label_smoothed(negative_log_likelihood, uniform, words.get("ls", 0.0))
        is_end = ends_of(reference)
        word_count = predicted.sum()
        factor = words.get("factor", 1.0)
        # No word of the candidate is at the positions of <s> and </s>: BLEU cannot train them.
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
            statistics = self._statistics_at_known_length(log_probs, reference, predicted)
        return ScoredBatch(statistics, added, logged)

    def _statistics_at_known_length(
        self, log_probs: Tensor, reference: Reference, predicted: Tensor
    ) -> BleuStatistics:
        """Of candidates as long as the reference; all arguments have ``<s>`` in front."""
        size = _START + self.settings.ignore_prefix_size
        scored = reference.without_prefix(size)
        cut = prefix_columns(size, reference.tokens.size(1))
        known = ~predicted[:, cut:]
        log_probs = with_known_tokens(log_probs[:, cut:, cut:], scored.tokens, known)
        return self._statistics(log_probs, scored, scored.lengths)

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
        log_probs = token_log_probabilities(logits[:, cut:], scored.tokens).selected
        lengths = (words - self.settings.ignore_prefix_size).clamp(min=0)
        return self._statistics(log_probs, scored, lengths)

    def _statistics(self, log_probs: Tensor, scored: Reference, lengths: Tensor) -> BleuStatistics:
        special = is_special(scored.tokens, self.dictionary).unsqueeze(1)
        return expected_statistics(
            log_probs.exp().masked_fill(special, 0),
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
    columns = columns_of(reference.tokens)
    return (columns < _START) | (columns >= reference.lengths.unsqueeze(1))


def own_input(
    model: Any, net_input: Mapping[str, Any], limits: Tensor, dictionary: Dictionary
) -> tuple[Tensor, Tensor]:
    """What ``fairseq-generate`` starts from: nothing but masks, as many as the model predicts.

    Without gradient and dropout; ``limits`` ``[batch]`` masks at most. Returns tokens
    ``[batch, length]``, and ``[batch]``, how many of them are masks.
    """
    source = net_input["src_tokens"]
    with torch.no_grad(), evaluation_mode(model):
        encoder_out = model.forward_encoder([source, net_input["src_lengths"]])
        tokens = model.initialize_output_tokens(encoder_out, source).output_tokens
    predicted = tokens.ne(dictionary.pad()).sum(1)
    lengths = torch.minimum(predicted, limits + _ENDS)
    # fairseq's copy of the source into the decoder has as many columns as the longest has tokens.
    tokens = tokens[:, : int(lengths.max())]
    tokens = tokens.masked_fill(columns_of(tokens) >= lengths.unsqueeze(1), dictionary.pad())
    return tokens.scatter(1, lengths.unsqueeze(1) - 1, dictionary.eos()), lengths - _ENDS


def with_known_tokens(log_probs: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """Distributions that are certain of the token, ``[batch, length]``, where it is ``known``.

    ``log_probs``: ``[batch, length, length]``, of each token at each position.
    """
    known, same = known.unsqueeze(2), tokens.unsqueeze(2).eq(tokens.unsqueeze(1))
    return log_probs.masked_fill(known & same, 0).masked_fill(known & ~same, -torch.inf)


def masked_sum(values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """Sum of ``values`` where ``mask``, of the same shape, is true, and how many these are."""
    if mask is None:
        return values.sum(), values.numel()
    return values.masked_fill(~mask, 0).sum(), mask.sum()


def head_loss(head: Mapping[str, Any]) -> tuple[Tensor, Tensor | int]:
    """Loss of one head, its ``factor`` not applied, and what ``nat_loss`` divides it by.

    Args:
        head: a value of what a fairseq non-autoregressive model returns in training: ``out``
            ``[..., classes]`` logits; ``tgt`` ``[...]`` int64, or ``[..., classes]`` probabilities;
            ``mask`` ``[...]`` bool, what is predicted (all if there is none); ``ls``, label
            smoothing.  Or else ``loss``, which is returned divided by its factor, since the
            factor is in it.

    Returns:
        the loss summed over what is predicted, float32 at least, and the number of predictions.
    """
    if head.get("loss") is not None:
        return head["loss"].float() / head.get("factor", 1.0), 1
    logits, target = head["out"], head["tgt"]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = functional.log_softmax(logits, dim=-1)
    if target.dim() == logits.dim():
        losses = functional.kl_div(log_probabilities, target, reduction="none").sum(-1)
    else:
        losses = -log_probabilities.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    uniform = -log_probabilities.mean(-1)
    return masked_sum(label_smoothed(losses, uniform, head.get("ls", 0.0)), head.get("mask"))
