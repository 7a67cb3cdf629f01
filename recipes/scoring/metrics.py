"""The metrics, for scores, tests, choices on valid and tables alike: a new one has a line here.

Every metric is one of sacrebleu's ``Metric`` objects, so that its bootstrap and its approximate
randomisation work for all of them.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sacrebleu import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric, Score, Signature

from recipes.errors import RecipeError
from recipes.schema.recipe import Evaluation

References = Sequence[Sequence[str]]
# Of hypotheses, references (one list of lines for each reference set) and sources.
SentenceScores = Callable[[Sequence[str], References, "Sequence[str] | None"], Sequence[float]]
K = TypeVar("K")


def present_references(references: References | None) -> list[Any] | None:
    """References as sacrebleu's API takes them where sentences differ in their number.

    An empty line becomes None, no reference, if another reference has that sentence. An empty
    text would count as a reference of length 0, and halve the reference length that TER divides
    by.
    """
    if references is None:
        return None
    rows = [
        [line if line.strip() or not any(map(str.strip, row)) else None for line in row]
        for row in zip(*references, strict=True)
    ]
    return [list(lines) for lines in zip(*rows, strict=True)]


@dataclass
class MetricOptions(Evaluation):
    """What is said of an evaluation, with ``target_lang``: the language by which sacrebleu chooses
    BLEU's tokeniser where none is named, as with ``--language-pair``; None is unknown."""

    target_lang: str | None = None

    def __post_init__(self) -> None:
        if self.tokenize is not None and self.tokenize not in BLEU.TOKENIZERS:
            raise RecipeError(
                f"tokenize: sacrebleu has no tokeniser {self.tokenize!r}, "
                f"only {', '.join(BLEU.TOKENIZERS)}"
            )
        if self.chrf_word_order < 0:
            raise RecipeError(f"chrf_word_order: {self.chrf_word_order} is below 0")

    def bleu(self, references: References | None = None) -> BLEU:
        """BLEU with these options.

        Raises:
            RecipeError: the tokeniser needs a package or a file that is missing.
        """
        try:
            return BLEU(
                lowercase=self.lowercase,
                tokenize=self.tokenize,
                trg_lang=self.target_lang or "",
                references=present_references(references),
            )
        except (ImportError, RuntimeError, OSError) as error:
            raise RecipeError(f"tokenize {self.tokenize!r}: {error}") from error

    def flags(self) -> list[str]:
        """The same options on the command line of ``sacrebleu``."""
        flags = ["--tokenize", self.tokenize] if self.tokenize is not None else []
        flags += ["--lowercase"] if self.lowercase else []
        if self.chrf_word_order:
            flags += ["--chrf-word-order", str(self.chrf_word_order)]
        return flags

    def tokens(self, lines: Sequence[str]) -> list[list[str]]:
        """Words of each line as BLEU counts them: punctuation marks are words of their own."""
        tokenizer = self.bleu().tokenizer
        lines = [line.lower() for line in lines] if self.lowercase else lines
        return [tokenizer(line.rstrip()).split() for line in lines]


@dataclass(frozen=True)
class KnownMetric:
    """An entry of the registry; ``build`` makes the metric, with references and sources read in."""

    title: str
    build: Callable[[MetricOptions, References, Sequence[str] | None], Metric]
    lower_is_better: bool = False
    digits: int = 2  # decimals that tables show
    by_sacrebleu: bool = False  # whether the ``sacrebleu`` command has it, under the same name

    def best(self, scores: Mapping[K, float]) -> K:
        """The key of the best score, the first of equal ones."""
        sign = -1 if self.lower_is_better else 1
        return max(scores, key=lambda key: sign * scores[key])


