"""The tables of ``run``'s report and of ``evaluate``, from what ``results.json`` holds."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from recipes.running.trained_arms import START

THEN = ", then "
REPEATS = "consecutive_repeats_per_100_tokens"
# The difference, and its p-value, that a cell has in brackets after the score.
REMARK = re.compile(r"([\d.]+(?: ± [\d.]+)?) (\([^()]*\))$")
_NARROWEST = 9  # characters of the first column in a line
_CONFIDENCE = 0.95
Results = dict[str, Any]
Column = tuple[str, str]  # split, beam
Figure = Callable[[Any], Any]  # of all statistics of an output, one
Cells = Mapping[str, Callable[[str], str]]  # an arm's cell, by the head of its column


@dataclass
class Table:
    """Cells by row; the first of each row names it. Text between backticks is code."""

    title: str
    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    notes: list[str] = field(default_factory=list)


def print_table(table: Table, console: Console) -> None:
    """Show it on the terminal, remarks on a line of their own; on its side if that is narrower."""
    header, *rows = [table.header, *table.rows]
    if len(header) > len(rows) + 1:
        header, *rows = map(list, zip(header, *rows, strict=True))
    title = Text(table.title, "bold")
    layout: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False}
    shown = TerminalTable(title=title, title_justify="left", padding=(0, 1, 0, 0), **layout)
    for number, name in enumerate(header):
        side: dict[str, Any] = {"justify": "right"} if number else {"min_width": _NARROWEST}
        shown.add_column(Text(name.replace("`", "")), overflow="fold", **side)
    for first, *cells in rows:
        remarked = (REMARK.sub("\\1\n\\2", cell) for cell in cells)
        shown.add_row(*map(Text, (first.replace("`", ""), *remarked)))
    console.print(shown, soft_wrap=False)
    for line in (table.caption, *table.notes):
        if line:
            console.print(Text(line.replace("`", "")), soft_wrap=False)
    console.print()


@dataclass(frozen=True)
class OverSeeds:
    """One figure over ``n`` seeds; of one seed only the mean is known.

    ``p_value`` is that of a two-sided t-test against a mean of 0: for differences between systems
    of the same seed, the paired t-test.
    """

    n: int
    mean: float
    deviation: float | None = None  # n - 1 in the denominator
    half_width: float | None = None  # of the 95 % interval of the mean, by Student's t
    p_value: float | None = None


def over_seeds(values: Sequence[Any]) -> OverSeeds | None:
    """Summarise the figures of each seed; None where there are none, or one is not known."""
    from scipy.stats import t as student

    if not values or None in values:
        return None
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return OverSeeds(n, mean)
    deviation = statistics.stdev(values)
    error = deviation / math.sqrt(n)
    # Equal figures leave no doubt about their mean.
    p_value = 2 * float(student.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    half_width = float(student.ppf((1 + _CONFIDENCE) / 2, n - 1)) * error
    return OverSeeds(n, mean, deviation, half_width, p_value)


def splits_and_beams(results: Results) -> list[Column]:
    """(split, beam) columns in the order of the results."""
    scores = next(iter(results["systems"].values()))["scores"]
    return [(split, beam) for split, beams in scores.items() for beam in beams]


def main_column(results: Results) -> Column:
    """Where there is room for one column: the first test set with the largest beam."""
    columns = splits_and_beams(results)
    splits = list(dict(columns))  # the first is the validation set
    split = splits[min(1, len(splits) - 1)]
    return max((c for c in columns if c[0] == split), key=lambda column: int(column[1]))


def column_name(results: Results, column: Column) -> str:
    """How a column is headed: ``test, greedy``, ``test, beam 5``, ``test, one pass``."""
    split, beam = column
    return f"{split}, {results['searches'][beam]}"


def arms_of(results: Results) -> dict[str, list[str]]:
    """The systems of each arm: one for every seed."""
    arms: dict[str, list[str]] = {}
    for name, system in results["systems"].items():
        arms.setdefault(system["arm"], []).append(name)
    return arms


def has_seeds(results: Results) -> bool:
    """Whether an arm was trained with more than one seed."""
    return any(len(systems) > 1 for systems in arms_of(results).values())


def label(results: Results, arm: str) -> str:
    """An arm's name, and what is special about it."""
    marks = {"control": "control", "baseline": "baseline", "selected": "best arm on valid"}
    found = [mark for key, mark in marks.items() if results[key] == arm]
    return f"`{arm}`" + (f" ({', '.join(found)})" if found else "")


def main_title(results: Results) -> str:
    """Name of the metric by which was chosen."""
    return str(results["metrics"][results["selection"]]["title"])


