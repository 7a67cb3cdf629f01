"""The tables of a report, as text: Markdown and HTML lay out the same cells."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from recipes.running.layout import START

THEN = ", then "
METRIC_NAMES = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}
LOWER_IS_BETTER = ("ter",)

Column = tuple[str, str]  # split, beam


@dataclass
class Table:
    """Cells by row; the first of each row names it. Text between backticks is code."""

    title: str
    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    notes: list[str] = field(default_factory=list)


def splits_and_beams(results: dict[str, Any]) -> list[Column]:
    """(split, beam) columns in the order of the results."""
    scores = results["systems"][results["control"]]["scores"]
    return [(split, beam) for split, beams in scores.items() for beam in beams]


def largest_beams(results: dict[str, Any]) -> list[Column]:
    """Of each split the column with the largest beam."""
    columns: dict[str, Column] = {}
    for split, beam in splits_and_beams(results):
        if split not in columns or int(beam) > int(columns[split][1]):
            columns[split] = split, beam
    return list(columns.values())


def main_column(results: dict[str, Any]) -> Column:
    """Where there is room for one column: the first test set with the largest beam."""
    columns = largest_beams(results)
    # The first split is the validation set.
    return columns[min(1, len(columns) - 1)]


def search_name(results: dict[str, Any], beam: str) -> str:
    """How outputs were searched for: ``greedy``, ``beam 5``, ``one pass``."""
    # Results of earlier versions have no names, only searches with a beam.
    return results.get("searches", {}).get(beam) or ("greedy" if beam == "1" else f"beam {beam}")


def column_name(results: dict[str, Any], column: Column) -> str:
    """How a column is headed."""
    split, beam = column
    return f"{split}, {search_name(results, beam)}"


def arm_of(results: dict[str, Any], system: str) -> str:
    """The arm of a system, which has several where it was trained with several seeds."""
    return results["systems"][system].get("arm", system)


def label(results: dict[str, Any], system: str) -> str:
    """A system's name, and what is special about it."""
    marks = []
    if arm_of(results, system) == results["control"]:
        marks.append("control")
    if arm_of(results, system) == results["selected"]:
        marks.append("selected on valid")
    return f"`{system}`" + (f" ({', '.join(marks)})" if marks else "")


def figures(results: dict[str, Any], system: str, column: Column) -> dict[str, Any]:
    """All statistics of a system's output."""
    split, beam = column
    return results["systems"][system]["scores"][split][beam]


def baseline_of(results: dict[str, Any], system: str, column: Column) -> str:
    """What a system is tested against: the control, with the same seed where there are several."""
    return figures(results, system, column).get("baseline") or results["control"]


def difference(results: dict[str, Any], system: str, metric: str, column: Column) -> float | None:
    """Score minus the baseline's; None for the baseline itself."""
    baseline = baseline_of(results, system, column)
    if baseline == system:
        return None
    ours, theirs = (
        figures(results, name, column)["scores"][metric]["value"] for name in (system, baseline)
    )
    return ours - theirs


def p_values(results: dict[str, Any], system: str, metric: str, column: Column) -> list[float]:
    """Of the paired bootstrap and, where it was made, of approximate randomisation."""
    found = figures(results, system, column)
    values = [
        found["scores"][metric]["p_value"],
        found.get("approximate_randomization", {}).get(metric),
    ]
    return [value for value in values if value is not None]


def score_cell(
    results: dict[str, Any], system: str, metric: str, column: Column, interval: bool = True
) -> str:
    """``38.83 ± 1.41 (+1.46, p=0.004)``."""
    score = figures(results, system, column)["scores"][metric]
    text = f"{score['value']:.2f}"
    if interval and score.get("interval") is not None:
        text += f" ± {score['interval']:.2f}"
    change, tested = (read(results, system, metric, column) for read in (difference, p_values))
    if change is not None and tested:
        text += f" ({change:+.2f}, p={'/'.join(f'{p:.3f}' for p in tested)})"
    return text


def score_tables(results: dict[str, Any]) -> Iterator[Table]:
    """One table for each metric, one column for each split and beam."""
    columns = splits_and_beams(results)
    for metric in results["metrics"]:
        worse = " (lower is better)" if metric in LOWER_IS_BETTER else ""
        rows = [
            [label(results, s), *(score_cell(results, s, metric, c) for c in columns)]
            for s in results["systems"]
        ]
        notes = [f"Signature: `{results['signatures'][metric]}`"]
        second = results.get("randomization_signatures", {}).get(metric)
        if second:
            notes.append(f"Signature of approximate randomisation: `{second}`")
        yield Table(
            METRIC_NAMES[metric] + worse,
            ["arm", *(column_name(results, c) for c in columns)],
            rows,
            how_scored(results),
            notes,
        )


