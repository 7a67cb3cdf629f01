"""Sentences in which an arm's output differs most from the baseline's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU

from recipes.reporting.tables import arms_of, column_name, figures, main_column
from recipes.running.trained_arms import START
from recipes.text import read_lines

MAX_ORDER = 4
PER_SIDE = 3  # sentences that are better, and as many that are worse
SHORTEST = MAX_ORDER  # words of the reference, so that there are n-grams of every order

Output = tuple[list[tuple[str, int]], float]  # words with their order, see matched_orders; BLEU


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
        return self.output[1] - self.baseline[1]


@dataclass
class ArmExamples:
    """Examples of one system against its baseline, largest difference first."""

    system: str
    baseline: str
    better: list[Example]
    worse: list[Example]


@dataclass
class Examples:
    """Examples of all arms, where they are from, and the words for how they were chosen."""

    column: str
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
) -> tuple[list[Example], list[Example]]:
    """The sentences with the largest gain, and those with the largest loss, in sentence BLEU.

    Args:
        baseline: translations to compare with, detokenised.
        outputs: translations of the same sentences.
        references: one list of lines for each reference set.
        bleu: the metric; its words are what is compared.
        sources: what was translated.

    Returns:
        Up to :data:`PER_SIDE` of each, as far as scores differ; of equal differences the earlier
        sentence comes first.
    """

    def words(line: str) -> list[str]:
        line = line.lower() if bleu.lowercase else line
        return bleu.tokenizer(line.rstrip()).split()

    found = []
    for index, (ours, theirs) in enumerate(zip(outputs, baseline, strict=True)):
        lines = [reference[index] for reference in references]
        split = [words(line) for line in lines]
        if ours == theirs or max(map(len, split)) < SHORTEST:
            continue
        pair: list[Output] = []
        for line in (theirs, ours):
            tokens = words(line)
            marked = list(zip(tokens, matched_orders(tokens, split), strict=True))
            pair.append((marked, bleu.sentence_score(line, lines).score))
        source = None if sources is None else sources[index]
        found.append(Example(index + 1, source, lines, *pair))
    found.sort(key=lambda example: -example.difference)  # stable: the earlier first
    better = [example for example in found if example.difference > 0]
    worse = [example for example in found if example.difference < 0]
    worse.sort(key=lambda example: example.difference)
    return better[:PER_SIDE], worse[:PER_SIDE]


def find_examples(
    results: dict[str, Any], work_dir: Path, text_dir: Path | None = None
) -> Examples | None:
    """Examples of every arm on the first test set, with the largest beam.

    Source and references are the original text in ``text_dir`` or ``work_dir/text``. None where
    these or the outputs are gone.
    """
    column = main_column(results)
    split, beam = column
    source_lang, target_lang = results["languages"]
    names = results["scored_text"][split].split(", ")
    folders = [text_dir, work_dir / "text"]
    folder = next((f for f in folders if f and all((f / n).is_file() for n in names)), None)
    outputs = {}
    for name, system in results["systems"].items():
        file = f"{split}.beam{beam}.lenpen{float(system['lenpen'][beam]):g}.{target_lang}"
        if (path := work_dir / "decoded" / name / file).is_file():
            outputs[name] = read_lines(path)
    if folder is None or not outputs:
        return None
    source = folder / f"{split}.{source_lang}"
    sources = read_lines(source) if source.is_file() else None
    references = [read_lines(folder / name) for name in names]
    # The tokeniser and the case are those of the table's signature.
    signature = results["signatures"].get("bleu", "")
    options = dict(part.split(":", 1) for part in signature.split("|") if part)
    lowercase = options.get("case") == "lc"
    bleu = BLEU(tokenize=options.get("tok", "13a"), lowercase=lowercase, effective_order=True)
    arms = []
    for arm, (system, *_) in arms_of(results).items():
        baseline = figures(results, system, column)["baseline"]
        if arm in (START, results["control"]) or not {system, baseline} <= outputs.keys():
            continue
        if len(outputs[system]) == len(references[0]):
            pair = outputs[baseline], outputs[system]
            found = compare_outputs(*pair, references, bleu, sources)
            arms.append(ArmExamples(system, baseline, *found))
    rule = (
        f"Of each arm the {PER_SIDE} sentences with the largest gain and the {PER_SIDE} with the "
        "largest loss of sentence BLEU (sacrebleu, effective order) against the baseline, among "
        f"those whose reference has at least {SHORTEST} words; of equal ones the earlier. Extremes "
        f"by design: they show what changes, not how often. Reference: {', '.join(names)}."
    )
    return Examples(column_name(results, column), rule, arms) if arms else None
