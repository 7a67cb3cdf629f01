"""Scores of detokenised text through sacrebleu, with its paired bootstrap test."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest

from recipes.errors import RecipeError

METRICS: dict[str, type[Metric]] = {"bleu": BLEU, "chrf": CHRF, "ter": TER}


@dataclass
class Score:
    """One figure of one system.

    ``p_value`` compares with the baseline (None for the baseline itself); ``interval`` is the
    half width of the 95 % bootstrap interval around ``mean``.
    """

    value: float
    p_value: float | None = None
    mean: float | None = None
    interval: float | None = None


@dataclass
class SystemScores:
    """All figures of one system; ``length_ratio`` is BLEU's hypothesis / reference tokens."""

    scores: dict[str, Score]
    length_ratio: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


@dataclass
class Comparison:
    """Scores of several systems on one test set, and the signature of every metric."""

    systems: dict[str, SystemScores]
    signatures: dict[str, str] = field(default_factory=dict)


def compare(
    systems: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    baseline: str | None = None,
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
    samples: int = 1000,
) -> Comparison:
    """Score ``systems`` and test each against ``baseline`` with paired bootstrap resampling.

    Args:
        systems: detokenised hypotheses by system name.
        references: one list of lines for each reference set.
        baseline: the system to compare with; None scores without a test.
        metrics: names out of bleu, chrf, ter.
        samples: bootstrap resamples (Koehn 2004).

    Raises:
        RecipeError: hypotheses and references differ in number.
    """
    for name, lines in systems.items():
        for number, reference in enumerate(references):
            if len(lines) != len(reference):
                raise RecipeError(
                    f"{name}: {len(lines)} hypotheses, but reference {number} has "
                    f"{len(reference)} lines"
                )
    bleu = BLEU(references=references)
    result = Comparison({})
    for system, lines in systems.items():
        result.systems[system] = SystemScores({}, bleu.corpus_score(lines, None).ratio)
    if baseline is not None and len(systems) > 1:
        _paired_bootstrap(result, systems, references, baseline, metrics, samples)
        return result
    for name in metrics:
        metric = METRICS[name](references=references)
        for system, lines in systems.items():
            score = metric.corpus_score(lines, None).score
            result.systems[system].scores[name] = Score(score)
        result.signatures[name] = str(metric.get_signature())
    return result


def _paired_bootstrap(
    result: Comparison,
    systems: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    baseline: str,
    metrics: Sequence[str],
    samples: int,
) -> None:
    """Scores with p-values and intervals; the signatures then name seed and resamples too."""
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)
    order = [baseline, *(name for name in systems if name != baseline)]
    for name in metrics:
        test = PairedTest(
            [(system, systems[system]) for system in order],
            {name: METRICS[name](references=references)},
            None,
            test_type="bs",
            n_samples=samples,
        )
        signatures, columns = test()
        (column,) = (key for key in columns if key != "System")
        for system, outcome in zip(order, columns[column], strict=True):
            # sacrebleu gives numpy's float32 for some of them.
            figures = (outcome.score, outcome.p_value, outcome.mean, outcome.ci)
            score = Score(*(None if figure is None else float(figure) for figure in figures))
            # Between equal outputs there is no difference to test; sacrebleu's formula would
            # give its smallest p-value, 1 / (samples + 1).
            if system != baseline and list(systems[system]) == list(systems[baseline]):
                score.p_value = 1.0
            result.systems[system].scores[name] = score
        result.signatures[name] = str(signatures[column])
