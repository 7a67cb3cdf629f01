"""BLEU's statistics of an output that is known up to a position, and continued as expected."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from criterions.bleu.counted import matching_tokens, prefix_statistics
from criterions.bleu.ngrams import ngram_products, shift
from criterions.bleu.statistics import BleuStatistics
from criterions.checks import check_order, check_shape


class Continuations(NamedTuple):
    """Expected statistics of an output, by what is emitted at position ``t`` after its prefix."""

    reference: BleuStatistics
    """``[batch, length, ref_len]``: each token of the reference."""
    other: BleuStatistics
    """``[batch, length]``: a token that the reference does not have."""
    stopped: BleuStatistics
    """``[batch, length]``: nothing, the output ends before ``t``."""
    emitted: Tensor
    """``[batch, length]`` int64: the first token of the reference that equals the one emitted;
    ``ref_len`` where the reference does not have it."""
    distinct: Tensor
    """``[batch, ref_len]`` bool: the first of equal tokens of the reference."""


@torch.no_grad()
def continuations(
    hypotheses: Tensor,
    references: Tensor,
    probabilities: Tensor,
    *,
    max_order: int = 4,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
) -> Continuations:
    """What BLEU may be expected to count once a prefix and its next token are known.

    The output is taken to go on with the reference from the token emitted: after reference token
    ``j``, ``k`` further tokens are right with probability ``p_{j+1} ... p_{j+k}``, and the output
    is as long as the rest of the reference makes it.  Of equal tokens of the reference that one
    counts which continues the longest n-gram, then the one nearest to ``t``.  After a token that
    the reference does not have, the output goes on from the last match, as if one word were
    replaced.

    Nothing depends on the tokens from ``t`` on, so that a score of these statistics is a baseline
    that leaves a score function unbiased, even though it depends on the token itself: see
    :class:`criterions.stochastic_graph.ExpectedCost`.

    Args:
        hypotheses: ``[batch, length]`` token ids.
        references: ``[batch, ref_len]`` token ids.
        probabilities: ``[batch, ref_len]``, of each token of the reference after those before it.
        max_order: highest n-gram order.
        lengths, reference_lengths: ``[batch]``, the tokens that count (default: all).

    Returns:
        statistics in the probabilities' dtype, float32 at least; no gradient.  O(B T R N) time and
        memory.

    Raises:
        ValueError: shapes, dtypes or the order do not fit.
    """
    check_order("max_order", max_order)
    before = prefix_statistics(
        hypotheses,
        references,
        max_order=max_order,
        lengths=lengths,
        reference_lengths=reference_lengths,
    )
    check_shape("probabilities", probabilities, references.shape)
    tgt_len, ref_len = hypotheses.size(1), references.size(1)
    equal, exists, inside = matching_tokens(hypotheses, references, lengths, reference_lengths)
    right = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    right = right.masked_fill(~inside, 0)
    words = inside.sum(1)
    columns = torch.arange(ref_len, device=references.device)
    positions = torch.arange(tgt_len, device=references.device)

    same = matching_tokens(references, references, reference_lengths, reference_lengths)[0]
    distinct = inside & ~(same & (columns < columns.unsqueeze(1))).any(2)
    # run[b, t, j]: tokens before t that are the reference's before j, up to max_order - 1.
    run = equal.new_zeros(equal.shape, dtype=torch.int64)
    if max_order > 1:
        matched = ngram_products(equal, max_order - 1)
        for order in range(1, max_order):
            run += shift(matched[order - 1], -order, -order)
    # The occurrence of each reference token that a prefix is best continued by: of all that hold
    # the same token, the largest of run, then nearness, then column.
    first = functional.pad(same, (0, 1), value=True).to(torch.uint8).argmax(2)
    first = first.clamp(max=max(ref_len - 1, 0)).unsqueeze(1).expand(equal.shape)
    farthest = max(tgt_len, ref_len)
    near = farthest - (columns - positions.unsqueeze(1)).abs()
    rank = (run * (farthest + 1) + near) * ref_len + columns
    best = torch.zeros_like(rank).scatter_reduce(2, first, rank, "amax")
    chosen = best.gather(2, first) % max(ref_len, 1)
    run = run.gather(2, chosen) + 1

    emitted = functional.pad(equal & distinct.unsqueeze(1), (0, 1), value=True)
    emitted = emitted.to(torch.uint8).argmax(2)
    # Where the reference stands after each position: at the last match, plus the tokens since.
    at = functional.pad(chosen, (0, 1)).gather(2, emitted.unsqueeze(2)).squeeze(2) - positions
    last = torch.where(emitted < ref_len, positions, -1).cummax(1).values
    at = at.gather(1, last.clamp(min=0)).masked_fill(last < 0, 0)
    replaced = shift(at + positions, 0, -1, fill=-1) + 1
    replaced = torch.minimum(replaced, (words - 1).unsqueeze(1)).unsqueeze(2)

    matches = shift(before.matches, -1, 0).to(right.dtype)
    tokens = positions.expand(exists.shape)
    orders = torch.arange(max_order, device=references.device)
    most = (words.unsqueeze(1) - orders).clamp(min=0)

    def statistics(matches: Tensor, length: Tensor) -> BleuStatistics:
        totals = (length.unsqueeze(-1) - orders).clamp(min=0).to(matches.dtype)
        limit = most.view(-1, *[1] * (matches.dim() - 2), max_order)
        reference = words.view(-1, *[1] * (length.dim() - 1)).expand(length.shape)
        return BleuStatistics(matches.minimum(totals).minimum(limit), totals, length, reference)

    def after(column: Tensor, run: Tensor, first: Tensor) -> BleuStatistics:
        """Of the expected output that emits the reference's ``column`` at each position."""
        added = first + _future(right, column, run, max_order)
        rest = (words.view(-1, 1, 1) - 1 - column).clamp(min=0)
        return statistics(matches.unsqueeze(2) + added, tokens.unsqueeze(2) + 1 + rest)

    known = after(chosen, run, (run.unsqueeze(-1) > orders).to(right.dtype))
    unknown = after(replaced, torch.zeros_like(replaced), right.new_zeros(()))
    other = BleuStatistics(*(item.squeeze(2) for item in unknown))
    return Continuations(known, other, statistics(matches, tokens), emitted, distinct)


def _future(right: Tensor, column: Tensor, run: Tensor, max_order: int) -> Tensor:
    """Expected matches of the tokens after a reference token, ``[batch, length, n, max_order]``.

    Args:
        right: ``[batch, ref_len]``, probability of each token, 0 past the end.
        column: ``[batch, length, n]``, the reference token that was emitted; -1: before the first.
        run: of the same shape, tokens up to it that are right.
        max_order: highest n-gram order.
    """
    shape = column.shape
    padded = functional.pad(right, (0, max_order + 1))
    column = (column + 1).flatten(1)  # of the next token

    def at(values: Tensor, distance: int) -> Tensor:
        return values.gather(1, (column + distance).clamp(max=values.size(1) - 1))

    found, tail, whole = [], [right.new_ones(column.shape)], padded
    for distance in range(max_order - 1):  # the next 1, 2, ... tokens are right
        tail.append(tail[-1] * at(padded, distance))
    for order in range(1, max_order + 1):
        if order > 1:  # whole[j]: the n tokens from j on are right
            whole = whole * shift(padded, 0, order - 1)
        count = at(whole.flip(1).cumsum(1).flip(1), 0)
        for distance in range(1, order):
            count = count + tail[distance] * (run.flatten(1) >= order - distance)
        found.append(count.view(shape))
    return torch.stack(found, dim=-1)
