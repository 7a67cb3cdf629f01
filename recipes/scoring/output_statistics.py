"""What a corpus score does not tell: repetition, and BLEU by the length of the sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from recipes.errors import RecipeError
from recipes.scoring.metrics import MetricOptions

REPEATED_ORDERS = (1, 2, 4)


def repeated_ngram_rate(sentences: Sequence[Sequence[str]], order: int) -> float:
    """Share of n-gram tokens that repeat an earlier n-gram of the same sentence.

    Over the corpus: ``sum_s (n-grams of s - distinct n-grams of s) / sum_s n-grams of s``, so
    that a sentence counts by its length. 0 where no sentence is as long as ``order``.

    Args:
        sentences: tokens of each sentence.
        order: n.
    """
    total = repeated = 0
    for tokens in sentences:
        ngrams = [tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)]
        total += len(ngrams)
        repeated += len(ngrams) - len(set(ngrams))
    return repeated / total if total else 0.0


def consecutive_repeats(sentences: Sequence[Sequence[str]]) -> float:
    """Tokens that are the same as the one right before them, for every 100 tokens.

    What non-autoregressive models are known for: positions are filled independently, and two
    neighbours take the same word. 0 where there are no tokens.

    Args:
        sentences: tokens of each sentence.
    """
    tokens = sum(map(len, sentences))
    repeats = sum(token == before for sentence in sentences for before, token in pairwise(sentence))
    return 100 * repeats / tokens if tokens else 0.0


def repeated_ngram_rates(lines: Sequence[str], options: MetricOptions) -> dict[str, float]:
    """:func:`repeated_ngram_rate` of BLEU's tokens for n = 1, 2, 4, by n as a string."""
    tokens = options.tokens(lines)
    return {str(order): repeated_ngram_rate(tokens, order) for order in REPEATED_ORDERS}


@dataclass(frozen=True)
class LengthBucket:
    """Sentences (their positions) whose reference has ``shortest`` to ``longest`` words."""

    shortest: int
    longest: int
    positions: tuple[int, ...]


def length_buckets(
    lengths: Sequence[int], bounds: Sequence[int], smallest: int
) -> list[LengthBucket]:
    """Sort sentences into buckets of length, in ascending order, no sentence left out.

    A bucket ends at each of ``bounds``, the last one at the longest sentence. From the shortest
    up, a bucket with fewer than ``smallest`` sentences is merged with the next; a last one that
    stays too small, with the one before. So only a corpus smaller than that has a smaller bucket.

    Args:
        lengths: words of each reference.
        bounds: longest length of each bucket but the last, ascending.
        smallest: sentences that a bucket must have.
    """
    if not lengths:
        return []
    longest = max(lengths)
    ends = [bound for bound in bounds if bound < longest]
    # Up to the next bound where there is one: 21 to 30, though the longest has 28.
    ends.append(next((bound for bound in bounds if bound >= longest), longest))
    starts = [min(1, min(lengths)), *(end + 1 for end in ends)]
    merged: list[LengthBucket] = []
    for start, end in zip(starts, ends, strict=False):
        positions = tuple(i for i, length in enumerate(lengths) if start <= length <= end)
        bucket = LengthBucket(start, end, positions)
        if merged and len(merged[-1].positions) < smallest:
            bucket = _joined(merged.pop(), bucket)
        merged.append(bucket)
    if len(merged) > 1 and len(merged[-1].positions) < smallest:
        last = merged.pop()
        merged.append(_joined(merged.pop(), last))
    return merged


def _joined(shorter: LengthBucket, longer: LengthBucket) -> LengthBucket:
    positions = tuple(sorted(shorter.positions + longer.positions))
    return LengthBucket(shorter.shortest, longer.longest, positions)


def bucket_scores(
    systems: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    options: MetricOptions,
    buckets: Sequence[LengthBucket],
) -> dict[str, list[float]]:
    """BLEU of each system on the sentences of each bucket, all references used."""
    scores: dict[str, list[float]] = {system: [] for system in systems}
    for bucket in buckets:
        bleu = options.bleu([[lines[i] for i in bucket.positions] for lines in references])
        for system, lines in systems.items():
            score = bleu.corpus_score([lines[i] for i in bucket.positions], None)
            scores[system].append(score.score)
    return scores


def reference_buckets(
    references: Sequence[Sequence[str]],
    options: MetricOptions,
    bounds: Sequence[int],
    smallest: int,
) -> list[LengthBucket]:
    """:func:`length_buckets` by the words (BLEU's tokens) of a sentence's first reference.

    Raises:
        RecipeError: the bounds do not ascend from 1, or ``smallest`` is below 1.
    """
    if list(bounds) != sorted(set(bounds)) or not bounds or bounds[0] < 1:
        raise RecipeError(
            f"length buckets end at ascending numbers of words, 1 or more: {list(bounds)}"
        )
    if smallest < 1:
        raise RecipeError(f"a length bucket has at least 1 sentence, not {smallest}")
    first = [next(filter(str.strip, row), "") for row in zip(*references, strict=True)]
    return length_buckets([len(tokens) for tokens in options.tokens(first)], bounds, smallest)
