"""Outputs near a reference, drawn with the probability that their edit distance earns.

Reward-augmented maximum likelihood (Norouzi et al. 2016, arXiv 1609.00150) trains with the
ordinary cross-entropy on targets drawn from the exponentiated payoff distribution

    q(y | y*)  proportional to  exp(-d(y, y*) / temperature)

of the reference ``y*``.  The drawing does not involve the model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from criterions.bleu.ngrams import length_mask
from criterions.checks import check_choice, check_shape, check_token_ids

EDIT_KINDS = ("hamming", "edit")
"""``hamming``: substitutions, exact; ``edit``: substitutions and insertions, approximate."""


@torch.no_grad()
def sample_edits(
    references: Tensor,
    lengths: Tensor | None = None,
    *,
    vocabulary: Tensor,
    temperature: float,
    kind: str = "hamming",
    padding_value: int = 0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one output for each reference from the exponentiated payoff distribution.

    **hamming**: exact.  ``d`` is the number of positions that differ, a sum over positions, so
    ``q`` is a product: at each position the reference's token has weight 1 and each of the ``n``
    other tokens of the vocabulary ``w = exp(-1 / temperature)``.  So each position is replaced
    independently, with probability ``n w / (1 + n w)``, by a uniformly drawn other token.

    **edit**: the paper's stratified sampling.  The number of edits ``e``, from 0 to the
    reference's length ``m``, is drawn with weight ``c(e, m) exp(-e / temperature)``, where

        c(e, m) = sum_s C(m, s) C(m + e - 2 s, e - s) V^e,   s from 0 to e

    counts the choices of ``s`` substituted positions, of ``e - s`` inserted tokens among the
    ``m - s`` kept ones (new tokens between the same two kept ones are not told apart), and of
    ``e`` new tokens from a vocabulary of ``V``; one of these choices is then drawn uniformly.
    This is an approximation of ``q``: different choices can give the same output, and a new token
    can equal the one it replaces, so ``d(y, y*)`` is at most ``e``.  There are no deletions: under
    ``q``, to delete a token is as likely as to replace it by one certain other, so ``V - 1`` times
    less likely than to replace it by any.  Outputs that need a deletion are not drawn.

    With a large vocabulary the interesting temperatures lie below ``1 / log V``.  The temperature
    ``tau`` of the paper's published sampler is in units of ``1 + log V``:
    ``temperature = tau / (1 + log V)``.

    Args:
        references: ``[batch, ref_len]``, integer ids.
        lengths: ``[batch]``, tokens that count in each reference (default: all).
        vocabulary: ``[V]``, the different ids that may be drawn, without special symbols, on the
            references' device.
        temperature: above 0; towards 0, the reference itself is drawn.
        kind: ``hamming`` or ``edit``.
        padding_value: id past the end of the drawn outputs.
        generator: random generator of the references' device (default: torch's own).

    Returns:
        tokens ``[batch, ref_len]`` (``edit``: ``[batch, 2 * ref_len]``) of the references' dtype,
        and lengths ``[batch]``, int64.

    Raises:
        ValueError: shapes or dtypes do not fit, ``kind`` is unknown, ``vocabulary`` is empty, or
            ``temperature`` is not above 0.
    """
    check_choice("kind", kind, EDIT_KINDS)
    check_token_ids("references", references)
    check_shape("lengths", lengths, references.shape[:1])
    if vocabulary.dim() != 1 or vocabulary.size(0) < 1 or vocabulary.is_floating_point():
        raise ValueError(
            "vocabulary must be a 1-D tensor of at least one integer id; "
            f"got {vocabulary.dtype} of shape {list(vocabulary.shape)}"
        )
    if not (temperature > 0 and math.isfinite(1 / temperature)):
        raise ValueError(
            f"temperature must be above 0; got {temperature}: "
            "train on the references themselves for the limit 0"
        )
    exists = length_mask(lengths, references.size(1), like=references)
    draw = _substituted if kind == "hamming" else _edited
    tokens, lengths = draw(
        references, exists, vocabulary.to(references.dtype), temperature, generator
    )
    inside = length_mask(lengths, tokens.size(1), like=tokens)
    return tokens.masked_fill(~inside, padding_value), lengths


