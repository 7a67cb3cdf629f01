"""Sentences in which an arm's output differs most from the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu import BLEU

from recipes.reporting.tables import arms_of, column_name, figures, main_column
from recipes.running.trained_arms import START
from recipes.text import read_lines

PER_SIDE = 3  # sentences that are better, and as many that are worse
SHORTEST = 4  # words of the reference, so that there are n-grams of every order

Output = tuple[str, float]  # with its sentence BLEU


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
        bleu: the metric.
        sources: what was translated.

    Returns:
        Up to :data:`PER_SIDE` of each, as far as scores differ; of equal differences the earlier
        sentence comes first.
    """
    found = []
    for index, (ours, theirs) in enumerate(zip(outputs, baseline, strict=True)):
        lines = [reference[index] for reference in references]
        if ours == theirs or max(len(bleu.tokenizer(x).split()) for x in lines) < SHORTEST:
            continue
        pair = [(line, bleu.sentence_score(line, lines).score) for line in (theirs, ours)]
        source = None if sources is None else sources[index]
        found.append(Example(index + 1, source, lines, *pair))
    better = sorted(found, key=lambda example: -example.difference)[:PER_SIDE]
    worse = sorted(found, key=lambda example: example.difference)[:PER_SIDE]
    return [e for e in better if e.difference > 0], [e for e in worse if e.difference < 0]


def find_examples(
    results: dict[str, Any], work_dir: Path, text_dir: Path | None = None
) -> dict[str, Any] | None:
    """Examples of every arm on the first test set, with the largest beam.

    Source and references are the original text in ``text_dir`` or ``work_dir/text``.

    Returns:
        ``column`` and ``rule``, where they are from and how they were chosen, in words; and
        ``arms``, for each its ``system`` and ``baseline``, and the examples that are ``better`` and
        ``worse``. None where texts or outputs are gone.
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
            better, worse = compare_outputs(*pair, references, bleu, sources)
            sides = {"better": better, "worse": worse}
            arms.append({"system": system, "baseline": baseline, **sides})
    rule = (
        f"Of each arm the {PER_SIDE} sentences with the largest gain and the {PER_SIDE} with the "
        "largest loss of sentence BLEU (sacrebleu, effective order) against the baseline, among "
        f"those whose reference has at least {SHORTEST} words; of equal ones the earlier. Extremes "
        f"by design: they show what changes, not how often. Reference: {', '.join(names)}."
    )
    return {"column": column_name(results, column), "rule": rule, "arms": arms} if arms else None
