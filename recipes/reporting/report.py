"""Reports of a finished run: a page of HTML, Markdown, plots, and a table on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable

from recipes.errors import RecipeError
from recipes.fairseq_commands.training_log import SECONDS, read_training_log
from recipes.reporting import tables
from recipes.reporting.examples import find_examples
from recipes.reporting.html_page import data_link, html_page
from recipes.reporting.output_tables import length_table, statistics_table
from recipes.reporting.plots import plot_curves
from recipes.text import write_bytes, write_text


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
            :func:`~recipes.reporting.examples.find_examples`.

    Returns:
        The files written.
    """
    results = load_results(work_dir / "results.json")
    add_curves(results, work_dir)
    examples = find_examples(results, work_dir, text_dir)
    files = {"html": work_dir / "results.html", "md": work_dir / "results.md"}
    plot = work_dir / "curves.png"
    if plot_curves(results, plot):
        files["png"] = plot
    page = html_page(results, examples, "results.json")
    write_text(files["html"], page)
    write_text(files["md"], markdown(results, files.get("png"), "results.json"))
    written = list(files.values())
    if results_dir is None:
        return written
    name = results["recipe"]
    copies = {kind: results_dir / f"{name}.{kind}" for kind in (*files, "json")}
    data = copies["json"]
    write_text(copies["html"], page.replace(data_link("results.json"), data_link(data.name)))
    write_text(copies["md"], markdown(results, copies.get("png"), data.name))
    if "png" in copies:
        write_bytes(copies["png"], plot.read_bytes())
    write_text(data, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return [*written, *copies.values()]


def add_curves(results: dict[str, Any], work_dir: Path) -> None:
    """Read the curves that results of earlier versions do not hold from the logs, if any."""
    for arm, curves in results["curves"].items():
        log = work_dir / "arms" / arm / "train.log"
        if SECONDS not in curves and log.is_file():
            results["curves"][arm] = {**curves, **read_training_log(log).curves()}


def markdown(results: dict[str, Any], plot: Path | None, data: str) -> str:
    """The whole report; ``plot`` and ``data`` are files in its folder."""
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
    parts += _parts(statistics_table(results, column))
    parts += _parts(length_table(results, column))
    parts += _parts(tables.cost_table(results))
    if plot is not None:
        parts += ["## Curves", f"![validation curves]({plot.name})"]
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
            table.add_column(tables.search_name(results, beam), justify="right")
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
