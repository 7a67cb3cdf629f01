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
from recipes.running.layout import START

_CODE = re.compile(r"`([^`]*)`")
_FLAG = re.compile(r"--?[\w-]{1,38}$")
_REMARK = re.compile(r"([\d.]+(?: ± [\d.]+)?) (\([^()]*\))$")


def html_page(results: dict[str, Any], examples: Examples | None, data: str) -> str:
    """The page.

    Args:
        results: of ``results.json``.
        examples: of :func:`~recipes.reporting.examples.find_examples`.
        data: name of the file that holds all figures.
    """
    columns = tables.splits_and_beams(results)
    scores = list(tables.score_tables(results))
    main = tables.main_column(results)
    outputs = [
        (column_tables, column == main)
        for column in columns
        if (
            column_tables := [
                table
                for table in (
                    statistics_table(results, column),
                    length_table(results, column),
                )
                if table is not None
            ]
        )
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
        findings=_findings(results),
        score_plots=_plots(score_plots(results, tables.largest_beams(results))),
        bleu=scores[0],
        other_scores=scores[1:],
        seeds=tables.seed_table(results),
        legend=_legend(results),
        curves=_plots(curve_plots(results)),
        examples=examples,
        examples_column=tables.column_name(results, examples.column) if examples else "",
        outputs=outputs,
        cost=tables.cost_table(results),
        arms=tables.arms_table(results),
        data_link=data_link(data),
    )


def data_link(name: str) -> Markup:
    """The link to the file of all figures, a file in the page's folder."""
    return Markup('<a href="{0}">{0}</a>').format(name)


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


def _findings(results: dict[str, Any]) -> list[str]:
    """BLEU of the selected arm (of all, where none is selected) against the control, in words."""
    columns = tables.largest_beams(results)
    arms = [results["selected"]] if results["selected"] else list(results["systems"])
    sentences = []
    # The first split is the validation set.
    for column in columns[1:] or columns:
        for system in results["systems"]:
            change = tables.difference(results, system, "bleu", column)
            if system == START or change is None or tables.arm_of(results, system) not in arms:
                continue
            score = tables.figures(results, system, column)["scores"]["bleu"]
            tested = tables.p_values(results, system, "bleu", column)
            p_value = f" (p\u00a0=\u00a0{tested[0]:.3f})" if tested else ""
            sentences.append(
                f"`{system}`: {score['value']:.2f} BLEU on "
                f"{tables.column_name(results, column)}, {change:+.2f} against "
                f"`{tables.baseline_of(results, system, column)}`"
                f"{p_value}"
            )
    return sentences
