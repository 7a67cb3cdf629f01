"""The losses of a non-autoregressive model's heads, as fairseq's ``nat_loss`` defines them.

``nat_loss`` selects the predicted positions by boolean indexing, which makes the host wait for the
device; here they are weighted by 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def masked_sum(values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """Sum of ``values`` where ``mask``, of the same shape, is true, and how many these are."""
    if mask is None:
        return values.sum(), values.numel()
    return values.masked_fill(~mask, 0).sum(), mask.sum()


def smoothed_loss(negative_log_likelihood: Tensor, uniform: Tensor, epsilon: float) -> Tensor:
    """Label smoothing as in ``nat_loss``: ``epsilon`` is spread over the whole vocabulary.

    Args:
        negative_log_likelihood: of the target, any shape.
        uniform: mean over the vocabulary of the negative log-probabilities, the same shape.
        epsilon: 0 for none; ``uniform`` may be infinite then, as where a logit is.
    """
    if epsilon == 0:
        return negative_log_likelihood
    return (1 - epsilon) * negative_log_likelihood + epsilon * uniform


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
    return masked_sum(smoothed_loss(losses, uniform, head.get("ls", 0.0)), head.get("mask"))
