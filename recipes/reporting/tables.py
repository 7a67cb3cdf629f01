"""The tables of a report, as text: Markdown and HTML lay out the same cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from recipes.evaluating.over_seeds import OverSeeds, over_seeds
from recipes.running.trained_arms import START

THEN = ", then "
# Columns of the tables of scores; of the first four, the difference to the baseline is shown too.
MEASURES = {
    "bleu": "BLEU",
    "geometric_mean": "BLEU without brevity penalty",
    "chrf": "chrF2",
    "ter": "TER (lower is better)",
    "length_ratio": "length ratio",
    "average_probability": "probability",
}
_COMPARED = ("bleu", "geometric_mean", "chrf", "ter")

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


def column_name(results: dict[str, Any], column: Column) -> str:
    """How a column is headed: ``test, greedy``, ``test, beam 5``, ``test, one pass``."""
    split, beam = column
    return f"{split}, {results['searches'][beam]}"


def arms_of(results: dict[str, Any]) -> dict[str, list[str]]:
    """The systems of each arm: one for every seed."""
    arms: dict[str, list[str]] = {}
    for name, system in results["systems"].items():
        arms.setdefault(system["arm"], []).append(name)
    return arms


def label(results: dict[str, Any], arm: str) -> str:
    """An arm's name, and what is special about it."""
    marks = {"control": "control", "baseline": "baseline", "selected": "best arm on valid"}
    found = [mark for key, mark in marks.items() if results[key] == arm]
    return f"`{arm}`" + (f" ({', '.join(found)})" if found else "")


def figures(results: dict[str, Any], system: str, column: Column) -> dict[str, Any]:
    """All statistics of a system's output."""
    split, beam = column
    return results["systems"][system]["scores"][split][beam]


def mean_of(
    results: dict[str, Any],
    arm: str,
    column: Column,
    figure: Callable[[dict[str, Any]], float | None],
) -> OverSeeds | None:
    """A figure over the seeds of an arm; None where it is not known for all of them."""
    values = [figure(figures(results, s, column)) for s in arms_of(results)[arm]]
    return None if None in values else over_seeds([v for v in values if v is not None])


def score(results: dict[str, Any], arm: str, measure: str, column: Column) -> OverSeeds | None:
    """One of :data:`MEASURES` over the seeds of an arm."""
    return mean_of(results, arm, column, lambda found: _value(found, measure))


def difference(results: dict[str, Any], arm: str, measure: str, column: Column) -> OverSeeds | None:
    """:func:`differences` over seeds; None for the baseline itself."""
    if arm == results["baseline"]:
        return None
    return over_seeds(differences(results, arm, measure, column))


def differences(results: dict[str, Any], arm: str, measure: str, column: Column) -> list[float]:
    """Score of each seed of an arm minus that of the baseline with the same seed."""
    found = [figures(results, system, column) for system in arms_of(results)[arm]]
    baselines = [figures(results, scored["baseline"], column) for scored in found]
    return [
        _value(ours, measure) - _value(theirs, measure)
        for ours, theirs in zip(found, baselines, strict=True)
    ]


def _value(found: dict[str, Any], measure: str) -> float | None:
    scored = found["scores"].get(measure)
    return scored["value"] if scored else found[measure]


def p_values(results: dict[str, Any], arm: str, measure: str, column: Column) -> list[float]:
    """Of approximate randomisation, for each seed; none where that test was not made."""
    scored = [figures(results, s, column)["scores"][measure] for s in arms_of(results)[arm]]
    return [s["p_value"] for s in scored if s["p_value"] is not None]


def score_cell(results: dict[str, Any], arm: str, measure: str, column: Column) -> str:
    """``38.83 ± 1.41 (+1.46, p=0.004)``; see :func:`how_to_read`."""
    found = score(results, arm, measure, column)
    if found is None:
        return ""
    if measure not in _COMPARED:
        return _with_spread(found, ".3f")
    scored = figures(results, arms_of(results)[arm][0], column)["scores"].get(measure, {})
    text = _with_spread(found, ".2f")
    if not has_seeds(results) and scored.get("interval") is not None:
        text += f" ± {scored['interval']:.2f}"
    change = difference(results, arm, measure, column)
    if change is None:
        return text
    p_value = change.p_value if has_seeds(results) else scored.get("p_value")
    return f"{text} ({change.mean:+.2f}" + (f", p={p_value:.3f})" if p_value is not None else ")")


def _with_spread(found: OverSeeds, form: str) -> str:
    text = f"{found.mean:{form}}"
    return text if found.deviation is None else f"{text} ± {found.deviation:{form}}"


def score_table(results: dict[str, Any], column: Column) -> Table:
    """All measures of all arms on one split with one search."""
    measures = [m for m in MEASURES if m not in ("chrf", "ter") or m in results["metrics"]]
    return Table(
        f"{column_name(results, column)}: differences to {results['baseline']}",
        ["arm", *(MEASURES[measure] for measure in measures)],
        [
            [label(results, arm), *(score_cell(results, arm, m, column) for m in measures)]
            for arm in arms_of(results)
        ],
    )


