"""What a corpus score does not tell: repetition, BLEU by length, and how sure the model was."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from recipes.errors import RecipeError
from recipes.schema.recipe import ITERATIVE_TASKS
from recipes.text import read_lines

# In the settings that fairseq-generate prints first.
_TASK = re.compile(r"'task': (?:\{'_name': )?'(?P<task>\w+)'")
_POSITIONAL = re.compile(r"^P-(?P<index>\d+)\t(?P<scores>.*)$")


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
    longest = max(lengths)
    ends = [bound for bound in bounds if bound < longest]
    # Up to the next bound where there is one: 21 to 30, though the longest has 28.
    ends.append(next((bound for bound in bounds if bound >= longest), longest))

    def bucket(start: int, end: int) -> LengthBucket:
        inside = (i for i, length in enumerate(lengths) if start <= length <= end)
        return LengthBucket(start, end, tuple(inside))

    found: list[LengthBucket] = []
    start = min(1, min(lengths))
    for end in ends:
        if len(bucket(start, end).positions) >= smallest:
            found.append(bucket(start, end))
            start = end + 1
    if start <= ends[-1]:  # what is left is too small
        start = found.pop().shortest if found else start
        found.append(bucket(start, ends[-1]))
    return found


def average_probability(log: Path) -> float | None:
    """Mean over all output tokens, ``</s>`` included, of the probability the model gave them.

    Training on rewards can make a model's distributions sharper without putting other tokens first
    (Choshen et al. 2020, "On the Weaknesses of Reinforcement Learning for Neural Machine
    Translation", who call it peakiness); this shows it.

    From the P- lines of fairseq-generate, log-probabilities in base 2 with four decimals; of
    several hypotheses of a sentence (``--nbest``) the first counts. Every token weighs the same.
    None where there are no such lines.

    Models that fill all positions at once (``--task translation_lev``) have the place of ``<s>``
    and ``</s>`` given, some of them with probability 1: there both are left out. The probability
    of a token is that of the pass in which it was written.

    Raises:
        RecipeError: a P- line that is not made of numbers up to 0.
    """
    seen: set[str] = set()
    total, tokens = 0.0, 0
    task = None
    for line in read_lines(log):
        if task is None and (found := _TASK.search(line)):
            task = found["task"]
        match = _POSITIONAL.match(line)
        if match is None or match["index"] in seen:
            continue
        seen.add(match["index"])
        try:
            scores = [float(score) for score in match["scores"].split()]
        except ValueError as error:
            raise RecipeError(f"{log}: P-{match['index']}: {error}") from error
        if any(math.isnan(score) or score > 0.001 for score in scores):
            raise RecipeError(
                f"{log}: P-{match['index']} holds something other than log-probabilities; decode "
                "without flags that add to the model's scores (--unkpen, --prefix-size ...)"
            )
        if task in ITERATIVE_TASKS:
            scores = scores[1:-1]
        total += math.fsum(2 ** min(score, 0.0) for score in scores)
        tokens += len(scores)
    return total / tokens if tokens else None
