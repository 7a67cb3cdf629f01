"""Results as Markdown, and as a table on the terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recipes.errors import RecipeError
from recipes.layout import START
from recipes.plot import plot_curves
from recipes.text import write_text

_THEN = ", then "
_NAMES = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}


def load_results(path: Path) -> dict[str, Any]:
    """results.json of a finished run."""
    if not path.is_file():
        raise RecipeError(f"{path} does not exist; run the recipe first")
    return json.loads(path.read_text(encoding="utf-8"))


def write_report(work_dir: Path, results_dir: Path | None = None) -> list[Path]:
    """Write results.md and curves.png in ``work_dir``; copies go to ``results_dir`` by name.

    Returns the files written.
    """
    results = load_results(work_dir / "results.json")
    written = _write(results, work_dir, "results", "curves.png")
    if results_dir is not None:
        name = results["recipe"]
        results_dir.mkdir(parents=True, exist_ok=True)
        written += _write(results, results_dir, name, f"{name}.png")
        shutil.copyfile(work_dir / "results.json", results_dir / f"{name}.json")
        written.append(results_dir / f"{name}.json")
    return written


def _write(results: dict[str, Any], folder: Path, name: str, plot: str) -> list[Path]:
    drawn = plot_curves(results, folder / plot)
    text = markdown(results, plot if drawn else None, f"{name}.json")
    write_text(folder / f"{name}.md", text)
    return [folder / f"{name}.md", *([folder / plot] if drawn else [])]


def splits_and_beams(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(split, beam) columns in the order of the results."""
    scores = results["systems"][results["control"]]["scores"]
    return [(split, beam) for split, beams in scores.items() for beam in beams]


def _column(split: str, beam: str) -> str:
    return f"{split}, {'greedy' if beam == '1' else f'beam {beam}'}"


def _cell(results: dict[str, Any], system: str, metric: str, split: str, beam: str) -> str:
    """Score, and for all but the control the difference and its p-value."""
    score = results["systems"][system]["scores"][split][beam]["scores"][metric]
    control = results["systems"][results["control"]]["scores"][split][beam]["scores"][metric]
    text = f"{score['value']:.2f}"
    if system != results["control"] and score["p_value"] is not None:
        text += f" ({score['value'] - control['value']:+.2f}, p={score['p_value']:.3f})"
    return text


def _label(results: dict[str, Any], system: str) -> str:
    marks = []
    if system == results["control"]:
        marks.append("control")
    if system == results["selected"]:
        marks.append("selected on valid")
    return f"`{system}`" + (f" ({', '.join(marks)})" if marks else "")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(['---'] * len(header))}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _trainings(results: dict[str, Any], system: str) -> list[dict[str, Any]]:
    """The trainings of a system, in order: one, but for a ``start`` that took two stages."""
    # Results of earlier versions have no stages.
    stages = results.get("start_stages") if system == START else None
    return stages or [results["systems"][system]]


def _updates(results: dict[str, Any], system: str) -> str:
    return _THEN.join(str(training["updates"]) for training in _trainings(results, system))


def _flags(results: dict[str, Any], system: str) -> str:
    trainings = _trainings(results, system)
    if len(trainings) == 1:
        return f"`{trainings[0]['flags']}`"
    return _THEN.join(f"{training['stage']}: `{training['flags']}`" for training in trainings)


def _seconds(results: dict[str, Any], system: str) -> list[str]:
    """Mean seconds per update in the system's own log, and their ratio to the control's."""
    means = [training["seconds_per_update"] for training in _trainings(results, system)]
    shown = _THEN.join("n/a" if mean is None else f"{mean:.3f}" for mean in means)
    control = results["systems"][results["control"]]["seconds_per_update"]
    # The start has batches and a purpose of its own.
    if system == START or means[0] is None or not control:
        return [shown, ""]
    return [shown, f"{means[0] / control:.2f}"]


def markdown(results: dict[str, Any], plot: str | None, data: str) -> str:
    """The whole report."""
    systems = results["systems"]
    columns = splits_and_beams(results)
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    parts = [
        f"# {results['recipe']}",
        results["description"],
        f"{results['date']}; {results['device']}; {versions}.",
        f"Scored: detokenised output against the original text of {_scored(results)}. "
        f"In brackets the difference to `{results['control']}`, the control, which made the same "
        "number of updates from the same checkpoint, and the p-value of sacrebleu's paired "
        f"bootstrap test ({results['bootstrap_samples']} resamples). Every arm that was run with "
        f"this recipe file is listed.",
    ]
    for metric in results["metrics"]:
        rows = [
            [_label(results, s), *(_cell(results, s, metric, *c) for c in columns)] for s in systems
        ]
        direction = " (lower is better)" if metric == "ter" else ""
        header = ["arm", *(_column(*c) for c in columns)]
        parts += [f"## {_NAMES[metric]}{direction}", _table(header, rows)]
        parts.append(f"Signature: `{results['signatures'][metric]}`")
    rows = [
        [
            _label(results, s),
            _updates(results, s),
            *_seconds(results, s),
            *(
                f"{systems[s]['scores'][split][beam]['length_ratio']:.3f}"
                for split, beam in columns
            ),
        ]
        for s in systems
    ]
    header = ["arm", "updates", "s / update", "ratio to control"]
    header += [f"length ratio {_column(*c)}" for c in columns]
    parts += ["## Cost and length", _table(header, rows)]
    parts.append(
        "Seconds per update are the mean over each arm's own training log, without validation: "
        "wall-clock time, whatever else the machine did meanwhile; "
        "`benchmarks/` compares the cost of objectives in one run."
    )
    if any(
        len(set(s["lenpen"].values())) > 1 or "1.0" not in map(str, s["lenpen"].values())
        for s in systems.values()
    ):
        parts.append(
            "Length penalties chosen on valid: "
            + "; ".join(
                f"`{name}` " + ", ".join(f"beam {b}: {v:g}" for b, v in s["lenpen"].items())
                for name, s in systems.items()
            )
        )
    if plot is not None:
        parts += ["## Curves", f"![validation curves]({plot})"]
    rows = [[_label(results, s), systems[s]["description"], _flags(results, s)] for s in systems]
    parts += ["## Arms", _table(["arm", "what it is", "its own flags"], rows)]
    parts.append(f"All arms: `{results['shared_flags']}`")
    commands = "\n".join(f"# {stage}\n{line}" for stage, line in results["commands"])
    parts += [
        "## Commands",
        f"<details><summary>{len(results['commands'])} commands</summary>",
        f"```bash\n{commands}\n```",
        "</details>",
        f"All figures: [{data}]({data})",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _scored(results: dict[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in results["scored_text"].values())


def print_table(results: dict[str, Any], console: Console) -> None:
    """BLEU and time of all arms on the terminal, a table for every split."""
    beams = list(dict.fromkeys(beam for _, beam in splits_and_beams(results)))
    for split in dict.fromkeys(split for split, _ in splits_and_beams(results)):
        table = Table(title=f"{split}: BLEU (difference to {results['control']}, p-value)")
        table.add_column("arm", overflow="fold")
        for beam in beams:
            table.add_column("greedy" if beam == "1" else f"beam {beam}", justify="right")
        table.add_column("s / update", justify="right")
        table.add_column("ratio", justify="right")
        for system in results["systems"]:
            cells = [_cell(results, system, "bleu", split, beam) for beam in beams]
            label = _label(results, system).replace("`", "")
            table.add_row(label, *cells, *_seconds(results, system))
        console.print(table)
    console.print(f"signature: {results['signatures']['bleu']}", highlight=False, soft_wrap=True)
