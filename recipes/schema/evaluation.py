"""What a recipe says about its evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from recipes.errors import require


@dataclass
class Evaluation:
    """Metrics, tests, and the buckets of BLEU by length.

    Args:
        metrics: names of :mod:`recipes.scoring.metrics`, or ``module:function`` of the user's own.
        selection: the metric, one of these, by which length penalties and the better baseline are
            chosen on valid, and which plots and short tables show; the first of them if not given.
        bootstrap_samples: resamples of the bootstrap that gives the intervals.
        randomization_trials: shuffles of approximate randomisation; 0 leaves the test out.
        tokenize: BLEU's tokeniser, as ``sacrebleu --tokenize``; null is sacrebleu's default, 13a.
        lowercase: BLEU that does not see case, as ``sacrebleu --lowercase``.
        chrf_word_order: as ``sacrebleu --chrf-word-order``; 2 is chrF++.
        comet_model: of the metric ``comet``: a name, or the file of a checkpoint.
        length_buckets: longest reference (words) of each bucket but the last.
        smallest_bucket: sentences; smaller buckets are merged with a neighbour.
    """

    metrics: list[str] = field(default_factory=lambda: ["bleu", "chrf", "ter"])
    selection: str | None = None
    bootstrap_samples: int = 1000
    randomization_trials: int = 10000
    tokenize: str | None = None
    lowercase: bool = False
    chrf_word_order: int = 0
    comet_model: str = "Unbabel/wmt22-comet-da"
    length_buckets: list[int] = field(default_factory=lambda: [10, 20, 30, 40, 50])
    smallest_bucket: int = 50

    @property
    def selected_by(self) -> str:
        """The metric of all choices."""
        return self.selection or ("bleu" if "bleu" in self.metrics else self.metrics[0])


def check_evaluation(evaluation: Evaluation) -> None:
    """Checks of ``evaluation:`` that need more than one key.

    Raises:
        ConfigError: names the key.
    """
    known = ", ".join(evaluation.metrics)
    where, bounds = "evaluation.selection", evaluation.length_buckets
    chosen = f"{where}: {evaluation.selection!r} is not one of evaluation.metrics ({known})"
    require(evaluation.selected_by in evaluation.metrics, chosen)
    require(evaluation.bootstrap_samples >= 1, "evaluation.bootstrap_samples: at least 1")
    trials = "evaluation.randomization_trials: 0 (no such test) or more"
    require(evaluation.randomization_trials >= 0, trials)
    ascending = bounds and bounds == sorted(set(bounds)) and bounds[0] >= 1
    require(ascending, f"evaluation.length_buckets: ascending, from 1 on; found {bounds}")
    require(evaluation.smallest_bucket >= 1, "evaluation.smallest_bucket: at least 1 sentence")
