"""Monte Carlo estimates under the same independent positions: the yardstick of every bound.

``p_ref``, ``references``, ``lengths``, ``reference_lengths`` and ``eos_probabilities`` are those of
:func:`criterions.expected_overlap`, as are the errors raised, besides ``ValueError`` for fewer than
one of ``samples``, the candidates per sentence. The ``generator`` of random numbers is one of the
probabilities' device (default: torch's own). The tokens of all candidates are held at once,
``samples * batch * tgt_len * ref_len`` booleans for each n-gram order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from criterions.bleu.counted import counted_statistics
from criterions.bleu.ngrams import length_mask, reference_ngrams
from criterions.bleu.statistics import BleuStatistics, bleu_of
from criterions.checks import check_order, check_positions

_SOME_OTHER_TOKEN = -1


def sample_candidates(
    p_ref: Tensor,
    references: Tensor,
    samples: int,
    *,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw candidates from independent positions; arguments: see the module.

    Only the reference's tokens and ``</s>`` are told apart; every other token comes out as -1,
    which no reference may hold. Without ``eos_probabilities`` no candidate ends before its
    ``lengths``.

    Returns:
        tokens ``[samples, batch, tgt_len]`` and lengths ``[samples, batch]``, int64.
    """
    check_order("samples", samples)
    check_positions(p_ref, references, lengths, reference_lengths, eos_probabilities)
    batch, tgt_len, ref_len = p_ref.shape
    dtype = torch.promote_types(p_ref.dtype, torch.float32)
    distinct = reference_ngrams(references, 1, reference_lengths).first[0]
    p_tokens = p_ref.detach().to(dtype).masked_fill(~distinct.unsqueeze(1), 0)
    if eos_probabilities is None:
        p_eos = p_tokens.new_zeros(batch, tgt_len, 1)
    else:
        p_eos = eos_probabilities.detach().to(dtype).unsqueeze(-1)
    # Rounding can push the sum of what is named past one; then nothing is left for the rest.
    p_other = (1 - p_tokens.sum(-1, keepdim=True) - p_eos).clamp(min=0)
    exists = length_mask(lengths, tgt_len, like=p_ref)
    probabilities = torch.cat([p_tokens, p_eos, p_other], dim=-1)
    probabilities = probabilities.masked_fill(~exists.unsqueeze(-1), 1)
    drawn = torch.multinomial(
        probabilities.flatten(0, 1), samples, replacement=True, generator=generator
    )
    drawn = drawn.view(batch, tgt_len, samples).permute(2, 0, 1)
    ended = ((drawn == ref_len) | ~exists).cumsum(-1)
    named = functional.pad(references.long(), (0, 2), value=_SOME_OTHER_TOKEN)
    return named.expand(samples, -1, -1).gather(2, drawn), (ended == 0).sum(-1)


def _sampled_statistics(
    candidates: tuple[Tensor, Tensor],
    references: Tensor,
    max_order: int,
    reference_lengths: Tensor | None,
) -> BleuStatistics:
    """Counted statistics of drawn candidates, shapes ``[samples, batch, ...]``."""
    tokens, lengths = candidates
    samples, batch, _ = tokens.shape
    if reference_lengths is not None:
        reference_lengths = reference_lengths.repeat(samples)
    statistics = counted_statistics(
        tokens.flatten(0, 1),
        references.repeat(samples, 1),
        max_order=max_order,
        lengths=lengths.flatten(),
        reference_lengths=reference_lengths,
    )
    return BleuStatistics(*(item.view(samples, batch, *item.shape[1:]) for item in statistics))


def _mean_and_standard_error(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Over the first axis; the error of one draw alone is unknown: NaN."""
    draws = draws.to(torch.float64)
    return draws.mean(0), draws.std(0) / draws.size(0) ** 0.5


@torch.no_grad()
def monte_carlo_overlap(
    p_ref: Tensor,
    references: Tensor,
    order: int,
    *,
    samples: int,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Monte Carlo estimate of the expected clipped n-gram count; arguments: see the module.

    Returns:
        mean ``[batch]`` and its standard error ``[batch]``, float64.
    """
    check_order("order", order)
    candidates = sample_candidates(
        p_ref,
        references,
        samples,
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities,
        generator=generator,
    )
    statistics = _sampled_statistics(candidates, references, order, reference_lengths)
    return _mean_and_standard_error(statistics.matches[..., -1])


@torch.no_grad()
def monte_carlo_bleu(
    p_ref: Tensor,
    references: Tensor,
    *,
    samples: int,
    max_order: int = 4,
    level: str = "corpus",
    smoothing: str = "add-k",
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Monte Carlo estimate of the expected BLEU (not of BLEU at expected counts).

    ``max_order``, ``level`` and ``smoothing`` as in :func:`criterions.expected_bleu`; at corpus
    level whole corpora are drawn. Other arguments: see the module.

    Returns:
        mean and standard error, float64; scalars (``corpus``) or ``[batch]`` (``sentence``).
    """
    check_order("max_order", max_order)
    candidates = sample_candidates(
        p_ref,
        references,
        samples,
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities,
        generator=generator,
    )
    statistics = _sampled_statistics(candidates, references, max_order, reference_lengths)
    by_sentence = BleuStatistics(*(item.transpose(0, 1) for item in statistics))
    scores = bleu_of(by_sentence, level, smoothing)  # [samples] or [batch, samples]
    return _mean_and_standard_error(scores if level == "corpus" else scores.t())
