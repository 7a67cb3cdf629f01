"""The ``sacrebleu`` command, its main function called in this process."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from unittest.mock import Mock, patch

from sacrebleu.sacrebleu import main


def sacrebleu_command(*arguments: object) -> str:
    """What it prints."""
    words = ["sacrebleu", *map(str, arguments)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        # It opens standard input and output anew.
        nothing = Mock(fileno=lambda: os.open(os.devnull, os.O_RDONLY))
        output = Mock(fileno=lambda: os.dup(printed.fileno()))
        with patch("sys.argv", words), patch("sys.stdin", nothing), patch("sys.stdout", output):
            main()
            sys.stdin.close()
            sys.stdout.close()
        printed.seek(0)
        return printed.read()


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