def how_scored(results: dict[str, Any]) -> str:
    """What the cells of the tables of scores hold."""
    text = "Score ± half width of its 95 % bootstrap interval, and in brackets the difference to "
    text += "the control" + (" of the same seed" if has_seeds(results) else "")
    tests = f"paired bootstrap, {results['bootstrap_samples']} resamples"
    if results.get("randomization_signatures"):
        trials = results.get("randomization_trials")
        tests += f" / approximate randomisation, {trials} trials"
    return f"{text} and sacrebleu's p-value ({tests})."


def has_seeds(results: dict[str, Any]) -> bool:
    """Whether an arm was trained with more than one seed."""
    return len({arm_of(results, s) for s in results["systems"]}) < len(results["systems"])


def seed_table(results: dict[str, Any], metric: str = "bleu") -> Table | None:
    """Mean and spread over the seeds of each arm; None where no arm has several."""
    if not has_seeds(results):
        return None
    columns = splits_and_beams(results)
    arms: dict[str, list[str]] = {}
    for system in results["systems"]:
        arms.setdefault(arm_of(results, system), []).append(system)
    rows = []
    for arm, systems in arms.items():
        cells = []
        for column in columns:
            scores = [figures(results, s, column)["scores"][metric]["value"] for s in systems]
            changes = [difference(results, s, metric, column) for s in systems]
            text = mean_and_deviation(scores)
            if arm not in (START, results["control"]) and None not in changes:
                text += f" ({mean_and_deviation(changes, '+')})"  # type: ignore[arg-type]
            cells.append(text)
        rows.append([label(results, systems[0]), str(len(systems)), *cells])
    return Table(
        f"{METRIC_NAMES[metric]} over the seeds of training",
        ["arm", "seeds", *(column_name(results, c) for c in columns)],
        rows,
        "Mean ± standard deviation over the seeds (n - 1 in the denominator); in brackets that of "
        "the differences to the control with the same seed.",
    )


def mean_and_deviation(values: list[float], sign: str = "") -> str:
    """``39.12 ± 0.21``; of one value, that value alone."""
    text = f"{statistics.fmean(values):{sign}.2f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.2f}"


def cost_table(results: dict[str, Any]) -> Table:
    """Updates, time and length ratios."""
    columns = splits_and_beams(results)
    rows = [
        [
            label(results, s),
            _updates(results, s),
            *seconds(results, s),
            *(f"{figures(results, s, column)['length_ratio']:.3f}" for column in columns),
        ]
        for s in results["systems"]
    ]
    header = ["arm", "updates", "s / update", "ratio to control"]
    return Table(
        "Cost and length",
        header + [f"length ratio {column_name(results, c)}" for c in columns],
        rows,
        "Seconds per update are the mean over each arm's own training log, without validation: "
        "wall-clock time, whatever else the machine did meanwhile; "
        "`benchmarks/` compares the cost of objectives in one run.",
        [note] if (note := length_penalties(results)) else [],
    )


def length_penalties(results: dict[str, Any]) -> str:
    """The chosen length penalties, where they are not all 1."""
    chosen = {name: system["lenpen"] for name, system in results["systems"].items()}
    if all(float(value) == 1 for values in chosen.values() for value in values.values()):
        return ""
    return "Length penalties chosen on valid: " + "; ".join(
        f"`{name}` " + ", ".join(f"beam {beam}: {value:g}" for beam, value in values.items())
        for name, values in chosen.items()
    )


def arms_table(results: dict[str, Any]) -> Table:
    """What each arm is, and its flags."""
    rows = [
        [label(results, s), results["systems"][s]["description"], _flags(results, s)]
        for s in results["systems"]
    ]
    notes = [f"All arms: `{results['shared_flags']}`"]
    return Table("Arms", ["arm", "what it is", "its own flags"], rows, "", notes)


def seconds(results: dict[str, Any], system: str) -> list[str]:
    """Mean seconds per update in the system's own log, and their ratio to the control's."""
    means = [training["seconds_per_update"] for training in _trainings(results, system)]
    shown = THEN.join("n/a" if mean is None else f"{mean:.3f}" for mean in means)
    control = results["systems"][results["control"]]["seconds_per_update"]
    # The start has batches and a purpose of its own.
    if system == START or means[0] is None or not control:
        return [shown, ""]
    return [shown, f"{means[0] / control:.2f}"]


def _trainings(results: dict[str, Any], system: str) -> list[dict[str, Any]]:
    """The trainings of a system, in order: one, but for a ``start`` that took two stages."""
    # Results of earlier versions have no stages.
    stages = results.get("start_stages") if system == START else None
    return stages or [results["systems"][system]]


def _updates(results: dict[str, Any], system: str) -> str:
    return THEN.join(str(training["updates"]) for training in _trainings(results, system))


def _flags(results: dict[str, Any], system: str) -> str:
    trainings = _trainings(results, system)
    if len(trainings) == 1:
        return f"`{trainings[0]['flags']}`"
    return THEN.join(f"{training['stage']}: `{training['flags']}`" for training in trainings)
