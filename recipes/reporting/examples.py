"""Sentences in which an arm's output differs most from the baseline's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU

from recipes.reporting.tables import Column, arms_of, figures, main_column
from recipes.running.trained_arms import START
from recipes.text import read_lines

MAX_ORDER = 4
PER_SIDE = 3  # sentences that are better, and as many that are worse
SHORTEST = MAX_ORDER  # words of the reference, so that there are n-grams of every order

Word = tuple[str, int]  # with the length of the longest matched n-gram it is part of


@dataclass
class Output:
    """A translation: its words, marked, and its sentence BLEU."""

    words: list[Word]
    bleu: float


@dataclass
class Example:
    """One sentence as two systems translate it; ``number`` counts from 1."""

    number: int
    source: str | None
    references: list[str]
    baseline: Output
    output: Output

    @property
    def difference(self) -> float:
        """In sentence BLEU."""
        return self.output.bleu - self.baseline.bleu


@dataclass
class ArmExamples:
    """Examples of one system against its baseline, largest difference first."""

    system: str
    baseline: str
    better: list[Example]
    worse: list[Example]


@dataclass
class Examples:
    """Examples of all arms, and the words for how they were chosen."""

    column: Column
    rule: str
    arms: list[ArmExamples]


def matched_orders(tokens: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """For each token the order of the longest matched n-gram that it is part of, 0 for none.

    Matches are clipped as in BLEU: an n-gram matches as often as it is in the reference that has
    most of it, from the left.
    """
    orders = [0] * len(tokens)
    for order in range(1, MAX_ORDER + 1):
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            allowed |= Counter(_ngrams(reference, order))
        for start, ngram in enumerate(_ngrams(tokens, order)):
            if allowed[ngram] > 0:
                allowed[ngram] -= 1
                orders[start : start + order] = [order] * order
    return orders


def _ngrams(tokens: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)]


def compare_outputs(
    baseline: Sequence[str],
    outputs: Sequence[str],
    references: Sequence[Sequence[str]],
    bleu: BLEU,
    sources: Sequence[str] | None = None,
    count: int = PER_SIDE,
) -> tuple[list[Example], list[Example]]:
    """The sentences with the largest gain, and those with the largest loss, in sentence BLEU.

    Args:
        baseline: translations to compare with, detokenised.
        outputs: translations of the same sentences.
        references: one list of lines for each reference set.
        bleu: the metric; its words are what is compared.
        sources: what was translated.
        count: of each; fewer where fewer sentences differ in score. Of equal differences the
            earlier sentence comes first.
    """

    def words(line: str) -> list[str]:
        line = line.lower() if bleu.lowercase else line
        return bleu.tokenizer(line.rstrip()).split()

    found = []
    for index, (ours, theirs) in enumerate(zip(outputs, baseline, strict=True)):
        lines = [reference[index] for reference in references]
        if ours == theirs or max(len(words(line)) for line in lines) < SHORTEST:
            continue
        scores = [bleu.sentence_score(line, lines).score for line in (ours, theirs)]
        found.append((scores[0] - scores[1], index, scores))

    def example(index: int, scores: list[float]) -> Example:
        lines = [reference[index] for reference in references]
        split = [words(line) for line in lines]
        marked = []
        for line, score in zip((outputs[index], baseline[index]), scores, strict=True):
            tokens = words(line)
            orders = matched_orders(tokens, split)
            marked.append(Output(list(zip(tokens, orders, strict=True)), score))
        source = None if sources is None else sources[index]
        return Example(index + 1, source, lines, marked[1], marked[0])

    chosen = []
    for sign in (1, -1):
        side = sorted((f for f in found if sign * f[0] > 0), key=lambda f: (-sign * f[0], f[1]))
        chosen.append([example(index, scores) for _, index, scores in side[:count]])
    return chosen[0], chosen[1]


def find_examples(
    results: dict[str, Any], work_dir: Path, text_dir: Path | None = None
) -> Examples | None:
    """Examples of every arm on the first test set, with the largest beam.

    Source and references are the original text in ``text_dir`` or ``work_dir/text``. None where
    these or the outputs are gone.
    """
    column = main_column(results)
    split, _ = column
    texts = _original(results, split, [text_dir, work_dir / "text"])
    outputs = {
        system: read_lines(path)
        for system in results["systems"]
        if (path := _hypotheses(results, work_dir, system, column)).is_file()
    }
    if texts is None or not outputs:
        return None
    sources, references, where = texts
    bleu = _sentence_bleu(results["signatures"]["bleu"])
    arms = []
    for system in _compared(results, outputs):
        baseline = figures(results, system, column)["baseline"]
        if baseline not in outputs or len(outputs[system]) != len(references[0]):
            continue
        better, worse = compare_outputs(
            outputs[baseline], outputs[system], references, bleu, sources
        )
        arms.append(ArmExamples(system, baseline, better, worse))
    rule = (
        f"Of each arm the {PER_SIDE} sentences with the largest gain and the {PER_SIDE} with the "
        "largest loss of sentence BLEU (sacrebleu, effective order) against the baseline, among "
        f"those whose reference has at least {SHORTEST} words; of equal ones the earlier. Extremes "
        f"by design: they show what changes, not how often. Reference: {where}."
    )
    return Examples(column, rule, arms) if arms else None


def _compared(results: dict[str, Any], outputs: dict[str, list[str]]) -> list[str]:
    """The first system of every arm but the start and the control."""
    return [
        systems[0]
        for arm, systems in arms_of(results).items()
        if arm not in (START, results["control"]) and systems[0] in outputs
    ]


def _sentence_bleu(signature: str) -> BLEU:
    """BLEU of sentences, with the tokeniser and the case of the table's signature."""
    options = dict(part.split(":", 1) for part in signature.split("|"))
    return BLEU(
        tokenize=options.get("tok", "13a"),
        lowercase=options.get("case") == "lc",
        effective_order=True,
    )


def _hypotheses(results: dict[str, Any], work_dir: Path, system: str, column: Column) -> Path:
    split, beam = column
    lenpen = float(results["systems"][system]["lenpen"][beam])
    name = f"{split}.beam{beam}.lenpen{lenpen:g}.{results['languages'][1]}"
    return work_dir / "decoded" / system / name


Texts = tuple[list[str] | None, list[list[str]], str]  # sources, references, where from


def _original(results: dict[str, Any], split: str, folders: list[Path | None]) -> Texts | None:
    names = results["scored_text"][split].split(", ")
    for folder in folders:
        if folder is None or not all((folder / name).is_file() for name in names):
            continue
        source = folder / f"{split}.{results['languages'][0]}"
        sources = read_lines(source) if source.is_file() else None
        return sources, [read_lines(folder / name) for name in names], ", ".join(names)
    return None
