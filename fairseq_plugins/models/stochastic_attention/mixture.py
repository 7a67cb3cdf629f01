"""Log-probabilities of a mixture of softmax distributions, in the memory of one of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from criterions.second_derivatives import differentiable_gradients
from fairseq_plugins.models.extending import at_least_float32


def mixture_log_probabilities(
    features: Tensor, log_weights: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Log-probabilities of a mixture: ``log sum_a p(a) softmax(weight features_a + bias)``.

    The logits of all components need ``components`` times the memory of a decoder's output.  They
    are computed one component after the other, and again in the backward pass; saved are the
    result and one normaliser for each component.

    Args:
        features: ``[..., components, channels]``.
        log_weights: ``[..., components]``, ``log p(a)``; ``-inf`` where there is no component.
        weight, bias: of the output layer, ``[vocab, channels]`` and ``[vocab]`` or None.

    Returns:
        ``[..., vocab]`` in the dtype of ``features``; its exponentials sum to 1.
    """
    flat = features.reshape(-1, *features.shape[-2:])
    # Autocast may have other types in the backward pass, or none: what it makes of a product is
    # determined once, here, so that the logits are the same in both passes.
    computed_in = (flat[:0, 0] @ weight[:0].t().type_as(flat)).dtype
    flat, weight = flat.to(computed_in), weight.to(computed_in)
    bias = weight.new_zeros(weight.size(0)) if bias is None else bias.to(computed_in)
    flat_weights = at_least_float32(log_weights).reshape(-1, log_weights.size(-1))
    mixed: Tensor = _Mixture.apply(flat, flat_weights, weight, bias)
    return mixed.reshape(*features.shape[:-2], weight.size(0)).type_as(features)


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, log_weights: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        mixed = log_weights.new_full((features.size(0), weight.size(0)), -float("inf"))
        normalisers = torch.empty_like(log_weights)
        for a in range(features.size(1)):
            logits = _logits(features[:, a], weight, bias)
            normalisers[:, a] = logits.logsumexp(-1)
            shift = (log_weights[:, a] - normalisers[:, a]).unsqueeze(-1)
            torch.logaddexp(mixed, logits.add_(shift), out=mixed)
        ctx.save_for_backward(features, log_weights, weight, bias, normalisers, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, normalisers, mixed = ctx.saved_tensors
        if torch.is_grad_enabled():  # under create_graph
            return differentiable_gradients(_plain, inputs, grad)
        features, log_weights, weight, bias = inputs
        grad_features, grad_log_weights = torch.empty_like(features), torch.empty_like(log_weights)
        grad_weight = torch.zeros_like(weight, dtype=mixed.dtype)
        grad_bias = torch.zeros_like(bias, dtype=mixed.dtype)
        for a in range(features.size(1)):
            probabilities = _logits(features[:, a], weight, bias)
            probabilities.sub_(normalisers[:, a : a + 1])
            # Of component a, given the word: exp(log p(a) + log p(word | a) - log p(word)).
            grad_logits = (probabilities + log_weights[:, a : a + 1]).sub_(mixed).exp_().mul_(grad)
            responsible = grad_logits.sum(-1)
            grad_log_weights[:, a] = responsible
            grad_logits.sub_(probabilities.exp_().mul_(responsible.unsqueeze(-1)))
            grad_bias += grad_logits.sum(0)
            in_dtype = grad_logits.type_as(features)
            grad_features[:, a] = in_dtype @ weight
            grad_weight += in_dtype.t() @ features[:, a]
        return (
            grad_features,
            grad_log_weights,
            grad_weight.type_as(weight),
            grad_bias.type_as(bias),
        )


def _logits(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A tensor of its own, float32 at least."""
    return at_least_float32(functional.linear(features, weight, bias))


def _plain(features: Tensor, log_weights: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What :class:`_Mixture` computes, in the memory of all components."""
    log_probabilities = _logits(features, weight, bias).log_softmax(-1)
    return (log_weights.unsqueeze(-1) + log_probabilities).logsumexp(1)
