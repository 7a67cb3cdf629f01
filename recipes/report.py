"""Reports of a finished run: a page of HTML, Markdown, plots, and a table on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable

from recipes import report_tables as tables
from recipes.errors import RecipeError
from recipes.examples import Examples, find_examples
from recipes.html_report import html_page
from recipes.plot import plot_curves
from recipes.text import write_text
from recipes.training_log import SECONDS, read_training_log


def load_results(path: Path) -> dict[str, Any]:
    """results.json of a finished run."""
    if not path.is_file():
        raise RecipeError(f"{path} does not exist; run the recipe first")
    return json.loads(path.read_text(encoding="utf-8"))


def write_report(
    work_dir: Path, results_dir: Path | None = None, text_dir: Path | None = None
) -> list[Path]:
    """Write results.html, results.md and curves.png in ``work_dir``; copies in ``results_dir``.

    Args:
        work_dir: of the finished run.
        results_dir: where NAME.html, NAME.md, NAME.png and NAME.json go, if anywhere.
        text_dir: folder of the original text, for the examples; see
            :func:`~recipes.examples.find_examples`.

    Returns:
        The files written.
    """
    results = load_results(work_dir / "results.json")
    add_curves(results, work_dir)
    examples = find_examples(results, work_dir, text_dir)
    written = _write(results, examples, work_dir, "results", "curves.png")
    if results_dir is not None:
        name = results["recipe"]
        written += _write(results, examples, results_dir, name, f"{name}.png")
        path = results_dir / f"{name}.json"
        write_text(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        written.append(path)
    return written


def add_curves(results: dict[str, Any], work_dir: Path) -> None:
    """Read the curves that results of earlier versions do not hold from the logs, if any."""
    for arm, curves in results["curves"].items():
        log = work_dir / "arms" / arm / "train.log"
        if SECONDS not in curves and log.is_file():
            results["curves"][arm] = {**curves, **read_training_log(log).curves()}


def _write(
    results: dict[str, Any], examples: Examples | None, folder: Path, name: str, plot: str
) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plot_curves(results, folder / plot)
    page = html_page(results, examples, f"{name}.json")
    write_text(folder / f"{name}.html", page)
    text = markdown(results, plot if drawn else None, f"{name}.json")
    write_text(folder / f"{name}.md", text)
    files = [f"{name}.html", f"{name}.md", *([plot] if drawn else [])]
    return [folder / file for file in files]


def markdown(results: dict[str, Any], plot: str | None, data: str) -> str:
    """The whole report."""
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    parts = [
        f"# {results['recipe']}",
        results["description"],
        f"{results['date']}; {results['device']}; {versions}.",
        scored(results),
        tables.how_scored(results),
    ]
    for table in tables.score_tables(results):
        parts += _parts(table, caption=False)
        if table.title == tables.METRIC_NAMES["bleu"]:
            parts += _parts(tables.seed_table(results))
    column = tables.main_column(results)
    parts += _parts(tables.statistics_table(results, column))
    parts += _parts(tables.length_table(results, column))
    parts += _parts(tables.cost_table(results))
    if plot is not None:
        parts += ["## Curves", f"![validation curves]({plot})"]
    parts += _parts(tables.arms_table(results))
    commands = "\n".join(f"# {stage}\n{line}" for stage, line in results["commands"])
    parts += [
        "## Commands",
        f"<details><summary>{len(results['commands'])} commands</summary>",
        f"```bash\n{commands}\n```",
        "</details>",
        f"All figures: [{data}]({data})",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def scored(results: dict[str, Any]) -> str:
    """Which text the scores are of, and what they are compared with."""
    references = ", ".join(f"`{name}`" for name in results["scored_text"].values())
    return (
        f"Scored: detokenised output against the original text of {references}. The control, "
        f"`{results['control']}`, made the same number of updates from the same checkpoint. Every "
        "arm that was run with this recipe file is listed."
    )


def _parts(table: tables.Table | None, caption: bool = True) -> list[str]:
    if table is None:
        return []
    lines = [f"| {' | '.join(table.header)} |", f"|{'|'.join(['---'] * len(table.header))}|"]
    lines += [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in r)} |" for r in table.rows
    ]
    return [
        f"## {table.title}",
        "\n".join(lines),
        *([table.caption] if caption else []),
        *table.notes,
    ]


def print_table(results: dict[str, Any], console: Console) -> None:
    """BLEU and time of all arms on the terminal, a table for every split."""
    columns = tables.splits_and_beams(results)
    beams = list(dict.fromkeys(beam for _, beam in columns))
    for split in dict.fromkeys(split for split, _ in columns):
        title = f"{split}: BLEU (difference to {results['control']}, p-value)"
        table = TerminalTable(title=title)
        table.add_column("arm", overflow="fold")
        for beam in beams:
            table.add_column("greedy" if beam == "1" else f"beam {beam}", justify="right")
        table.add_column("s / update", justify="right")
        table.add_column("ratio", justify="right")
        for system in results["systems"]:
            cells = [
                tables.score_cell(results, system, "bleu", (split, beam), interval=False)
                for beam in beams
            ]
            name = tables.label(results, system).replace("`", "")
            table.add_row(name, *cells, *tables.seconds(results, system))
        console.print(table)
    console.print(f"signature: {results['signatures']['bleu']}", highlight=False, soft_wrap=True)
