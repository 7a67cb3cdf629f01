"""How sure a model was of what it wrote: the probabilities that fairseq-generate prints.

Training on rewards can make a model's distributions sharper without putting other tokens first
(Choshen et al. 2020, "On the Weaknesses of Reinforcement Learning for Neural Machine
Translation", who call it peakiness). The mean probability of the output tokens shows that.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from recipes.errors import RecipeError
from recipes.schema.recipe import ITERATIVE_TASKS
from recipes.text import read_lines

# In the settings that fairseq-generate prints first.
_TASK = re.compile(r"'task': (?:\{'_name': )?'(?P<task>\w+)'")
_POSITIONAL = re.compile(r"^P-(?P<index>\d+)\t(?P<scores>.*)$")


def average_probability(log: Path) -> float | None:
    """Mean over all output tokens, ``</s>`` included, of the probability the model gave them.

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
