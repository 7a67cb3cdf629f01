"""Scores of several systems, paired tests against a baseline, and statistics of their outputs.

The test is approximate randomisation (Riezler and Maxwell 2005). The p-value of sacrebleu's paired
bootstrap is no use: it takes the absolute value of the differences before it subtracts their mean,
so that outputs of equal quality give about .43, and hardly anything gives more.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest

from recipes.errors import RecipeError
from recipes.scoring.metrics import MetricOptions, References, find_metric
from recipes.scoring.output_statistics import (
    average_probability,
    consecutive_repeats,
    length_buckets,
)

Systems = Mapping[str, Sequence[str]]  # detokenised hypotheses by the system's name


@dataclass
class Score:
    """One figure of one system."""

    value: float
    p_value: float | None = None  # of the difference to the baseline; None for that itself
    mean: float | None = None  # of the bootstrap
    interval: float | None = None  # half width of its 95 % interval around ``mean``


@dataclass
class SystemScores:
    """All figures of one system; ``docs/evaluation.md`` describes them."""

    scores: dict[str, Score] = field(default_factory=dict)  # by metric
    length_ratio: float = 0.0
    precisions: list[float] = field(default_factory=list)  # n = 1 to 4, in percent
    geometric_mean: float = 0.0
    brevity_penalty: float = 1.0
    length_buckets: list[dict[str, Any]] = field(default_factory=list)
    consecutive_repeats_per_100_tokens: float | None = None
    average_probability: float | None = None


@dataclass
class Comparison:
    """Scores of several systems on one test set, and the signature of every metric."""

    systems: dict[str, SystemScores]
    signatures: dict[str, str] = field(default_factory=dict)  # with those of the bootstrap, if any
    randomization_signatures: dict[str, str] = field(default_factory=dict)
    reference_consecutive_repeats_per_100_tokens: float | None = None


def evaluate(
    texts: Systems,
    references: References,
    baseline: str | None,
    options: MetricOptions,
    sources: Sequence[str] | None,
    logs: Mapping[str, Path | None],
) -> Comparison:
    """All figures of several systems on one test set: see :func:`compare`, :func:`describe`.

    Args:
        logs: what fairseq-generate printed, by system, as far as it is known.
    """
    result = compare(texts, references, baseline, options, sources)
    describe(result, texts, references, baseline, options)
    for system, log in logs.items():
        row = result.systems[system]
        row.average_probability = None if log is None else average_probability(log)
    return result


def check_lines(systems: Systems, references: References) -> None:
    """Check that there is something to score, line by line.

    Raises:
        RecipeError: no references, a text without a single word, or texts of different length.
    """
    if not references:
        raise RecipeError("there is no reference to score against; give --reference FILE")
    for number, lines in enumerate(references):
        if not any(line.strip() for line in lines):
            raise RecipeError(f"reference {number} is empty: it has {len(lines)} lines, no word")
    for name, lines in systems.items():
        for number, reference in enumerate(references):
            if len(lines) != len(reference):
                raise RecipeError(
                    f"{name}: {len(lines)} hypotheses, but reference {number} has "
                    f"{len(reference)} lines"
                )
        if not any(line.strip() for line in lines):
            raise RecipeError(f"{name}: all {len(lines)} hypotheses are empty")


def compare(
    systems: Systems,
    references: References,
    baseline: str | None = None,
    options: MetricOptions | None = None,
    sources: Sequence[str] | None = None,
) -> Comparison:
    """Score ``systems``, and test each against ``baseline``.

    Args:
        references: one list of lines for each reference set.
        baseline: the system to compare with; None scores without a test or intervals.
        options: metrics, and how much is resampled and shuffled.
        sources: what was translated, for metrics that read it.

    Raises:
        RecipeError: see :func:`check_lines`.
    """
    check_lines(systems, references)
    options = options or MetricOptions()
    result = Comparison({system: SystemScores() for system in systems})
    for name in options.metrics:
        metric = find_metric(name).build(options, references, sources)
        if baseline is not None:
            _test(result, name, metric, systems, baseline, options)
            continue
        for system, lines in systems.items():
            result.systems[system].scores[name] = Score(metric.corpus_score(lines, None).score)
        result.signatures[name] = str(metric.get_signature())
    return result


def _test(
    result: Comparison,
    name: str,
    metric: Metric,
    systems: Systems,
    baseline: str,
    options: MetricOptions,
) -> None:
    """Scores with intervals and p-values; the signatures then name seed and resamples too."""
    samples, trials = options.bootstrap_samples, options.randomization_trials
    # Both tests go on from what the metric counts in each sentence, which takes the most time.
    statistics = {
        system: metric._extract_corpus_statistics(list(lines), None)
        for system, lines in systems.items()
    }
    outcomes, result.signatures[name] = _paired_test(statistics, baseline, metric, "bs", samples)
    for system, found in outcomes.items():
        # sacrebleu gives numpy's float32 for some of them.
        score = Score(float(found.score), None, float(found.mean), float(found.ci))
        result.systems[system].scores[name] = score
    if not trials or len(systems) == 1:
        return
    outcomes, signature = _paired_test(statistics, baseline, metric, "ar", trials)
    result.randomization_signatures[name] = signature
    for system, found in outcomes.items():
        if system != baseline:
            # sacrebleu counts the shuffles with a larger difference than the one seen. Those with
            # the same one count too; where k sentences differ, 2 in 2^k are known to have it: all
            # sentences exchanged, and none.
            pairs = zip(statistics[system], statistics[baseline], strict=True)
            differing = sum(list(ours) != list(theirs) for ours, theirs in pairs)
            p_value = min(float(found.p_value) + 2.0 ** (1 - differing), 1.0)
            result.systems[system].scores[name].p_value = p_value


def _paired_test(
    statistics: Mapping[str, Any], baseline: str, metric: Metric, test_type: str, trials: int
) -> tuple[dict[str, Any], str]:
    """sacrebleu's results by system, and the signature that names test, trials and seed.

    Args:
        statistics: what the metric counts in each sentence, by system.
        test_type: ``bs``, bootstrap resampling, of which only the intervals are of use, or ``ar``,
            approximate randomisation.
    """
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)
    order = [baseline, *(name for name in statistics if name != baseline)]
    named = [(system, statistics[system]) for system in order]
    of_statistics: Any = copy.copy(metric)
    of_statistics._extract_corpus_statistics = lambda counted, references: counted
    signatures, columns = PairedTest(named, {"metric": of_statistics}, None, test_type, trials)()
    (column,) = (key for key in columns if key != "System")
    return dict(zip(order, columns[column], strict=True)), str(signatures[column])


def describe(
    result: Comparison,
    systems: Systems,
    references: References,
    baseline: str | None = None,
    options: MetricOptions | None = None,
) -> None:
    """Add to ``result`` of :func:`compare` what BLEU is made of, repetition, and BLEU by length."""
    options = options or MetricOptions()
    bleu = options.bleu(references)
    every_reference = [line for lines in references for line in lines]
    repeats = consecutive_repeats(options.tokens(every_reference))
    result.reference_consecutive_repeats_per_100_tokens = repeats
    for system, lines in systems.items():
        row, score = result.systems[system], bleu.corpus_score(lines, None)
        row.length_ratio, row.brevity_penalty = score.ratio, score.bp
        row.precisions = list(score.precisions)
        row.geometric_mean = math.prod(score.precisions) ** (1 / len(score.precisions))
        row.consecutive_repeats_per_100_tokens = consecutive_repeats(options.tokens(lines))
    # A sentence's length is that of its first reference, in BLEU's tokens.
    first = [next(filter(str.strip, row), "") for row in zip(*references, strict=True)]
    lengths = [len(tokens) for tokens in options.tokens(first)]
    for bucket in length_buckets(lengths, options.length_buckets, options.smallest_bucket):
        bleu = options.bleu([[lines[i] for i in bucket.positions] for lines in references])
        scores = {
            system: bleu.corpus_score([lines[i] for i in bucket.positions], None).score
            for system, lines in systems.items()
        }
        about = {"from": bucket.shortest, "to": bucket.longest, "sentences": len(bucket.positions)}
        for system, score in scores.items():
            entry = {**about, "bleu": score}
            if baseline is not None and system != baseline:
                entry["baseline_bleu"] = scores[baseline]
            result.systems[system].length_buckets.append(entry)
