"""Reports of a finished run: a page of HTML, Markdown, plots, and a table on the terminal."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable

from recipes.errors import RecipeError
from recipes.reporting import tables
from recipes.reporting.examples import find_examples
from recipes.reporting.html_page import html_page
from recipes.reporting.output_tables import length_table, statistics_table
from recipes.reporting.plots import plot_gains
from recipes.reporting.results import SCHEMA
from recipes.text import write_bytes, write_text

_CODE = re.compile(r"(`[^`]*`)")


def load_results(path: Path) -> dict[str, Any]:
    """results.json of a finished run.

    Raises:
        RecipeError: there is none, or another version of this package wrote it.
    """
    if not path.is_file():
        raise RecipeError(f"{path} does not exist; run the recipe first")
    results = json.loads(path.read_text(encoding="utf-8"))
    if results.get("schema") != SCHEMA:
        raise RecipeError(
            f"{path} is of another version; run the recipe again, which then only scores again"
        )
    return results


def write_report(
    work_dir: Path, results_dir: Path | None = None, text_dir: Path | None = None
) -> list[Path]:
    """Write results.html, results.md and gains.svg in ``work_dir``.

    Args:
        work_dir: of the finished run.
        results_dir: where NAME.md, NAME.svg and NAME.json go, if anywhere.
        text_dir: folder of the original text, for the examples; see
            :func:`~recipes.reporting.examples.find_examples`.

    Returns:
        The files written.
    """
    results = load_results(work_dir / "results.json")
    examples = find_examples(results, work_dir, text_dir)
    files = {"html": work_dir / "results.html", "md": work_dir / "results.md"}
    files["svg"] = work_dir / "gains.svg"
    plot_gains(results, files["svg"])
    write_text(files["html"], html_page(results, examples))
    write_text(files["md"], markdown(results, files["svg"].name, "results.json"))
    written = list(files.values())
    if results_dir is None:
        return written
    name = Path(results["recipe"]).name
    copies = {kind: results_dir / f"{name}.{kind}" for kind in ("md", "svg", "json")}
    write_text(copies["md"], markdown(results, copies["svg"].name, copies["json"].name))
    write_bytes(copies["svg"], files["svg"].read_bytes())
    write_text(copies["json"], json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return [*written, *copies.values()]


def markdown(results: dict[str, Any], plot: str, data: str) -> str:
    """The whole report; ``plot`` and ``data`` are files in its folder."""
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    parts = [
        f"# {results['recipe']}",
        escaped(results["description"]),
        f"{results['date']}; {results['device']}; {versions}.",
        f"![BLEU of every arm and seed, minus the baseline's]({plot})",
        "\n".join(f"* {sentence}" for sentence in tables.how_to_read(results)),
    ]
    for column in tables.splits_and_beams(results):
        parts += _parts(tables.score_table(results, column))
    parts += _parts(tables.seed_table(results))
    column = tables.main_column(results)
    parts += _parts(statistics_table(results, column))
    parts += _parts(length_table(results, column))
    parts += _parts(tables.cost_table(results))
    parts += _parts(tables.arms_table(results))
    commands = "\n".join(f"# {stage}\n{line}" for stage, line in results["commands"])
    fence = "`" * max([3, *(1 + len(run) for run in re.findall("`+", commands))])
    parts += [
        "## Commands",
        f"<details><summary>{len(results['commands'])} commands</summary>",
        f"{fence}bash\n{commands}\n{fence}",
        "</details>",
        f"All figures: [{data}]({data})",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _parts(table: tables.Table | None) -> list[str]:
    if table is None:
        return []
    lines = [f"| {' | '.join(table.header)} |", f"|{'|'.join(['---'] * len(table.header))}|"]
    lines += [f"| {' | '.join(map(escaped, row))} |" for row in table.rows]
    return [f"## {table.title}", "\n".join(lines), table.caption, *map(escaped, table.notes)]


def escaped(text: str) -> str:
    """Text of a recipe as one line of Markdown: no HTML, link or cell of its own."""
    text = " ".join(text.split()).replace("|", r"\|")
    # Entities are no entities in code, so that is left as it is where it is sure to be code.
    if "``" in text or text.count("`") % 2:
        text = text.replace("`", "'")
    parts = _CODE.split(text)
    parts[::2] = [html.escape(part, quote=False).replace("[", r"\[") for part in parts[::2]]
    return "".join(parts)


def print_table(results: dict[str, Any], console: Console) -> None:
    """BLEU, its difference to the baseline and time of all arms, a table for every split."""
    columns = tables.splits_and_beams(results)
    beams = list(dict.fromkeys(beam for _, beam in columns))
    for split in dict.fromkeys(split for split, _ in columns):
        title = f"{split}: BLEU (difference to {results['baseline']}, p-value)"
        table = TerminalTable(title=title)
        table.add_column("arm", overflow="fold")
        for beam in beams:
            table.add_column(results["searches"][beam], justify="right")
        table.add_column("s / update", justify="right")
        table.add_column("ratio", justify="right")
        for arm in tables.arms_of(results):
            cells = [tables.score_cell(results, arm, "bleu", (split, beam)) for beam in beams]
            name = tables.label(results, arm).replace("`", "")
            table.add_row(name, *cells, *tables.seconds(results, arm))
        console.print(table)
    console.print(f"signature: {results['signatures']['bleu']}", highlight=False, soft_wrap=True)