def figures(results: Results, system: str, column: Column) -> Any:
    """All statistics of a system's output, by name."""
    split, beam = column
    return results["systems"][system]["scores"][split][beam]


def value_of(found: dict[str, Any], measure: str) -> Any:
    """A metric's score, or another figure of :func:`figures`; None where it is not known."""
    scored = found["scores"].get(measure)
    return scored["value"] if scored else found[measure]


def mean_of(results: Results, arm: str, column: Column, figure: Figure) -> OverSeeds | None:
    """A figure over the seeds of an arm; None where it is not known for all of them."""
    return over_seeds([figure(figures(results, s, column)) for s in arms_of(results)[arm]])


def score(results: Results, arm: str, measure: str, column: Column) -> OverSeeds | None:
    """One of :func:`measures` over the seeds of an arm."""
    return mean_of(results, arm, column, partial(value_of, measure=measure))


def differences(results: Results, arm: str, measure: str, column: Column) -> list[float]:
    """Score of each seed of an arm minus that of the baseline with the same seed."""
    changes = []
    for system in arms_of(results)[arm]:
        found = figures(results, system, column)
        if found["baseline"] is not None:
            ours = value_of(found, measure)
            theirs = value_of(figures(results, found["baseline"], column), measure)
            if ours is not None and theirs is not None:
                changes.append(ours - theirs)
    return changes


def difference(results: Results, arm: str, measure: str, column: Column) -> OverSeeds | None:
    """:func:`differences` over seeds; None for the baseline itself, or where not known."""
    compared = arm != results["baseline"]
    return over_seeds(differences(results, arm, measure, column)) if compared else None


def measures(results: Results) -> dict[str, str]:
    """The columns of the tables of scores, and how they are headed."""
    found = {}
    for name, metric in results["metrics"].items():
        found[name] = metric["title"] + " (lower is better)" * metric["lower_is_better"]
        if name == "bleu":
            found["geometric_mean"] = "BLEU without brevity penalty"
    return {**found, "length_ratio": "length ratio", "average_probability": "probability"}


def score_cell(results: Results, arm: str, measure: str, column: Column) -> str:
    """``38.83 ± 1.41 (+1.46, p=0.004)``; see :func:`how_to_read`."""
    found = score(results, arm, measure, column)
    if found is None:
        return "?"
    known = {"length_ratio": 3, "average_probability": 3}
    digits = results["metrics"].get(measure, {}).get("digits", known.get(measure, 2))
    scored = figures(results, arms_of(results)[arm][0], column)["scores"].get(measure, {})
    text = f"{found.mean:.{digits}f}"
    spread = found.deviation if has_seeds(results) else scored.get("interval")
    text += "" if spread is None else f" ± {spread:.{digits}f}"
    change = difference(results, arm, measure, column)
    if change is None or measure == "length_ratio":
        return text
    p_value = change.p_value if has_seeds(results) else scored.get("p_value")
    p = "" if p_value is None else f", p={p_value:.3f}"
    return f"{text} ({change.mean:+.{digits}f}{p})"


def _by_arm(
    results: Results, title: str, columns: Cells, caption: str = "", notes: Sequence[str] = ()
) -> Table:
    """A row for each arm."""
    cells = columns.values()
    rows = [[label(results, arm), *(cell(arm) for cell in cells)] for arm in arms_of(results)]
    return Table(title, ["arm", *columns], rows, caption, list(notes))


def score_table(results: Results, column: Column) -> Table:
    """All measures of all arms on one split with one search."""
    to = f": differences to {results['baseline']}" if results["baseline"] else ""
    columns = {
        head: partial(score_cell, results, measure=measure, column=column)
        for measure, head in measures(results).items()
    }
    return _by_arm(results, f"{column_name(results, column)}{to}", columns)


def summary_table(results: Results, split: str) -> Table:
    """The score that was chosen by, its difference to the baseline, and the time, of all arms."""
    columns = {
        results["searches"][beam]: partial(
            score_cell, results, measure=results["selection"], column=(split, beam)
        )
        for other, beam in splits_and_beams(results)
        if other == split
    }
    title = f"{split}: {main_title(results)} (difference to {results['baseline']}, p-value)"
    time = {"s / update": partial(seconds, results), "ratio": partial(ratio, results)}
    return _by_arm(results, title, {**columns, **time})


