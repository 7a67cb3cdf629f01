"""Figures of :mod:`recipes.evaluating.scoring` as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, NewLine
from rich.table import Table

from recipes.evaluating.metrics import LOWER_IS_BETTER
from recipes.evaluating.scoring import Comparison

_UNKNOWN = "?"
_NARROWEST = 9  # characters of a system's name in a line
_NAMES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER"}


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


def print_comparison(result: Comparison, baseline: str | None, console: Console) -> None:
    """Scores and tests, statistics of the outputs, BLEU by length, and the signatures."""
    labels = short_names(list(result.systems))
    if baseline is not None:
        labels[baseline] += " (baseline)"
    for name in result.signatures:
        console.print(_scores(result, name, baseline, labels), NewLine())
    if result.randomization_signatures:
        console.print("p: of the difference, by approximate randomisation", highlight=False)
        console.print()
    console.print(_statistics(result, baseline, labels), NewLine())
    if all(row.length_buckets for row in result.systems.values()):
        console.print(_lengths(result, labels), NewLine())
    for name, signature in result.signatures.items():
        console.print(f"{name}: {signature}", highlight=False, soft_wrap=True)
    for name, signature in result.randomization_signatures.items():
        line = f"{name}, approximate randomisation: {signature}"
        console.print(line, highlight=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("system", overflow="fold", min_width=_NARROWEST)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _scores(result: Comparison, name: str, baseline: str | None, labels: dict[str, str]) -> Table:
    """One metric, a line for each system; BLEU also without its brevity penalty."""
    tested = baseline is not None and len(result.systems) > 1
    columns = ["score", *(["no penalty"] if name == "bleu" else [])]
    columns += ["95 % interval"] if baseline is not None else []
    columns += ["difference"] if tested else []
    columns += ["p"] if name in result.randomization_signatures else []
    table = _table(_NAMES[name] + " (lower is better)" * (name in LOWER_IS_BETTER), *columns)
    for system, row in result.systems.items():
        score = row.scores[name]
        cells = [f"{score.value:.2f}"]
        cells += [f"{row.geometric_mean:.2f}"] if name == "bleu" else []
        if score.mean is not None and score.interval is not None:
            cells.append(f"{score.mean:.2f} ± {score.interval:.2f}")
        if baseline is not None and system != baseline:
            cells.append(f"{score.value - result.systems[baseline].scores[name].value:+.2f}")
            if score.p_value is not None:
                cells.append(f"{score.p_value:.4f}")
        table.add_row(labels[system], *cells)
    return table


def _statistics(result: Comparison, baseline: str | None, labels: dict[str, str]) -> Table:
    """Length, precisions, repetition, probability; the reference's repetition below.

    In a row: tokens that are the same as the one before.
    """
    table = _table(
        "Outputs",
        "length\nratio",
        "% matched n-grams\nn = 1, 2, 3, 4",
        "% repeated n-grams\nn = 1, 2, 4; in a row",
        "average\nprobability",
    )
    for system, row in result.systems.items():
        table.add_row(
            labels[system],
            f"{row.length_ratio:.3f}",
            " ".join(f"{precision:.1f}" for precision in row.precisions),
            _rates(row.repeated_ngram_rate, row.consecutive_repeats_per_100_tokens),
            _probability(result, system, baseline),
        )
    rates = _rates(result.reference_repeated_ngram_rate, result.reference_consecutive_repeats)
    table.add_row("reference", "", "", rates, "")
    return table


def _rates(rates: dict[str, float], repeats: float | None) -> str:
    shown = " ".join(f"{100 * rate:.2f}" for rate in rates.values())
    return shown if repeats is None else f"{shown}; {repeats:.2f}"


def _probability(result: Comparison, system: str, baseline: str | None) -> str:
    value = result.systems[system].average_probability
    if value is None:
        return _UNKNOWN
    change = probability_change(result, system, baseline)
    return f"{value:.3f}" + (f" ({change:+.3f})" if change is not None else "")


def probability_change(result: Comparison, system: str, baseline: str | None) -> float | None:
    """How much surer ``system`` is of its output than the baseline; None when not known."""
    if baseline is None or system == baseline:
        return None
    ours = result.systems[system].average_probability
    theirs = result.systems[baseline].average_probability
    return None if ours is None or theirs is None else ours - theirs


def _lengths(result: Comparison, labels: dict[str, str]) -> Table:
    buckets = next(iter(result.systems.values())).length_buckets
    columns = [f"{b['from']}–{b['to']}\n({b['sentences']})" for b in buckets]
    table = _table("BLEU by words of the reference (sentences)", *columns)
    for system, row in result.systems.items():
        cells = []
        for bucket in row.length_buckets:
            text = f"{bucket['bleu']:.2f}"
            if "baseline_bleu" in bucket:
                text += f" ({bucket['bleu'] - bucket['baseline_bleu']:+.2f})"
            cells.append(text)
        table.add_row(labels[system], *cells)
    return table