def how_to_read(results: dict[str, Any]) -> list[str]:
    """What was compared with what, and what the cells of the tables of scores hold."""
    texts = ", ".join(f"`{name}`" for name in results["scored_text"].values())
    means = ", ".join(f"`{arm}` {bleu:.2f}" for arm, bleu in results["baselines"].items())
    sentences = [
        f"Scored: detokenised output against the original text of {texts}. Every arm that was run "
        "with this recipe file is listed.",
        f"Differences and p-values are to `{results['baseline']}`, the best baseline on valid "
        f"(mean BLEU over searches and seeds: {means}).",
        _convergence(results),
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
    signatures = [f"{metric}: `{name}`" for metric, name in results["signatures"].items()]
    tests = results["randomization_signatures"].items()
    signatures += [f"{metric}, test: `{name}`" for metric, name in tests]
    return [*sentences, "; ".join(signatures) + "."]


def _convergence(results: dict[str, Any]) -> str:
    """How converged the start is: the less, the more any arm gains."""
    stages = THEN.join(
        f"{stage['stage']} of {stage['epochs']} epochs ({stage['updates']} updates)"
        for stage in results["systems"][START]["stages"]
    )
    scores = []
    for column in splits_and_beams(results):
        # The first split is the validation set.
        if column[0] == next(iter(results["scored_text"])):
            found = score(results, START, "bleu", column)
            assert found is not None
            scores.append(f"{found.mean:.2f} ({results['searches'][column[1]]})")
    return f"The start: {stages}; valid BLEU {', '.join(scores)}."


def has_seeds(results: dict[str, Any]) -> bool:
    """Whether an arm was trained with more than one seed."""
    return any(len(systems) > 1 for systems in arms_of(results).values())


def seed_table(results: dict[str, Any]) -> Table | None:
    """BLEU over the seeds, and the paired difference; None where no arm has several."""
    if not has_seeds(results):
        return None
    rows = []
    for column in splits_and_beams(results):
        for arm in arms_of(results):
            found = score(results, arm, "bleu", column)
            assert found is not None
            row = [label(results, arm), column_name(results, column), str(found.n)]
            row += _interval(found, "")
            change = difference(results, arm, "bleu", column)
            if change is None:
                row += [""] * 5
            else:
                over = "" if change.p_value is None else f"{change.p_value:.4f}"
                each = " ".join(f"{p:.3f}" for p in p_values(results, arm, "bleu", column))
                row += [*_interval(change, "+"), over, each]
            rows.append(row)
    spread = ["standard deviation", "95 % interval"]
    header = ["arm", "set", "seeds", "BLEU", *spread, "difference", *spread]
    return Table(
        f"BLEU over seeds: differences to {results['baseline']}",
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


def cost_table(results: dict[str, Any]) -> Table:
    """Updates, time, and what was chosen on valid."""
    rows = []
    for arm, systems in arms_of(results).items():
        seeds = [_trainings(results, s) for s in systems]
        rows.append(
            [
                label(results, arm),
                THEN.join(str(training["updates"]) for training in seeds[0]),
                " / ".join(f"{s[-1]['checkpoint_update']} ({s[-1]['validations']})" for s in seeds),
                _length_penalties(results, systems),
                THEN.join(_mean(each, "seconds", ".0f") for each in zip(*seeds, strict=True)),
                *seconds(results, arm),
            ]
        )
    earlier = ", ".join(f"`{name}`" for name in results["set_aside"])
    return Table(
        "Cost, and what was chosen on valid",
        [
            *("arm", "updates", "checkpoint: update (of so many validations)", "length penalty"),
            *("seconds of training", "s / update", "ratio to control"),
        ],
        rows,
        "Seconds are the mean over the seeds, from each training's log, without validation: "
        "wall-clock time, whatever else the machine did meanwhile; `benchmarks/` compares the cost "
        "of objectives in one run.",
        [f"Trained with other settings before, and not scored: {earlier}."] if earlier else [],
    )


def _length_penalties(results: dict[str, Any], systems: list[str]) -> str:
    """The length penalties of each beam, for every seed."""
    beams = results["systems"][systems[0]]["lenpen"]
    return "; ".join(
        f"{results['searches'][beam]}: "
        + " / ".join(f"{results['systems'][s]['lenpen'][beam]:g}" for s in systems)
        for beam in beams
        if int(beam) > 1
    )


def seconds(results: dict[str, Any], arm: str) -> list[str]:
    """Mean seconds per update in the arm's own logs, and their ratio to the control's."""
    arms = arms_of(results)
    seeds = [_trainings(results, s) for s in arms[arm]]
    shown = THEN.join(_mean(each, "seconds_per_update", ".3f") for each in zip(*seeds, strict=True))
    ours, control = (
        [results["systems"][s].get("seconds_per_update") for s in arms[name]]
        for name in (arm, results["control"])
    )
    # The start has batches and a purpose of its own.
    if arm == START or None in ours or None in control:
        return [shown, ""]
    return [shown, f"{over_seeds(ours).mean / over_seeds(control).mean:.2f}"]


def _mean(trainings: tuple[dict[str, Any], ...], key: str, form: str) -> str:
    values = [training[key] for training in trainings]
    return "n/a" if None in values else f"{over_seeds(values).mean:{form}}"


def _trainings(results: dict[str, Any], system: str) -> list[dict[str, Any]]:
    """The trainings of a system, in order: one, but for a start that took two stages."""
    record = results["systems"][system]
    return record.get("stages", [record])


def arms_table(results: dict[str, Any]) -> Table:
    """What each arm is, and its flags."""
    rows = [
        [label(results, arm), results["systems"][s[0]]["description"], _flags(results, s[0])]
        for arm, s in arms_of(results).items()
    ]
    notes = [f"All arms: `{results['shared_flags']}`"]
    return Table("Arms", ["arm", "what it is", "its own flags"], rows, "", notes)


def _flags(results: dict[str, Any], system: str) -> str:
    trainings = _trainings(results, system)
    if len(trainings) == 1:
        return f"`{trainings[0]['flags']}`"
    return THEN.join(f"{training['stage']}: `{training['flags']}`" for training in trainings)
