"""Results as files: Markdown for people, JSON for programs, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Timing


@dataclass(frozen=True)
class Sizes:
    """What a section is measured with.

    ``batch`` sentences, the longest of ``length`` tokens with ``</s>``, of ``vocab`` words, in
    ``rounds`` timed rounds, at least 4.
    """

    batch: int
    length: int
    vocab: int
    rounds: int


@dataclass
class Table:
    """``figures`` are the numbers of its rows with all their digits, by the row's name."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: dict[str, Any]

    def markdown(self) -> str:
        return f"### {self.title}\n\n{markdown_table(self.header, self.rows)}\n"


@dataclass
class Section:
    """A part of the page: ``text`` says what the tables hold, in Markdown."""

    title: str
    text: str
    tables: list[Table]
    rounds: int = 0
    measured_on: dict[str, str] = field(default_factory=lambda: environment())

    def markdown(self) -> str:
        facts = ", ".join(f"{fact} {value}" for fact, value in self.measured_on.items())
        parts = [f"## {self.title}\n\n{self.text.strip()}\n\n{self.rounds} rounds, on: {facts}.\n"]
        return "\n".join([*parts, *(table.markdown() for table in self.tables)])


def read_sections(path: Path) -> dict[str, Section]:
    """Sections by name, as :func:`write_sections` wrote them; none where there is no file."""
    if not path.exists():
        return {}
    held = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Section(**{**section, "tables": [Table(**table) for table in section["tables"]]})
        for name, section in held.items()
    }


def write_sections(sections: dict[str, Section], path: Path, introduction: str) -> None:
    """``path`` plus .md and .json."""
    text = "\n".join([introduction, *(section.markdown() for section in sections.values())])
    write_text(path.with_suffix(".md"), text)
    content = {name: asdict(section) for name, section in sections.items()}
    write_json(path.with_suffix(".json"), content)


TIMING = ["ms", "ratio", "quartiles"]


def timing_cells(timing: Timing) -> list[str]:
    """For the columns ``TIMING``."""
    digits = 1 if timing.seconds < 0.1 else 0
    return [
        f"{1000 * timing.seconds:.{digits}f}",
        f"{timing.ratio:.2f}",
        f"{timing.lower_quartile:.2f} to {timing.upper_quartile:.2f}",
    ]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    alignment = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, alignment, *rows])


def write_by_rename(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write(temporary)`` beside ``path`` and rename the result, so no half file is seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_by_rename(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content) + "\n")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, str]:
    """Processor, accelerator if there is one, and versions."""
    facts = {
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts
