"""Argument checks shared by the objectives: shapes and names only, never tensor values.

Looking at values would make an accelerator wait for the host in every training step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def check_order(name: str, order: int) -> None:
    """Raise ``ValueError`` unless ``order`` is an n-gram order: an integer of at least 1."""
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {order!r}")


def check_token_ids(name: str, tokens: Tensor) -> None:
    """Raise ``ValueError`` unless ``tokens`` is ``[batch, length]`` of an integer dtype."""
    if tokens.dim() != 2:
        raise ValueError(f"{name} must be [batch, length]; got shape {list(tokens.shape)}")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"{name} must hold integer token ids; got dtype {tokens.dtype}")


def check_shape(name: str, tensor: Tensor | None, shape: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``tensor`` is absent or has the given shape."""
    if tensor is not None and list(tensor.shape) != list(shape):
        raise ValueError(f"{name} must have shape {list(shape)}; got {list(tensor.shape)}")


def check_logits_and_tokens(logits: Tensor, tokens: Tensor) -> None:
    """Raise ``ValueError`` unless ``logits`` and ``tokens`` belong to one batch."""
    if logits.dim() != 3 or not logits.is_floating_point():
        raise ValueError(
            "logits must be a floating tensor [batch, tgt_len, vocab]; "
            f"got {logits.dtype} of shape {list(logits.shape)}"
        )
    if logits.size(-1) == 0:
        raise ValueError(f"logits has no vocabulary: shape {list(logits.shape)}")
    check_token_ids("references", tokens)
    if tokens.dtype != torch.int64:
        raise ValueError(f"references must be int64 to index the vocabulary; got {tokens.dtype}")
    if tokens.size(0) != logits.size(0):
        raise ValueError(
            f"references has {tokens.size(0)} sentences, but logits has {logits.size(0)}"
        )


def check_positions(
    p_ref: Tensor,
    references: Tensor,
    lengths: Tensor | None,
    reference_lengths: Tensor | None,
    eos_probabilities: Tensor | None,
) -> None:
    """Raise ``ValueError`` unless these are the arguments of one ``expected_overlap``."""
    if p_ref.dim() != 3 or not p_ref.is_floating_point():
        raise ValueError(
            "p_ref must be a floating tensor [batch, tgt_len, ref_len]; "
            f"got {p_ref.dtype} of shape {list(p_ref.shape)}"
        )
    check_token_ids("references", references)
    check_shape("references", references, [p_ref.size(0), p_ref.size(2)])
    check_shape("lengths", lengths, [p_ref.size(0)])
    check_shape("reference_lengths", reference_lengths, [p_ref.size(0)])
    check_shape("eos_probabilities", eos_probabilities, p_ref.shape[:2])
