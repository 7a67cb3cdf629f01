"""Monte Carlo estimates under the same independent rows: the yardstick of every bound."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from criterions.bleu.counted import counted_statistics
from criterions.bleu.ngrams import length_mask, reference_ngrams
from criterions.bleu.statistics import LEVELS, SMOOTHINGS, BleuStatistics, bleu_of
from criterions.checks import check_choice, check_order, check_positions

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
    """Draw candidates from independent rows.

    Only the reference's tokens and ``</s>`` are told apart; every other token comes out as -1,
    which no reference may hold.

    Args:
        p_ref, references, lengths, reference_lengths, eos_probabilities: as in
            :func:`criterions.expected_overlap`; without ``eos_probabilities`` no candidate ends
            before its ``lengths``.
        samples: candidates per sentence.
        generator: random generator of the rows' device (default: torch's own).

    Returns:
        tokens ``[samples, batch, tgt_len]`` and lengths ``[samples, batch]``, int64.

    Raises:
        ValueError: shapes do not fit, or ``samples`` is not at least 1.
    """
    check_order("samples", samples)
    check_positions(p_ref, references, lengths, reference_lengths, eos_probabilities)
    batch, rows, ref_len = p_ref.shape
    dtype = torch.promote_types(p_ref.dtype, torch.float32)
    distinct = reference_ngrams(references, 1, reference_lengths).first[0]
    p_tokens = p_ref.detach().to(dtype).masked_fill(~distinct.unsqueeze(1), 0)
    if eos_probabilities is None:
        p_eos = p_tokens.new_zeros(batch, rows, 1)
    else:
        p_eos = eos_probabilities.detach().to(dtype).unsqueeze(-1)
    # Rounding can push the sum of what is named past one; then nothing is left for the rest.
    p_other = (1 - p_tokens.sum(-1, keepdim=True) - p_eos).clamp(min=0)
    law = torch.cat([p_tokens, p_eos, p_other], dim=-1)

    exists = length_mask(lengths, rows, like=p_ref)
    law = law.masked_fill(~exists.unsqueeze(-1), 1)
    drawn = torch.multinomial(
        law.flatten(0, 1), samples, replacement=True, generator=generator
    ).view(batch, rows, samples)
    drawn = drawn.permute(2, 0, 1)
    ends = (drawn == ref_len) | ~exists
    going_on = ends.cumsum(-1) == 0
    named = functional.pad(references.long(), (0, 2), value=_SOME_OTHER_TOKEN)
    tokens = named.expand(samples, -1, -1).gather(2, drawn)
    return tokens, going_on.sum(-1)


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
    """Monte Carlo estimate of the expected clipped n-gram count.

    Args:
        p_ref, references, order, lengths, reference_lengths, eos_probabilities: as in
            :func:`criterions.expected_overlap`.
        samples: candidates per sentence; their tokens are held at once,
            ``samples * batch * tgt_len * ref_len`` booleans.
        generator: random generator of the rows' device.

    Returns:
        mean ``[batch]`` and its standard error ``[batch]``, float64.

    Raises:
        ValueError: as :func:`criterions.expected_overlap`, or ``samples`` is not at least 1.
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

    Args:
        p_ref, references, max_order, level, smoothing, lengths, reference_lengths,
            eos_probabilities: as in :func:`criterions.expected_bleu`.
        samples: candidates per sentence; at corpus level, whole corpora.
        generator: random generator of the rows' device.

    Returns:
        mean and standard error, float64; scalars (``corpus``) or ``[batch]`` (``sentence``).

    Raises:
        ValueError: as :func:`criterions.expected_bleu`, or ``samples`` is not at least 1.
    """
    check_order("max_order", max_order)
    check_choice("level", level, LEVELS)
    check_choice("smoothing", smoothing, SMOOTHINGS)
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