def _substituted(
    references: Tensor,
    exists: Tensor,
    vocabulary: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    ordered = vocabulary.sort().values
    place = torch.searchsorted(ordered, references.contiguous()).clamp(max=ordered.size(0) - 1)
    known = ordered[place] == references
    others = ordered.size(0) - known.to(torch.float64)
    replaced = _uniform(references, generator) < (others.log() - 1 / temperature).sigmoid()
    # A number among the others; from the reference's own place on, the next id.
    index = (_uniform(references, generator) * others).long()
    index = (index + (known & (index >= place)).long()).clamp(max=ordered.size(0) - 1)
    return torch.where(replaced, ordered[index], references), exists.sum(1)


def _edited(
    references: Tensor,
    exists: Tensor,
    vocabulary: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    batch, ref_len = references.shape
    lengths = exists.sum(1)
    if ref_len == 0:
        return references, lengths
    edits, substitutions = _edit_counts(
        lengths, ref_len, vocabulary.size(0), temperature, generator
    )
    insertions, kept_count = edits - substitutions, lengths - substitutions

    kept = ~_chosen(exists, substitutions, generator) & exists
    # The order of kept and inserted tokens: slots, of which `kept_count` are the kept ones'.
    slots = torch.arange(2 * ref_len, device=references.device).expand(batch, -1)
    open_slots = slots < (kept_count + insertions).unsqueeze(1)
    of_kept = _chosen(open_slots, kept_count, generator)
    slot = slots.masked_fill(~of_kept, 2 * ref_len).sort(1).values[:, : ref_len + 1]
    # A kept token moves right by the insertions before it: its slot less its number among the kept.
    number = kept.long().cumsum(1) - kept.long()
    position = slots[:, :ref_len] + slot.gather(1, number) - number

    # New tokens everywhere, then the kept ones in their places (one more for what is not kept).
    index = (_uniform(slots, generator) * vocabulary.size(0)).long()
    tokens = vocabulary[index.clamp(max=vocabulary.size(0) - 1)]
    tokens = torch.cat([tokens, tokens[:, :1]], dim=1)
    tokens = tokens.scatter(1, position.masked_fill(~kept, 2 * ref_len), references)
    return tokens[:, :-1], lengths + insertions


def _edit_counts(
    lengths: Tensor,
    longest: int,
    vocabulary_size: int,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw ``e`` and ``s`` together: ``[batch]`` each."""
    log_weights = edit_log_weights(lengths, longest, vocabulary_size, temperature).flatten(1)
    noise = torch.empty_like(log_weights).exponential_(generator=generator)
    drawn = (log_weights - noise.clamp_(min=torch.finfo(noise.dtype).tiny).log()).argmax(1)
    edits = torch.div(drawn, longest + 1, rounding_mode="floor")
    return edits, drawn - edits * (longest + 1)


def edit_log_weights(
    lengths: Tensor, longest: int, vocabulary_size: int, temperature: float
) -> Tensor:
    """Logarithm of ``C(m, s) C(m + e - 2 s, e - s) V^e exp(-e / temperature)``.

    Args:
        lengths: ``[batch]``, the references' lengths ``m``.
        longest: the largest of them that is possible.
        vocabulary_size: ``V``.
        temperature: above 0.

    Returns:
        ``[batch, longest + 1, longest + 1]``, float64: element ``[b, e, s]``; minus infinity where
        ``e > m`` or ``s > e``.
    """
    counts = torch.arange(longest + 1, dtype=torch.float64, device=lengths.device)
    m, e, s = lengths.to(torch.float64).view(-1, 1, 1), counts.unsqueeze(1), counts
    possible = (e <= m) & (s <= e)
    # Where impossible, some arguments are below 0: lgamma is anything there, and is replaced.
    choices = _log_binomial(m, s) + _log_binomial(m + e - 2 * s, e - s)
    weights = choices + e * (math.log(vocabulary_size) - 1 / temperature)
    return weights.masked_fill(~possible, -math.inf)


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    # float64: with the 24 bits of float32 some ids of a large vocabulary would be favoured.
    return torch.rand(like.shape, dtype=torch.float64, device=like.device, generator=generator)


def _chosen(eligible: Tensor, count: Tensor, generator: torch.Generator | None) -> Tensor:
    """Choose ``count`` (``[batch]``) of the eligible columns uniformly: boolean, ``eligible``'s."""
    keys = _uniform(eligible, generator).masked_fill(~eligible, 2)
    rank = keys.argsort(1).argsort(1)
    return (rank < count.unsqueeze(1)) & eligible
