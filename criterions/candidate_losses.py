"""Sequence-level losses over a set of candidate outputs of each source.

Notation: ``U`` are the candidates of a source that exist, ``s(u)`` the score of ``u`` (its
log-probability, divided by its length where ``lengths`` are given), ``cost(u)`` its cost, and the
pseudo-reference ``u*`` the first candidate of the lowest cost.

==================  ==========================================================================
name                loss
==================  ==========================================================================
``risk``            ``sum_u q(u) cost(u)``, ``q(u) = exp(alpha s(u)) / sum_v exp(alpha s(v))``
``sequence_nll``    ``-s(u*) + log sum_u exp s(u)``
``max_margin``      ``max(0, cost(u^) - cost(u*) + s(u^) - s(u*))``, ``u^`` of the highest score
``multi_margin``    ``sum_u max(0, cost(u) - cost(u*) + s(u) - s(u*))``
``softmax_margin``  ``-s(u*) + log sum_u exp(s(u) + cost(u))``
==================  ==========================================================================

Every loss is a function of ``log_probs [batch, candidates]`` and ``costs [batch, candidates]`` and
returns ``[batch]``.  Costs are in units of the score: multiplying them scales the margins.  What a
masked candidate holds, NaN included, never counts.  With one candidate, ``risk`` and
``softmax_margin`` are its cost and the others 0, all without gradient to the score; with none,
every loss is 0.  Where all candidates have probability 0, only the two losses of hinges are
numbers.

Sources:
    Edunov, Ott, Auli, Grangier, Ranzato 2018, arXiv 1711.04956, section 3.2; Shen et al. 2016,
    arXiv 1512.02433 (minimum risk with sharpness ``alpha``); Gimpel and Smith 2010 (softmax
    margin).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from criterions.checks import check_shape


def first_occurrences(
    tokens: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Which candidates remain when equal ones are merged into the first.

    Args:
        tokens: ``[batch, candidates, length]``, token ids.
        lengths: ``[batch, candidates]``, tokens that count in each candidate (default: all).
        mask: boolean ``[batch, candidates]``, True where the candidate exists (default: all);
            others are False in the result and duplicates of none.

    Returns:
        boolean ``[batch, candidates]``.

    Raises:
        ValueError: shapes do not fit.
    """
    if tokens.dim() != 3:
        raise ValueError(
            f"tokens must be [batch, candidates, length]; got shape {list(tokens.shape)}"
        )
    check_shape("lengths", lengths, tokens.shape[:2])
    _check_mask(mask, tokens.shape[:2])
    equal_tokens = tokens.unsqueeze(2) == tokens.unsqueeze(1)
    if lengths is None:
        equal = equal_tokens.all(-1)
    else:
        outside = torch.arange(tokens.size(2), device=tokens.device) >= lengths.unsqueeze(-1)
        equal = (equal_tokens | outside.unsqueeze(2)).all(-1)
        equal &= lengths.unsqueeze(2) == lengths.unsqueeze(1)
    if mask is not None:
        equal &= mask.unsqueeze(1)
    first = ~equal.tril(-1).any(-1)
    return first if mask is None else first & mask