def how_to_read(results: Results) -> list[str]:
    """What was compared with what, and what the cells of the tables of scores hold."""
    texts = ", ".join(f"`{name}`" for name in results["scored_text"].values())
    means = ", ".join(f"`{arm}` {value:.2f}" for arm, value in results["baselines"].items())
    # How converged the start is: the less, the more any arm gains.
    stages = THEN.join(
        f"{stage['stage']} of {stage['epochs']} epochs ({stage['updates']} updates)"
        for stage in results["systems"][START]["stages"]
    )
    valid = next(iter(results["scored_text"]))
    columns = [column for column in splits_and_beams(results) if column[0] == valid]
    found = ((score(results, START, results["selection"], c), c[1]) for c in columns)
    scores = (f"{value.mean:.2f} ({results['searches'][beam]})" for value, beam in found if value)
    sentences = [
        f"Scored: detokenised output against the original text of {texts}. Every arm that was run "
        "with this recipe file is listed.",
        f"Differences and p-values are to `{results['baseline']}`, the best baseline on valid "
        f"(mean {main_title(results)} over searches and seeds: {means}).",
        f"The start: {stages}; valid {main_title(results)} {', '.join(scores)}.",
        "Chosen on valid, for every system alike: its checkpoint and its length penalty for each "
        "beam (see Cost).",
    ]
    test = f"approximate randomisation ({results['randomization_trials']} trials)"
    if has_seeds(results):
        sentences.append(
            "Cells: mean ± standard deviation over the seeds and, in brackets, the mean difference "
            "to the baseline of the same seed with the p-value of a paired t-test over the seeds; "
            f"p of each seed: {test}."
        )
    else:
        sentences.append(
            "Cells: score ± half width of its 95 % bootstrap interval "
            f"({results['bootstrap_samples']} resamples) and, in brackets, the difference to the "
            f"baseline with the p-value of {test}. It is about the choice of test sentences, not "
            "about the seed of training; among many arms some are small by chance."
        )
    return [*sentences, "; ".join(f"`{line}`" for line in signatures(results)) + "."]


def signatures(results: Results) -> list[str]:
    """Signatures of the metrics, then those of the test."""
    lines = [f"{metric}: {text}" for metric, text in results["signatures"].items()]
    tests = results["randomization_signatures"].items()
    return [*lines, *(f"{metric}, approximate randomisation: {text}" for metric, text in tests)]


def seed_table(results: Results) -> Table | None:
    """The main score over the seeds, and the paired difference; None where no arm has several."""
    if not has_seeds(results):
        return None
    measure, rows = results["selection"], []
    for column, arm in product(splits_and_beams(results), arms_of(results)):
        found = score(results, arm, measure, column)
        assert found is not None
        row = [label(results, arm), column_name(results, column), str(found.n)]
        row += _interval(found, "")
        change = difference(results, arm, measure, column)
        if change is None:
            row += [""] * 5
        else:
            over = "" if change.p_value is None else f"{change.p_value:.4f}"
            tested = (figures(results, s, column)["scores"] for s in arms_of(results)[arm])
            known = (scores[measure]["p_value"] for scores in tested)
            each = " ".join(f"{p:.3f}" for p in known if p is not None)
            row += [*_interval(change, "+"), over, each]
        rows.append(row)
    spread = ["standard deviation", "95 % interval"]
    header = ["arm", "set", "seeds", main_title(results), *spread, "difference", *spread]
    return Table(
        f"{main_title(results)} over seeds: differences to {results['baseline']}",
        [*header, "p over seeds", "p of each seed"],
        rows,
        "Intervals by Student's t. p over seeds: paired t-test; p of each seed: approximate "
        "randomisation.",
    )


def _interval(found: OverSeeds, sign: str) -> list[str]:
    text = [f"{found.mean:{sign}.2f}"]
    if found.deviation is None or found.half_width is None:
        return [*text, "", ""]
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return [*text, f"{found.deviation:.2f}", f"{low:{sign}.2f} to {high:{sign}.2f}"]


def statistics_table(results: Results, column: Column) -> Table:
    """What BLEU is made of, and repetition."""

    def mean(arm: str, form: str, key: str, part: Any = None) -> str:
        known = mean_of(results, arm, column, lambda f: f[key] if part is None else f[key][part])
        return "" if known is None else f"{known.mean:{form}}"

    columns = {
        f"{n + 1}-gram precision": partial(mean, form=".1f", key="precisions", part=n)
        for n in range(4)
    }
    columns["brevity penalty"] = partial(mean, form=".3f", key="brevity_penalty")
    columns["repeats in a row / 100 tokens"] = partial(mean, form=".2f", key=REPEATS)
    repeats = results[f"reference_{REPEATS}"][column[0]]
    return _by_arm(
        results,
        f"Output statistics: {column_name(results, column)}",
        columns,
        "Clipped n-gram precisions in percent; tokens that are the same as the one right before "
        f"them (in the references {repeats:.2f} of 100).",
    )


