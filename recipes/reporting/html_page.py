"""The report as one page of HTML that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from recipes.reporting import tables
from recipes.reporting.examples import Examples
from recipes.reporting.output_tables import length_table, statistics_table
from recipes.reporting.plots import curve_plots, lines_of, score_plots

_CODE = re.compile(r"`([^`]*)`")
_FLAG = re.compile(r"--?[\w-]{1,38}$")
_REMARK = re.compile(r"([\d.]+(?: ± [\d.]+)?) (\([^()]*\))$")


def html_page(results: dict[str, Any], examples: Examples | None) -> str:
    """The page.

    Args:
        results: of ``results.json``.
        examples: of :func:`~recipes.reporting.examples.find_examples`.
    """
    columns = tables.splits_and_beams(results)
    main = tables.main_column(results)
    outputs = [
        ([statistics_table(results, column), length_table(results, column)], column == main)
        for column in columns
    ]
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(code=_code, aside=_aside)
    return environment.get_template("report.html").render(
        results=results,
        style=Markup(_template("report.css")),
        how_to_read=tables.how_to_read(results),
        score_plots=_plots(score_plots(results, tables.largest_beams(results))),
        scores=[tables.score_table(results, column) for column in columns],
        seeds=tables.seed_table(results),
        legend=_legend(results),
        curves=_plots(curve_plots(results)),
        examples=examples,
        examples_column=tables.column_name(results, examples.column) if examples else "",
        outputs=outputs,
        cost=tables.cost_table(results),
        arms=tables.arms_table(results),
    )


def _template(name: str) -> str:
    return resources.files("recipes").joinpath("templates", name).read_text(encoding="utf-8")


def _plots(plots: Any) -> list[dict[str, Any]]:
    # matplotlib escapes the text in its SVG.
    return [{"title": p.title, "description": p.description, "svg": Markup(p.svg)} for p in plots]


def _code(text: str) -> Markup:
    """Escaped text, what is between backticks in ``<code>``, where flags are not broken up."""
    parts: list[Markup] = []
    for number, part in enumerate(_CODE.split(text)):
        if number % 2:
            words = (
                Markup('<span class="flag">{}</span>').format(word) if _FLAG.match(word) else word
                for word in part.split(" ")
            )
            parts.append(Markup("<code>{}</code>").format(Markup(" ").join(words)))
        else:
            parts.append(escape(part))
    return Markup("").join(parts)


def _aside(text: str) -> Markup:
    """A cell whose remark in brackets has a line of its own."""
    match = _REMARK.match(text)
    if match is None:
        return _code(text)
    return Markup('{} <span class="aside">{}</span>').format(*map(_code, match.groups()))


def _legend(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every system that has curves, with how its line looks."""
    return [
        {"name": system, "color": line.color, "dashed": line.dashed, "marker": line.marker}
        for system, line in lines_of(results).items()
    ]