class SentenceMean(Metric):
    """A metric whose corpus score is the mean of its scores of sentences.

    Args:
        title: names it in messages and signatures.
        score: gives the score of each sentence.
        references: one list of lines for each reference set.
        sources: what was translated, or None where it is not known.
    """

    def __init__(
        self, title: str, score: SentenceScores, references: References, sources: Any
    ) -> None:
        super().__init__()
        self.title = title
        self.num_refs = len(references)
        self._score = score
        self._references = references
        self._sources = sources

    def _extract_corpus_statistics(self, hypotheses: Sequence[str], references: Any) -> Any:
        """Score and 1 for each sentence: of a set of sentences, their sums give the mean."""
        scores = list(map(float, self._score(hypotheses, self._references, self._sources)))
        if len(scores) != len(hypotheses) or not all(map(math.isfinite, scores)):
            raise RecipeError(
                f"metric {self.title}: expected {len(hypotheses)} finite numbers, one for each "
                f"sentence, found {len(scores)} values"
            )
        return [[score, 1.0] for score in scores]

    def _aggregate_and_compute(self, stats: Any) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])

    def _compute_score_from_stats(self, stats: Any) -> Score:
        return Score(self.title, float(stats[0] / stats[1]))

    def _check_corpus_score_args(self, *arguments: Any) -> None:
        pass  # the lines were checked before

    def get_signature(self) -> Signature:
        signature = Signature({"num_refs": self.num_refs})
        signature.info = {"metric": self.title, **signature.info}
        return signature

    # sacrebleu's metrics are made of these; a mean of whole scores needs none of them.
    _preprocess_segment: Any = None
    _extract_reference_info: Any = None
    _compute_segment_statistics: Any = None


def _comet(options: MetricOptions, references: References, sources: Any) -> Metric:
    """COMET times 100, with the first reference of each sentence."""
    if sources is None:
        raise RecipeError("metric comet reads the source text too: give it with --source FILE")
    model = _comet_model(options.comet_model)

    def score(hypotheses: Sequence[str], references: References, sources: Any) -> list[float]:
        first = [next(filter(str.strip, row), "") for row in zip(*references, strict=True)]
        rows = zip(sources, hypotheses, first, strict=True)
        data = [{"src": source, "mt": line, "ref": reference} for source, line, reference in rows]
        found = model.predict(data, batch_size=32, gpus=_gpus(), progress_bar=False)
        return [100 * value for value in found.scores]

    name = os.path.basename(options.comet_model)
    return SentenceMean(f"COMET {name}", score, references, sources)


def _gpus() -> int:
    import torch

    return int(torch.cuda.is_available())


@functools.cache
def _comet_model(name: str) -> Any:
    try:
        import comet
    except ImportError as error:
        raise RecipeError(
            f"metric comet needs the package unbabel-comet ({error}); install it with: python -m "
            "pip install 'fairseq-sequence-training[comet]'"
        ) from error
    try:
        path = name if os.path.isfile(name) else comet.download_model(name)
        return comet.load_from_checkpoint(path)
    except Exception as error:  # of the network, the hub, or a file that is no model
        raise RecipeError(
            f"metric comet: the model {name} cannot be loaded ({error}); download it on a machine "
            "with a network and give the file of its checkpoint (--comet-model, or "
            "evaluation.comet_model in a recipe)"
        ) from error


METRICS = {
    "bleu": KnownMetric("BLEU", lambda o, r, s: o.bleu(r), by_sacrebleu=True),
    "chrf": KnownMetric(
        "chrF2",
        lambda o, r, s: CHRF(word_order=o.chrf_word_order, references=present_references(r)),
        by_sacrebleu=True,
    ),
    "ter": KnownMetric(
        "TER",
        lambda o, r, s: TER(references=present_references(r)),
        lower_is_better=True,
        by_sacrebleu=True,
    ),
    "comet": KnownMetric("COMET", _comet),
}


def find_metric(name: str) -> KnownMetric:
    """The metric of a name, or ``module:function`` of the user's own.

    The function gets hypotheses, references (one list of lines for each reference set) and sources
    (None where they are not known), and returns a score for each sentence. Where a lower score is
    better, it has the attribute ``lower_is_better = True``.

    Raises:
        RecipeError: there is no such metric, module or function.
    """
    if name in METRICS:
        return METRICS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise RecipeError(
            f"there is no metric {name!r} (metrics: {', '.join(METRICS)}, or module:function of "
            "your own)"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"metric {name}: {error}; {module}.py is looked for in {os.getcwd()}"
        ) from error
    lower = bool(getattr(function, "lower_is_better", False))
    return KnownMetric(
        attribute, lambda o, r, s: SentenceMean(name, function, r, s), lower, digits=4
    )


def metric_file(name: str) -> Path | None:
    """The file of a user's own metric, on which its scores depend."""
    if name in METRICS:
        return None
    find_metric(name)
    file = sys.modules[name.partition(":")[0]].__file__
    return Path(file) if file else None


def metric_facts(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What tables need to know of metrics, by name."""
    known = {name: find_metric(name) for name in names}
    facts = ("title", "lower_is_better", "digits")
    return {name: {key: getattr(metric, key) for key in facts} for name, metric in known.items()}
