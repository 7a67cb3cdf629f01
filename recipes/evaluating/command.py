"""``python -m recipes evaluate``: any fairseq checkpoint, or any text, scored with sacrebleu."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes.data.test_sets import read_test_set
from recipes.errors import RecipeError
from recipes.evaluating.arguments import add_arguments as add_arguments
from recipes.evaluating.arguments import check_arguments
from recipes.evaluating.arguments import split_search_flags as split_search_flags
from recipes.evaluating.evaluated_systems import (
    EvaluatedSystem,
    check_search_flags,
    from_checkpoint,
    from_file,
)
from recipes.evaluating.metrics import MetricOptions
from recipes.evaluating.scoring import Comparison, compare, describe
from recipes.evaluating.tables import print_comparison, probability_change
from recipes.schema.data import TextSource
from recipes.text import read_lines, write_text

_SCHEMA = 4  # p-values are those of approximate randomisation
_STDOUT = Path("-")
_FEW_DIFFERENCES = 20  # lines


def main(args: argparse.Namespace, console: Console) -> None:
    """Decode what needs decoding, then score everything.

    Raises:
        RecipeError: something is missing, contradictory, or does not fit together.
    """
    if args.json == _STDOUT:
        console = Console(stderr=True)
    check_arguments(args)
    args.search_flags = [*shlex.split(args.generate_flags), *args.search_flags]
    check_search_flags(args.search_flags, args.sentencepiece)
    references = _references(args)
    target = args.language_pair.split("-")[1] if args.language_pair else None
    options = MetricOptions(args.tokenize, args.lowercase, args.chrf_word_order, target)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    baseline, systems = _systems(args, list(references.values()), say)
    lines = list(references.values())
    texts = {name: read_lines(system.text) for name, system in systems.items()}
    result = compare(
        texts,
        lines,
        baseline,
        args.metrics,
        args.bootstrap_samples,
        args.randomization_trials,
        options,
    )
    describe(result, texts, lines, baseline, options, args.length_buckets, args.smallest_bucket)
    for name, system in systems.items():
        result.systems[name].average_probability = system.average_probability()
    print_comparison(result, baseline, console)
    for line in _notes(texts, references, baseline):
        say(line)
    scored = _scored(list(systems.values()), list(references), len(lines[0]))
    say(scored)
    check = _sacrebleu_command(args, list(systems.values()), options, baseline)
    if _all_present(lines):
        say(f"the same scores: {check}")
    else:
        # The command has no way to say that a sentence has fewer references than others.
        check = None
    if args.json:
        content = {
            **_content(result, systems, baseline),
            "references": list(references),
            "bootstrap_samples": args.bootstrap_samples,
            "randomization_trials": args.randomization_trials,
            "scored": scored,
            "sacrebleu": check,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        if args.json == _STDOUT:
            print(text, end="")
        else:
            write_text(args.json, text)


def _references(args: argparse.Namespace) -> dict[str, list[str]]:
    """Lines of each reference set, by the name it is shown with."""
    if args.test_set:
        source, target = args.language_pair.split("-")
        test_set = TextSource(sacrebleu=args.test_set, language_pair=args.language_pair)
        rows = [references for _, references in read_test_set(test_set, (source, target))]
        name = f"sacrebleu's {args.test_set} {args.language_pair}"
        sets = [list(lines) for lines in zip(*rows, strict=True)]
        return {f"{name}, reference {i}" if i else name: lines for i, lines in enumerate(sets)}
    references = {str(path): read_lines(path) for path in args.reference}
    if len(references) < len(args.reference):
        raise RecipeError("--reference names the same file twice")
    if len({len(lines) for lines in references.values()}) > 1:
        counts = ", ".join(f"{name} {len(lines)}" for name, lines in references.items())
        raise RecipeError(f"the references differ in their number of lines: {counts}")
    for name, lines in references.items():
        if not any(line.strip() for line in lines):
            raise RecipeError(
                f"{name} is empty ({len(lines)} lines): no reference to score against"
            )
    return references


def _systems(
    args: argparse.Namespace, references: list[list[str]], say: Callable[[str], None]
) -> tuple[str | None, dict[str, EvaluatedSystem]]:
    """The baseline's name, and all systems by name, each only once."""
    systems: dict[str, EvaluatedSystem] = {}
    baseline = None
    if args.baseline_checkpoint:
        baseline = str(args.baseline_checkpoint)
        systems[baseline] = from_checkpoint(args.baseline_checkpoint, args, references, say)
    elif args.baseline:
        baseline = str(args.baseline)
        systems[baseline] = from_file(args.baseline, args, references)
    for path in args.checkpoint:
        if str(path) not in systems:
            systems[str(path)] = from_checkpoint(path, args, references, say)
    for path in args.hypotheses:
        if str(path) not in systems:
            systems[str(path)] = from_file(path, args, references)
    return baseline, systems