def length_table(results: Results, column: Column) -> Table:
    """BLEU by the length of the reference."""

    def cell(arm: str, number: int) -> str:
        buckets = [figures(results, s, column)["length_buckets"] for s in arms_of(results)[arm]]
        mine = [bucket[number] for bucket in buckets]
        text = f"{statistics.fmean(bucket['bleu'] for bucket in mine):.2f}"
        changes = [b["bleu"] - b["baseline_bleu"] for b in mine if "baseline_bleu" in b]
        return text + (f" ({statistics.fmean(changes):+.2f})" if len(changes) == len(mine) else "")

    buckets = figures(results, next(iter(results["systems"])), column)["length_buckets"]
    columns = {
        f"{b['from']} to {b['to']} words ({b['sentences']})": partial(cell, number=number)
        for number, b in enumerate(buckets)
    }
    caption = (
        "By words of the reference, with the number of sentences; in brackets the difference to "
        "the baseline."
    )
    return _by_arm(results, f"BLEU by length: {column_name(results, column)}", columns, caption)


def cost_table(results: Results) -> Table:
    """Updates, time, and what was chosen on valid."""

    def updates(arm: str) -> str:
        trainings = _trainings(results, arms_of(results)[arm][0])
        return THEN.join(str(training["updates"]) for training in trainings)

    def checkpoints(arm: str) -> str:
        last = [_trainings(results, system)[-1] for system in arms_of(results)[arm]]
        return " / ".join(f"{t['checkpoint_update']} ({t['validations']})" for t in last)

    def penalties(arm: str) -> str:
        """The length penalties of each beam, for every seed."""
        chosen = [results["systems"][system]["lenpen"] for system in arms_of(results)[arm]]
        return "; ".join(
            f"{results['searches'][beam]}: " + " / ".join(f"{seed[beam]:g}" for seed in chosen)
            for beam in chosen[0]
            if int(beam) > 1
        )

    earlier = ", ".join(f"`{name}`" for name in results["set_aside"])
    return _by_arm(
        results,
        "Cost, and what was chosen on valid",
        {
            "updates": updates,
            "checkpoint: update (of so many validations)": checkpoints,
            "length penalty": penalties,
            "seconds of training": partial(_stage_means, results, key="seconds", form=".0f"),
            "s / update": partial(seconds, results),
            "ratio to control": partial(ratio, results),
        },
        "Seconds are the mean over the seeds, from each training's log, without validation: "
        "wall-clock time, whatever else the machine did meanwhile; `benchmarks/` compares the cost "
        "of objectives in one run.",
        [f"Trained with other settings before, and not scored: {earlier}."] if earlier else [],
    )


def seconds(results: Results, arm: str) -> str:
    """Mean seconds per update in the arm's own logs."""
    return _stage_means(results, arm, "seconds_per_update", ".3f")


def ratio(results: Results, arm: str) -> str:
    """Seconds per update over those of the control."""
    arms = arms_of(results)
    ours, control = (
        [results["systems"][s].get("seconds_per_update") for s in arms[name]]
        for name in (arm, results["control"])
    )
    # The start has batches and a purpose of its own.
    if arm == START or None in ours or None in control:
        return ""
    return f"{statistics.fmean(ours) / statistics.fmean(control):.2f}"


def _stage_means(results: Results, arm: str, key: str, form: str) -> str:
    """A figure of each training of an arm, its mean over the seeds."""
    seeds = [_trainings(results, system) for system in arms_of(results)[arm]]
    means = []
    for stage in zip(*seeds, strict=True):
        values = [training[key] for training in stage]
        means.append("n/a" if None in values else f"{statistics.fmean(values):{form}}")
    return THEN.join(means)


def _trainings(results: Results, system: str) -> Any:
    """The trainings of a system, in order: one, but for a start that took two stages."""
    record = results["systems"][system]
    return record.get("stages", [record])


def arms_table(results: Results) -> Table:
    """What each arm is, and its flags."""

    def flags(arm: str) -> str:
        trainings = _trainings(results, arms_of(results)[arm][0])
        if len(trainings) == 1:
            return f"`{trainings[0]['flags']}`"
        return THEN.join(f"{training['stage']}: `{training['flags']}`" for training in trainings)

    def what(arm: str) -> str:
        return str(results["systems"][arms_of(results)[arm][0]]["description"])

    notes = [f"All arms: `{results['shared_flags']}`"]
    return _by_arm(results, "Arms", {"what it is": what, "its own flags": flags}, "", notes)
