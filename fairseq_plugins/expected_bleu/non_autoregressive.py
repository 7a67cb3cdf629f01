"""Expected BLEU of a non-autoregressive decoder's rows, which are independent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairseq.data import Dictionary
from fairseq.models.nat import (
    FairseqNATDecoder,
    InsertionTransformerDecoder,
    LevenshteinTransformerDecoder,
)
from torch import Tensor

from criterions import BleuStatistics, expected_statistics
from fairseq_plugins.expected_bleu.config import Settings
from fairseq_plugins.expected_bleu.head_losses import head_loss, masked_sum, smoothed_loss
from fairseq_plugins.expected_bleu.scored_batch import AddedLoss, ScoredBatch
from fairseq_plugins.rows import Reference, Rows, prefix_columns, reference_of, rows_of

WORDS = "word_ins"
"""fairseq's name of the head that predicts the words."""
_MASKS = ("random_mask", "full_mask")
"""Values of ``--noise`` that put ``<unk>`` in a token's place."""
_START = 1
"""Tokens before the words: ``<s>``, which the task ``translation_lev`` puts there."""


def is_non_autoregressive(model: Any) -> bool:
    """Whether a model, possibly wrapped for data parallelism, is one of fairseq's ``models.nat``.

    A model of one's own counts if its decoder derives from fairseq's ``FairseqNATDecoder``.
    """
    return isinstance(getattr(model, "decoder", None), FairseqNATDecoder)


class NonAutoregressiveScores:
    """Statistics of a batch, with the losses of ``nat_loss`` beside them.

    The candidate has the words' positions of the reference: as many tokens, so that totals and
    brevity penalty are constants.  A position that the model predicts has the model's
    distribution; one that its input shows (``cmlm_transformer``, ``levenshtein_transformer``) is
    the reference's token for certain.  Given that input the positions are independent, so the
    expected counts are those of the model itself.

    Args:
        settings: the criterion's.
        dictionary: of the target.
        noise: ``--noise`` of the task; None for a task that has no such flag.

    Raises:
        ValueError: at the first batch, if a flag, the task or the model does not fit.
    """

    def __init__(self, settings: Settings, dictionary: Dictionary, noise: str | None) -> None:
        self.settings, self.dictionary, self.noise = settings, dictionary, noise

    def __call__(self, model: Any, sample: dict[str, Any], *, training: bool) -> ScoredBatch:
        """Score one batch.

        Args:
            model: a fairseq non-autoregressive model, possibly wrapped for data parallelism.
            sample: a batch of the task ``translation_lev``, with ``prev_target``.
            training: makes no difference.

        Returns:
            the statistics; the loss of the words and those of the other heads, as ``nat_loss`` has
            them; ``nll_loss`` of the words and ``NAME_loss`` of every other head, without its
            factor, to be logged.
        """
        self._check(model, sample)
        net_input = sample["net_input"]
        heads = model(
            net_input["src_tokens"],
            net_input["src_lengths"],
            sample["prev_target"],
            sample["target"],
        )
        words = checked_words(heads, type(model.decoder).__name__)
        reference = reference_of({"target": words["tgt"]}, self.dictionary)
        predicted = words["mask"].gather(1, reference.order)
        rows = rows_of(words["out"], reference, self.dictionary.eos()).reordered(reference.order)
        negative_log_likelihood = -rows.log_reference.diagonal(dim1=1, dim2=2)
        word_losses = smoothed_loss(negative_log_likelihood, -rows.log_mean, words.get("ls", 0.0))
        word_loss, word_count = masked_sum(word_losses, predicted)
        weight = self.settings.cross_entropy_weight * words.get("factor", 1.0)
        added = [AddedLoss(word_loss, word_count, weight)]
        logged = {
            "nll_loss": masked_sum(negative_log_likelihood, predicted)[0],
            "nll_loss_count": word_count,
        }
        for name, head in heads.items():
            if name != WORDS:
                loss, count = head_loss(head)
                added.append(AddedLoss(loss, count, head.get("factor", 1.0)))
                logged[f"{name}_loss"], logged[f"{name}_loss_count"] = loss, count
        return ScoredBatch(self._statistics(rows, reference, predicted), added, logged)

    def _statistics(self, rows: Rows, reference: Reference, predicted: Tensor) -> BleuStatistics:
        """Of each candidate; all arguments still have ``<s>`` in the first column."""
        size = _START + self.settings.ignore_prefix_size
        scored = reference.without_prefix(size)
        cut = prefix_columns(size, reference.tokens.size(1))
        rows = Rows(
            rows.log_reference[:, cut:, cut:], rows.log_eos[:, cut:], rows.log_mean[:, cut:]
        )
        rows = with_known_tokens(rows, scored.tokens, ~predicted[:, cut:])
        return expected_statistics(
            rows.reference_probabilities(scored, self.dictionary),
            scored.tokens,
            value=self.settings.overlap,
            max_order=self.settings.max_order,
            lengths=scored.lengths,
            reference_lengths=scored.lengths,
        )

    def _check(self, model: Any, sample: dict[str, Any]) -> None:
        name = type(model.decoder).__name__
        if "prev_target" not in sample:
            raise ValueError(f"{name} is non-autoregressive: train it with --task translation_lev")
        if isinstance(model.decoder, InsertionTransformerDecoder):
            raise ValueError(
                f"--criterion expected_bleu needs a distribution for each position; {name} has one "
                "for each gap between tokens, and what goes into a gap has no position yet; take "
                "--criterion nat_loss, or an --arch that predicts positions "
                "(nonautoregressive_transformer, cmlm_transformer, levenshtein_transformer, ...)"
            )
        if hasattr(model, "crf_layer"):
            raise ValueError(
                "--criterion expected_bleu needs independent positions; with the conditional "
                "random field of --arch nacrf_transformer they are not; take --criterion "
                "nat_loss, or --arch nonautoregressive_transformer"
            )
        if self.settings.hypothesis_length == "expected":
            raise ValueError(
                f"--hypothesis-length expected is for models that end a sentence by </s>; {name} "
                "knows the length before the tokens; take fixed, or leave the flag out"
            )
        if self.settings.feed != "teacher":
            raise ValueError(
                f"--feed {self.settings.feed} is for models that read their own tokens; {name} "
                "is non-autoregressive; take teacher, or leave the flag out"
            )
        if self.noise == "random_delete" and hasattr(model.decoder, "forward_length"):
            raise ValueError(
                f"--noise random_delete, the default, leaves {name} with fewer positions than the "
                "target has; take --noise full_mask (nonautoregressive_transformer, "
                "iterative_nonautoregressive_transformer) or random_mask (cmlm_transformer)"
            )
        if self.noise in _MASKS and isinstance(model.decoder, LevenshteinTransformerDecoder):
            raise ValueError(
                f"--noise {self.noise} leaves {name} without tokens to insert words between; take "
                "--noise random_delete, the default"
            )


def checked_words(heads: Any, name: str) -> Mapping[str, Any]:
    """The head of the words, or ``ValueError`` where it is no distribution for each position."""
    words = heads.get(WORDS) if isinstance(heads, Mapping) else None
    fits = (
        words is not None
        and words.get("out") is not None
        and words["out"].dim() == 3
        and words["out"].shape[:2] == words["tgt"].shape == words["mask"].shape
    )
    if not fits:
        raise ValueError(
            f"--criterion expected_bleu needs of a non-autoregressive model the head {WORDS!r} "
            "with out [batch, tgt_len, vocab], tgt and mask [batch, tgt_len]; that of a model "
            f"with {name} is other"
        )
    return words


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