def unique_samples(
    tokens: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """How many different candidates each source has, ``[batch]``, int64.

    Arguments and errors as for :func:`first_occurrences`.
    """
    return first_occurrences(tokens, lengths, mask).sum(1)


def effective_sample_size(log_weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Effective sample size of weights (Kish 1965): ``1 / sum_i w_i^2`` after normalisation.

    From 1 (one candidate has all the weight) to the number of candidates (equal weights); 0 where
    there is no candidate.

    Args:
        log_weights: ``[batch, candidates]``, logarithms of weights up to a constant.
        mask: boolean ``[batch, candidates]``, True where the candidate exists (default: all).

    Returns:
        ``[batch]``, float32 (float64 for float64 weights).

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    scores, _, exists = _prepared(log_weights, log_weights, mask, None, "log_weights")
    squares = _normalised(scores, exists).square().sum(1)
    none = ~exists.any(1)
    return squares.masked_fill(none, 1).reciprocal().masked_fill(none, 0)


def minimum_risk(
    log_probs: Tensor,
    costs: Tensor,
    *,
    alpha: float = 1.0,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Expected cost under the model, renormalised over the candidates.

    Shen et al. 2016, equations 12 and 13, with small sharpness ``alpha`` (theirs 0.005); Edunov et
    al. 2018 ("Risk") with ``alpha = 1`` and length-normalised scores.  Over all outputs and with
    ``alpha = 1`` it is the expected cost.  Merge duplicates first, see :func:`first_occurrences`:
    each stands for the same output.

    Args:
        log_probs: ``[batch, candidates]``, log-probability of each whole candidate.
        costs: ``[batch, candidates]``, in any unit.
        alpha: sharpness of ``q``, above 0.
        mask: boolean ``[batch, candidates]``, True where the candidate exists (default: all).
        lengths: ``[batch, candidates]``, to divide the log-probabilities by: at least 1 where a
            candidate exists (default: 1).

    Returns:
        ``[batch]``, float32 (float64 if an input is).

    Raises:
        ValueError: shapes or dtypes do not fit, or ``alpha`` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0; got {alpha}")
    scores, costs, exists = _prepared(log_probs, costs, mask, lengths)
    return (_normalised(alpha * scores, exists) * costs).sum(1)


def sequence_nll(
    log_probs: Tensor,
    costs: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of the best candidate among them: only the costs' order matters.

    Arguments and errors as for :func:`minimum_risk`; returns ``[batch]``, at least 0.
    """
    scores, costs, exists = _prepared(log_probs, costs, mask, lengths)
    return _softmax_loss(scores, scores, costs, exists)


def max_margin(
    log_probs: Tensor,
    costs: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Hinge on the (first) candidate that the model likes best; 0 where that is ``u*`` itself.

    Arguments and errors as for :func:`minimum_risk`; returns ``[batch]``, at least 0.
    """
    scores, costs, exists = _prepared(log_probs, costs, mask, lengths)
    likeliest = _masked(scores, exists).argmax(1, keepdim=True)
    return _margins(scores, costs, exists).gather(1, likeliest).squeeze(1)


def multi_margin(
    log_probs: Tensor,
    costs: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Sum of the hinges of all candidates.

    Arguments and errors as for :func:`minimum_risk`; returns ``[batch]``, at least 0.
    """
    scores, costs, exists = _prepared(log_probs, costs, mask, lengths)
    return _margins(scores, costs, exists).sum(1)


def softmax_margin(
    log_probs: Tensor,
    costs: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """As :func:`sequence_nll`, with scores of the competitors raised by their costs.

    The value does not vanish where ``cost(u*)`` does not; less that constant it is the variant
    whose numerator is cost-augmented, too.

    Arguments and errors as for :func:`minimum_risk`; returns ``[batch]``, at least ``cost(u*)``.
    """
    scores, costs, exists = _prepared(log_probs, costs, mask, lengths)
    return _softmax_loss(scores + costs, scores, costs, exists)


CANDIDATE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "risk": minimum_risk,
    "sequence_nll": sequence_nll,
    "max_margin": max_margin,
    "multi_margin": multi_margin,
    "softmax_margin": softmax_margin,
}
"""``name -> loss(log_probs, costs, *, mask=None, lengths=None)``; ``risk`` has ``alpha``, too."""


def _check_mask(mask: Tensor | None, shape: torch.Size) -> None:
    check_shape("mask", mask, shape)
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, True where the candidate exists; got {mask.dtype}")


def _prepared(
    log_probs: Tensor,
    costs: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    name: str = "log_probs",
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, costs and existence ``[batch, candidates]``; 0 where there is no candidate."""
    if log_probs.dim() != 2 or not log_probs.is_floating_point():
        raise ValueError(
            f"{name} must be a floating tensor [batch, candidates]; "
            f"got {log_probs.dtype} of shape {list(log_probs.shape)}"
        )
    check_shape("costs", costs, log_probs.shape)
    check_shape("lengths", lengths, log_probs.shape)
    _check_mask(mask, log_probs.shape)
    dtype = torch.promote_types(torch.promote_types(log_probs.dtype, costs.dtype), torch.float32)
    exists = torch.ones_like(log_probs, dtype=torch.bool) if mask is None else mask
    scores = log_probs.to(dtype).masked_fill(~exists, 0)
    if lengths is not None:
        scores = scores / lengths.to(dtype).masked_fill(~exists, 1)
    costs = costs.to(dtype).masked_fill(~exists, 0)
    if log_probs.size(1) == 0:  # one that does not exist, for whatever takes the best of them
        scores, costs, exists = (functional.pad(x, (0, 1)) for x in (scores, costs, exists))
    return scores, costs, exists


def _masked(scores: Tensor, exists: Tensor) -> Tensor:
    # Not minus infinity: NaN would be computed for a source without candidates.
    return scores.masked_fill(~exists, torch.finfo(scores.dtype).min)


def _normalised(scores: Tensor, exists: Tensor) -> Tensor:
    """Softmax over the candidates that exist; all 0 where none does."""
    return _masked(scores, exists).softmax(1).masked_fill(~exists, 0)


def _softmax_loss(competitors: Tensor, scores: Tensor, costs: Tensor, exists: Tensor) -> Tensor:
    """``-s(u*) + log sum_u exp competitors(u)``, ``[batch]``."""
    reference = scores.gather(1, _pseudo_reference(costs, exists)).squeeze(1)
    loss = _masked(competitors, exists).logsumexp(1) - reference
    return loss.masked_fill(~exists.any(1), 0)


def _margins(scores: Tensor, costs: Tensor, exists: Tensor) -> Tensor:
    """``max(0, cost(u) - cost(u*) + s(u) - s(u*))``, ``[batch, candidates]``."""
    best = _pseudo_reference(costs, exists)
    reference = scores.gather(1, best)
    # Two candidates of probability 0, or u* and itself, have the same score.
    ahead = (scores - reference).masked_fill(scores.isneginf() & reference.isneginf(), 0)
    return (costs - costs.gather(1, best) + ahead).relu().masked_fill(~exists, 0)


def _pseudo_reference(costs: Tensor, exists: Tensor) -> Tensor:
    """``[batch, 1]``: index of the first candidate of the lowest cost."""
    highest = torch.finfo(costs.dtype).max
    return costs.detach().masked_fill(~exists, highest).argmin(1, keepdim=True)
