"""Command-line flags of fairseq in a recipe: reading them, and which are refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from recipes.errors import ConfigError

# The runner writes these itself, or they would load code or write elsewhere than the work-dir.
RESERVED_FLAGS = (
    *("--save-dir", "--restore-file", "--continue-once", "--finetune-from-model", "--user-dir"),
    *("--task", "--source-lang", "--target-lang", "-s", "-t", "--path", "--gen-subset"),
    *("--results-path", "--quiet", "--log-file", "--log-format", "--log-interval"),
    *("--no-progress-bar", "--cpu", "--fp16"),
)
# What "the same number of updates" means for arms that are to be compared.
ENDS = ("--max-update", "--max-epoch")
BUDGET_FLAGS = (*ENDS, "--update-freq", "--max-tokens", "--batch-size")
# Parts of a Python expression that calls nothing: no attribute, index, comparison, loop or format.
_DATA = (
    *(ast.Expression, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Name, ast.Load),
    *(ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator),
)


def check_flags(where: str, flags: Iterable[str]) -> None:
    """Check one group of flags, whatever command of fairseq it goes to.

    Raises:
        ConfigError: a flag that the runner sets, or a value that fairseq would run as Python.
    """
    for flag in flags:
        name, _, value = flag.partition("=")
        # argparse reads -sde as -s de.
        if name in RESERVED_FLAGS or (name[:2] in RESERVED_FLAGS and name[:2] != "--"):
            raise ConfigError(f"{where}: {flag} is set by the runner; take it out")
        if any(map(_may_run_code, (flag, value))):
            raise ConfigError(
                f"{where}: {flag!r} may run code: fairseq evaluates some values as Python, so "
                "write numbers, words, lists and the like alone, and the path of a file as ./NAME"
            )


def _may_run_code(text: str) -> bool:
    """Whether ``eval`` would do more than read data, of the text or of a text inside it."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return False  # for eval as well
    except (RecursionError, MemoryError):
        return True
    return any(
        not isinstance(node, _DATA)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str)
            and _may_run_code(node.value))
        for node in ast.walk(tree)
    )  # fmt: skip


def flag_groups(words: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The name of every flag, and its words: itself and what follows up to the next one."""
    name, group = "", list[str]()
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            if group:
                yield name, group
            name, group = word.partition("=")[0], []
        group.append(word)
    if group:
        yield name, group


def flag_value(flags: Iterable[str], name: str) -> str | None:
    """The value the last ``name VALUE`` (or ``name=VALUE``) in ``flags`` gives, else None."""
    value = None
    for known, (word, *values) in flag_groups(flags):
        if known == name and ("=" in word or values):
            value = word.partition("=")[2] if "=" in word else values[0]
    return value


def with_flags(flags: Iterable[str], more: Iterable[str]) -> list[str]:
    """``flags`` and then ``more``, which take the place of flags of the same name."""
    groups = {**dict(flag_groups(flags)), **dict(flag_groups(more))}
    return list(chain.from_iterable(groups.values()))


def without_flag(flags: Iterable[str], name: str) -> list[str]:
    """``flags`` without any ``name VALUE`` and ``name=VALUE``."""
    kept = (words for known, words in flag_groups(flags) if known != name)
    return list(chain.from_iterable(kept))
