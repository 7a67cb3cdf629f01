"""A table, laid out for the terminal and for Markdown; HTML has a template of its own."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table as TerminalTable

# The difference, and its p-value, that a cell has in brackets after the score.
REMARK = re.compile(r"([\d.]+(?: ± [\d.]+)?) (\([^()]*\))$")
_CODE = re.compile(r"(`[^`]*`)")
_NARROWEST = 9  # characters of the first column in a line


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
    shown = TerminalTable(
        title=table.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    shown.add_column(header[0], overflow="fold", min_width=_NARROWEST)
    for name in header[1:]:
        shown.add_column(name.replace("`", ""), justify="right", overflow="fold")
    for first, *cells in rows:
        shown.add_row(first.replace("`", ""), *(REMARK.sub("\\1\n\\2", cell) for cell in cells))
    console.print(shown)
    for line in (table.caption, *table.notes):
        if line:
            console.print(line.replace("`", ""), highlight=False, markup=False)
    console.print()


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
