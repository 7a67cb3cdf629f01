"""Which models, tasks and flags go together in non-autoregressive training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairseq.models.nat import (
    CMLMNATransformerModel,
    InsertionTransformerDecoder,
    LevenshteinTransformerDecoder,
    NATransformerModel,
)
from torch import Tensor

from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig

WORDS = "word_ins"
"""fairseq's name of the head that predicts the words."""
_MASKS = ("random_mask", "full_mask")
"""Values of ``--noise`` that put ``<unk>`` in a token's place."""


def check_non_autoregressive(
    model: Any, sample: dict[str, Any], settings: ExpectedBleuCriterionConfig, task: Any
) -> None:
    """Raise ``ValueError`` where model, task and flags do not go together.

    Args:
        model: one that :func:`fairseq_plugins.model_pass.is_non_autoregressive` says yes to.
        sample: a batch.
        settings: the criterion's.
        task: the flags of the task, or None.
    """
    name = type(model.decoder).__name__
    noise = None if getattr(task, "noise", None) is None else str(task.noise)
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
    if settings.hypothesis_length == "expected":
        raise ValueError(
            f"--hypothesis-length expected is for models that end a sentence by </s>; {name} "
            "knows the length before the tokens; take fixed, or leave the flag out"
        )
    if settings.feed == "sample":
        raise ValueError(
            f"--feed sample is for models that read their own tokens; {name} is "
            "non-autoregressive; take teacher, the default, for candidates of the reference's "
            "length, or greedy for the length that the model predicts"
        )
    if settings.feed == "greedy" and isinstance(model.decoder, LevenshteinTransformerDecoder):
        raise ValueError(
            f"--feed greedy needs a model that predicts the length of its output; {name} "
            "finds it in several passes; take teacher, the default"
        )
    if settings.feed == "greedy" and getattr(model, "train_step", 1) > 1:
        raise ValueError(
            "--feed greedy takes the first pass alone; with several passes in training take "
            "--feed teacher, the default, or --train-step 1"
        )
    if getattr(model, "train_step", 1) > 1 and getattr(model, "dae_ratio", 0) > 0:
        raise ValueError(
            f"--dae-ratio {model.dae_ratio:g} (its default is 0.5) gives the reference, noised, to "
            "the passes of --train-step after the first, in validation too: their BLEU would be "
            "that of words they have seen; take --dae-ratio 0, with which every pass reads what "
            "the one before chose"
        )
    if getattr(model.decoder, "src_embedding_copy", False) and getattr(
        task, "left_pad_source", False
    ):
        raise ValueError(
            "--src-embedding-copy copies padding into the decoder where sources are padded on the "
            "left, fairseq's default; give --left-pad-source, which turns that off, to "
            "fairseq-train and fairseq-generate alike"
        )
    if noise == "no_noise":
        raise ValueError(
            f"--noise no_noise shows {name} the reference itself, so that nothing is left to "
            f"predict; take {_noise_of(model.decoder)}"
        )
    if noise == "random_delete" and hasattr(model.decoder, "forward_length"):
        raise ValueError(
            f"--noise random_delete, the default, leaves {name} with fewer positions than the "
            f"target has; take {_noise_of(model.decoder)}"
        )
    if noise == "random_mask" and _predicts_all(model):
        raise ValueError(
            f"--noise random_mask shows {name} some words of the reference, which it then counts "
            f"as its own; take {_noise_of(model.decoder)}"
        )
    if noise in _MASKS and isinstance(model.decoder, LevenshteinTransformerDecoder):
        raise ValueError(
            f"--noise {noise} leaves {name} without tokens to insert words between; take "
            f"{_noise_of(model.decoder)}"
        )


def _predicts_all(model: Any) -> bool:
    """Whether it is a model of fairseq that takes no token of its input for known."""
    while hasattr(model, "module"):  # of data parallelism
        model = model.module
    masked_only = isinstance(model, CMLMNATransformerModel)
    return isinstance(model, NATransformerModel) and not masked_only


def _noise_of(decoder: Any) -> str:
    """The values of ``--noise`` that a decoder can be trained with."""
    if isinstance(decoder, LevenshteinTransformerDecoder):
        return "--noise random_delete, the default"
    if hasattr(decoder, "forward_length"):
        return (
            "--noise full_mask (nonautoregressive_transformer, "
            "iterative_nonautoregressive_transformer) or random_mask (cmlm_transformer)"
        )
    return "--noise full_mask, random_mask or random_delete, whichever its forward is written for"


def checked_words(heads: Any, name: str) -> Mapping[str, Any]:
    """The head of the words, or ``ValueError`` where it is no distribution for each position."""
    words = _words_of(heads)
    out, target, mask = (words.get(key) for key in ("out", "tgt", "mask"))
    fits = (
        all(part is not None for part in (out, target, mask))
        and out.dim() == 3
        and out.shape[:2] == target.shape == mask.shape
    )
    if not fits:
        raise ValueError(
            f"--criterion expected_bleu needs of a non-autoregressive model the head {WORDS!r} "
            "with out [batch, tgt_len, vocab], tgt and mask [batch, tgt_len]; that of a model "
            f"with {name} is other"
        )
    return words


def checked_logits(heads: Any, masked: Tensor, name: str) -> Tensor:
    """``[batch, length, vocab]``, or ``ValueError`` where it is not as long as ``masked``."""
    logits = _words_of(heads).get("out")
    shape = None if logits is None else tuple(logits.shape[:2])
    if shape != tuple(masked.shape):
        raise ValueError(
            f"--feed greedy needs a row for each of the {tuple(masked.shape)} tokens that the "
            f"model starts from, in out of the head {WORDS!r}; {name} has {shape or 'none'}; take "
            "--feed teacher"
        )
    return logits


def _words_of(heads: Any) -> Mapping[str, Any]:
    """The head of the words, empty where a model has none."""
    words = heads.get(WORDS) if isinstance(heads, Mapping) else None
    return words if isinstance(words, Mapping) else {}
