"""sacrebleu's metrics, and the options that change what they measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric

from recipes.errors import RecipeError
from recipes.schema.evaluation import Evaluation

METRICS: dict[str, type[Metric]] = {"bleu": BLEU, "chrf": CHRF, "ter": TER}
LOWER_IS_BETTER = ("ter",)


def present_references(
    references: Sequence[Sequence[str]] | None,
) -> list[list[str | None]] | None:
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


@dataclass(frozen=True)
class MetricOptions:
    """Options of the ``sacrebleu`` command, under its names; the defaults are its own.

    Args:
        tokenize: BLEU's tokeniser (13a, intl, zh, char, ...); None is that of ``target_lang``,
            13a for most languages.
        lowercase: BLEU that does not see case.
        chrf_word_order: 2 makes chrF++ out of chrF2.
        target_lang: what sacrebleu knows from ``--language-pair``; None is unknown.
    """

    tokenize: str | None = None
    lowercase: bool = False
    chrf_word_order: int = 0
    target_lang: str | None = None

    def __post_init__(self) -> None:
        if self.tokenize is not None and self.tokenize not in BLEU.TOKENIZERS:
            raise RecipeError(
                f"tokenize: sacrebleu has no tokeniser {self.tokenize!r}, "
                f"only {', '.join(BLEU.TOKENIZERS)}"
            )
        if self.chrf_word_order < 0:
            raise RecipeError(f"chrf_word_order: {self.chrf_word_order} is below 0")

    @classmethod
    def of_recipe(cls, evaluation: Evaluation) -> MetricOptions:
        """The options that a recipe gives."""
        return cls(evaluation.tokenize, evaluation.lowercase, evaluation.chrf_word_order)

    def bleu(self, references: Sequence[Sequence[str]] | None = None) -> BLEU:
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

    def metric(self, name: str, references: Sequence[Sequence[str]]) -> Metric:
        """The metric ``name`` (bleu, chrf, ter) with its references read in."""
        if name == "bleu":
            return self.bleu(references)
        present = present_references(references)
        if name == "chrf":
            return CHRF(word_order=self.chrf_word_order, references=present)
        return METRICS[name](references=present)

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
