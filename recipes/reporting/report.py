"""Reports of a finished run: a page of HTML, Markdown, plots, and tables on the terminal."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from rich.console import Console

from recipes.errors import RecipeError
from recipes.reporting import tables
from recipes.reporting.examples import find_examples
from recipes.reporting.plots import Plot, plot_curves, plot_gains
from recipes.reporting.results import SCHEMA
from recipes.reporting.tables import REMARK, Table, print_table
from recipes.text import write_text

_CODE = re.compile(r"(`[^`]*`)")
_FLAG = re.compile(r"--?[\w-]{1,38}$")


def load_results(path: Path) -> dict[str, Any]:
    """results.json of a finished run.

    Raises:
        RecipeError: there is none, or another version of this package wrote it.
    """
    if not path.is_file():
        raise RecipeError(f"{path} does not exist; run the recipe first")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
    gains = plot_gains(results)
    page = html_page(results, find_examples(results, work_dir, text_dir), gains)
    files = {
        work_dir / "results.html": page,
        work_dir / "results.md": markdown(results, "gains.svg", "results.json"),
        work_dir / "gains.svg": gains.svg,
    }
    if results_dir is not None:
        name = Path(results["recipe"]).name
        files |= {
            results_dir / f"{name}.md": markdown(results, f"{name}.svg", f"{name}.json"),
            results_dir / f"{name}.svg": gains.svg,
            results_dir / f"{name}.json": json.dumps(results, indent=1, ensure_ascii=False) + "\n",
        }
    for path, content in files.items():
        write_text(path, content)
    return list(files)


def markdown(results: dict[str, Any], plot: str, data: str) -> str:
    """The whole report; ``plot`` and ``data`` are files in its folder."""
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    main = tables.main_column(results)
    shown = [
        *(tables.score_table(results, column) for column in tables.splits_and_beams(results)),
        tables.seed_table(results),
        tables.statistics_table(results, main),
        tables.length_table(results, main),
        tables.cost_table(results),
        tables.arms_table(results),
    ]
    commands = "\n".join(f"# {stage}\n{line}" for stage, line in results["commands"])
    fence = "`" * max([3, *(1 + len(run) for run in re.findall("`+", commands))])
    parts = [
        f"# {results['recipe']}",
        escaped(results["description"]),
        f"{results['date']}; {results['device']}; {versions}.",
        f"![Scores of every arm and seed, minus the baseline's]({plot})",
        "\n".join(f"* {sentence}" for sentence in tables.how_to_read(results)),
        *(part for table in shown if table is not None for part in markdown_parts(table)),
        "## Commands",
        f"All of it: `{results['command']}`",
        f"<details><summary>{len(results['commands'])} commands</summary>",
        f"{fence}bash\n{commands}\n{fence}",
        "</details>",
        f"All figures, and checksums of the text: [{data}]({data})",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_parts(table: Table) -> list[str]:
    """Heading, table, caption and notes."""
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


def print_results(results: dict[str, Any], console: Console) -> None:
    """Score, difference to the baseline and time of all arms, a table for every split."""
    for split in results["scored_text"]:
        print_table(tables.summary_table(results, split), console)
    signature = results["signatures"][results["selection"]]
    console.print(f"signature: {signature}", highlight=False, soft_wrap=True)


def html_page(results: dict[str, Any], examples: dict[str, Any] | None, gains: Plot) -> str:
    """The report as one page that needs nothing else: no script, no font, no address."""
    columns, main = tables.splits_and_beams(results), tables.main_column(results)
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(code=_code, aside=_aside)
    curves = plot_curves(results)
    return environment.get_template("report.html").render(
        results=results,
        style=Markup(_template("report.css")),
        how_to_read=tables.how_to_read(results),
        gains=gains,
        scores=[tables.score_table(results, column) for column in columns],
        seeds=tables.seed_table(results),
        curves=curves,
        examples=examples,
        outputs=[
            (
                tables.column_name(results, column),
                [tables.statistics_table(results, column), tables.length_table(results, column)],
                column == main,
            )
            for column in columns
        ],
        cost=tables.cost_table(results),
        arms=tables.arms_table(results),
    )


def _template(name: str) -> str:
    return (resources.files("recipes") / "templates" / name).read_text(encoding="utf-8")


def _code(text: str) -> Markup:
    """Escaped text, what is between backticks in ``<code>``, where flags are not broken up."""
    parts: list[Markup] = []
    for number, part in enumerate(_CODE.split(text)):
        if number % 2:
            words = (
                Markup('<span class="flag">{}</span>').format(word) if _FLAG.match(word) else word
                for word in part[1:-1].split(" ")
            )
            parts.append(Markup("<code>{}</code>").format(Markup(" ").join(words)))
        else:
            parts.append(escape(part))
    return Markup("").join(parts)


def _aside(text: str) -> Markup:
    """A cell whose remark in brackets has a line of its own."""
    match = REMARK.match(text)
    if match is None:
        return _code(text)
    return Markup('{} <span class="aside">{}</span>').format(*map(_code, match.groups()))
