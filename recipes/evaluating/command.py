"""``python -m recipes evaluate``: any fairseq checkpoint, or any text, scored and compared."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes.data.test_sets import read_test_set
from recipes.errors import RecipeError
from recipes.evaluating.arguments import check_arguments
from recipes.evaluating.evaluated_systems import (
    EvaluatedSystem,
    check_search_flags,
    from_checkpoint,
    from_file,
)
from recipes.reporting import tables
from recipes.reporting.layouts import print_table
from recipes.schema.data import TextSource
from recipes.schema.evaluation import Evaluation, check_evaluation
from recipes.scoring.comparison import Comparison, evaluate
from recipes.scoring.metrics import METRICS, MetricOptions, metric_facts
from recipes.text import file_hash, read_lines, write_text

_SCHEMA = 5  # it says what command made it, of which files
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
    metric_facts(args.metrics)  # a wrong name is told before anything is decoded
    known = {f.name for f in dataclasses.fields(Evaluation)} & vars(args).keys()
    evaluation = Evaluation(**{name: getattr(args, name) for name in known})
    check_evaluation(evaluation)
    args.search_flags = [*shlex.split(args.generate_flags), *args.search_flags]
    check_search_flags(args.search_flags, args.sentencepiece)
    references, sources = _references(args)
    target = args.language_pair.split("-")[1] if args.language_pair else None
    options = MetricOptions.of(evaluation, target)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    lines = list(references.values())
    baseline, systems = _systems(args, lines, say)
    texts = {name: read_lines(system.text) for name, system in systems.items()}
    logs = {name: system.log for name, system in systems.items()}
    result = evaluate(texts, lines, baseline, evaluation, options, sources, logs)
    print_comparison(result, baseline, next(iter(references)), console)
    for line in _notes(texts, references, baseline):
        say(line)
    scored = _scored(list(systems.values()), list(references), len(lines[0]))
    say(scored)
    check = _sacrebleu_command(args, list(systems.values()), options, baseline)
    if check is not None and _all_present(lines):
        say(f"the same scores: {check}")
    else:
        # The command has no way to say that a sentence has fewer references than others.
        check = None
    if args.json:
        read = [*args.reference, *([args.source] if args.source else [])]
        read += [system.text for system in systems.values()]
        content = {
            **_content(result, systems, baseline),
            "command": args.command_line,
            "sha256": {str(path): file_hash(path) for path in read},
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


def _references(args: argparse.Namespace) -> tuple[dict[str, list[str]], list[str] | None]:
    """Lines of each reference set, by the name it is shown with; and the sources, if known."""
    sources = read_lines(args.source) if args.source else None
    if args.test_set:
        source, target = args.language_pair.split("-")
        test_set = TextSource(sacrebleu=args.test_set, language_pair=args.language_pair)
        pairs = read_test_set(test_set, (source, target))
        name = f"sacrebleu's {args.test_set} {args.language_pair}"
        sets = [list(lines) for lines in zip(*(row for _, row in pairs), strict=True)]
        named = {f"{name}, reference {i}" if i else name: lines for i, lines in enumerate(sets)}
        return named, sources or [line for line, _ in pairs]
    references = {str(path): read_lines(path) for path in args.reference}
    if len(references) < len(args.reference):
        raise RecipeError("--reference names the same file twice")
    counts = {name: len(lines) for name, lines in references.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RecipeError(f"the references differ in their number of lines: {shown}")
    for name, lines in references.items():
        if not any(line.strip() for line in lines):
            raise RecipeError(
                f"{name} is empty ({len(lines)} lines): no reference to score against"
            )
        if sources is not None and len(sources) != len(lines):
            raise RecipeError(
                f"--source {args.source} has {len(sources)} lines, but {name} has {len(lines)}"
            )
    return references, sources


def _systems(
    args: argparse.Namespace, references: list[list[str]], say: Callable[[str], None]
) -> tuple[str | None, dict[str, EvaluatedSystem]]:
    """The baseline's name, and all systems by name, each only once."""
    given = args.baseline_checkpoint or args.baseline
    baseline = None if given is None else str(given)
    checkpoints = [*([args.baseline_checkpoint] * bool(args.baseline_checkpoint)), *args.checkpoint]
    files = [*([args.baseline] * bool(args.baseline)), *args.hypotheses]
    decoded = {str(p): p for p in checkpoints}
    systems = {n: from_checkpoint(p, args, references, say) for n, p in decoded.items()}
    for path in files:
        if str(path) not in systems:
            systems[str(path)] = from_file(path, args, references)
    if baseline is not None:
        systems = {baseline: systems[baseline], **systems}
    return baseline, systems


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Paths without the folders, and the file name, that all of them share."""
    parts = [Path(name).parts for name in names]
    if len(names) == 1:
        return {names[0]: str(Path(*parts[0][-2:]))}
    front = back = 0
    shortest = min(map(len, parts))
    while front < shortest and len({path[front] for path in parts}) == 1:
        front += 1
    while back < shortest - front and len({path[-1 - back] for path in parts}) == 1:
        back += 1
    if front + back >= shortest:
        return {name: name for name in names}
    return {
        name: str(Path(*path[front : len(path) - back]))
        for name, path in zip(names, parts, strict=True)
    }


def print_comparison(
    result: Comparison, baseline: str | None, reference: str, console: Console
) -> None:
    """Scores and tests, statistics of the outputs, BLEU by length, and the signatures."""
    labels = short_names(list(result.systems))
    to = None if baseline is None else labels[baseline]
    name = Path(reference).name
    # As the results of a recipe with one split and one search.
    view = {
        "baseline": to,
        "control": None,
        "selected": None,
        "metrics": metric_facts(list(result.signatures)),
        "searches": {"1": f"{len(result.systems)} systems"},
        "signatures": result.signatures,
        "randomization_signatures": result.randomization_signatures,
        "reference_repeated_ngram_rate": {name: result.reference_repeated_ngram_rate},
        f"reference_{tables.REPEATS}": {name: result.reference_consecutive_repeats_per_100_tokens},
        "systems": {
            labels[system]: {
                "arm": labels[system],
                "scores": {name: {"1": {**scores.as_dict(), "baseline": to}}},
            }
            for system, scores in result.systems.items()
        },
    }
    for table in (tables.score_table, tables.statistics_table, tables.length_table):
        shown = table(view, (name, "1"))
        shown.header[0] = "system"
        print_table(shown, console)
    for line in tables.signatures(view):
        console.print(line, highlight=False, soft_wrap=True)


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
                others = "; there the other references count"
                notes.append(
                    f"note: {len(empty)} of {len(lines)} {kind} of {name} are empty, the first in "
                    f"line {empty[0]}" + others * (kind == "references" and several)
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
) -> str | None:
    """The command line of sacrebleu that gives these scores, as far as it has the metrics."""
    metrics = [name for name in args.metrics if name in METRICS and METRICS[name].by_sacrebleu]
    if not metrics:
        return None
    if args.test_set:
        source = ["-t", args.test_set, "-l", args.language_pair]
    else:
        source = list(map(str, args.reference))
    command = ["sacrebleu", *source, "-i", *(str(system.text) for system in systems)]
    command += ["-m", *metrics, *options.flags()]
    if baseline is not None and len(systems) > 1 and args.randomization_trials:
        command += ["--paired-ar", "--paired-ar-n", str(args.randomization_trials)]
    return shlex.join(command)


def _content(
    result: Comparison, systems: dict[str, EvaluatedSystem], baseline: str | None
) -> dict[str, Any]:
    """The figures as they go into JSON."""

    def change(name: str) -> float | None:
        """How much surer a system is of its output than the baseline."""
        ours = result.systems[name].average_probability
        theirs = result.systems[baseline].average_probability if baseline else None
        return None if name == baseline or ours is None or theirs is None else ours - theirs

    rows = {
        name: {
            "text": str(system.text),
            "log": None if system.log is None else str(system.log),
            **result.systems[name].as_dict(),
            "average_probability_change": change(name),
        }
        for name, system in systems.items()
    }
    common = {key: value for key, value in vars(result).items() if key != "systems"}
    return {"schema": _SCHEMA, "baseline": baseline, **common, "systems": rows}