def _notes(
    texts: dict[str, list[str]], references: dict[str, list[str]], baseline: str | None
) -> list[str]:
    """What a reader of the scores should know: empty lines, and outputs that are nearly equal."""
    notes = []
    several = len(references) > 1
    for kind, sides in (("hypotheses", texts), ("references", references)):
        for name, lines in sides.items():
            empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
            if empty:
                notes.append(
                    f"note: {len(empty)} of {len(lines)} {kind} of {name} are empty, the first in "
                    f"line {empty[0]}"
                    + "; there the other references count"
                    * (kind == "references" and several)
                )
    for name, lines in texts.items() if baseline is not None else ():
        pairs = zip(lines, texts[baseline], strict=True)
        count = sum(line != other for line, other in pairs)
        if 0 < count < _FEW_DIFFERENCES:
            notes.append(
                f"note: {name} and the baseline differ in {count} of {len(lines)} lines; from so "
                "few, the test cannot tell a difference from chance"
            )
    return notes


def _all_present(references: Sequence[Sequence[str]]) -> bool:
    """Whether every sentence has a text in every reference, or the only one."""
    return len(references) == 1 or all(line.strip() for lines in references for line in lines)


def _scored(systems: list[EvaluatedSystem], references: list[str], lines: int) -> str:
    """One line: which text was scored against what."""
    texts = ", ".join(
        f"{system.text}" + f" ({system.origin})" * bool(system.origin) for system in systems
    )
    against = ", ".join(references)
    kind = f"{len(references)} references" if len(references) > 1 else "1 reference"
    return f"scored: detokenised text {texts} against {against} ({lines} lines, {kind})"


def _sacrebleu_command(
    args: argparse.Namespace,
    systems: list[EvaluatedSystem],
    options: MetricOptions,
    baseline: str | None,
) -> str:
    """The command line of sacrebleu that gives these scores."""
    source = (
        ["-t", args.test_set, "-l", args.language_pair]
        if args.test_set
        else list(map(str, args.reference))
    )
    command = ["sacrebleu", *source, "-i", *(str(system.text) for system in systems)]
    command += ["-m", *args.metrics, *options.flags()]
    if baseline is not None and len(systems) > 1 and args.randomization_trials:
        command += ["--paired-ar", "--paired-ar-n", str(args.randomization_trials)]
    return shlex.join(command)


def _content(
    result: Comparison, systems: dict[str, EvaluatedSystem], baseline: str | None
) -> dict[str, Any]:
    """The figures as they go into JSON."""
    rows = {}
    for name, system in systems.items():
        rows[name] = {
            "text": str(system.text),
            "log": str(system.log) if system.log is not None else None,
            **result.systems[name].as_dict(),
            "average_probability_change": probability_change(result, name, baseline),
        }
    return {
        "schema": _SCHEMA,
        "baseline": baseline,
        "signatures": result.signatures,
        "randomization_signatures": result.randomization_signatures,
        "reference_repeated_ngram_rate": result.reference_repeated_ngram_rate,
        "reference_consecutive_repeats_per_100_tokens": result.reference_consecutive_repeats,
        "systems": rows,
    }
