"""The real ``sacrebleu`` command, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def sacrebleu_command(*arguments: object) -> str:
    """What it prints."""
    script = Path(sys.executable).with_name("sacrebleu")
    return subprocess.run(
        [script, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


def paired_table(*arguments: object) -> list[dict[str, str]]:
    """Cells of a paired test, system by system, with six decimals; absent figures are empty.

    Its JSON format fails on numpy's floats when there are p-values.
    """
    table = sacrebleu_command(*arguments, "-w", "6", "-f", "latex")
    rows = table.partition("\\midrule")[2].partition("\\bottomrule")[0]
    cell = re.compile(
        r"& +(?P<score>[\d.]+)(?: \((?P<mean>[\d.]+) ± (?P<interval>[\d.]+)\))?"
        r"(?: \(p = (?P<p>[\d.]+)\))?"
    )
    return [match.groupdict("") for match in cell.finditer(rows)]
