"""What the Markdown pages say, and what the criterions say of themselves."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def page(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands between a heading of the second level and the next one."""
    parts = re.split(r"^## (.*)$\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


def flag_rows(text: str) -> dict[str, tuple[str, str]]:
    """Flag -> default and meaning, of the rows ``| `--flag` | `default` | meaning |``."""
    rows = re.findall(r"^\| `(--[a-z-]+)` \| `(.*?)` \| (.*) \|$", text, re.MULTILINE)
    return {flag: (default, meaning) for flag, default, meaning in rows}


def named_in(meaning: str) -> set[str]:
    """All that is set in code style."""
    return set(re.findall(r"`([\w-]+)`", meaning))


@dataclass(frozen=True)
class Flag:
    """``default``: where ``--objective`` decides, that of cross-entropy."""

    default: str
    choices: frozenset[str]


def import_plugin() -> None:
    from fairseq.utils import import_user_module

    import_user_module(Namespace(user_dir=str(REPOSITORY / "fairseq_plugins")))


def criterion_parser(criterion: str) -> ArgumentParser:
    """The flags that a criterion adds to fairseq-train."""
    from fairseq.criterions import CRITERION_REGISTRY

    import_plugin()
    parser = ArgumentParser(add_help=False)
    CRITERION_REGISTRY[criterion].add_args(parser)
    return parser


@cache
def criterion_flags(criterion: str) -> dict[str, Flag]:
    """The flags of a criterion, by name."""
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY

    parser = criterion_parser(criterion)
    known = fields(CRITERION_DATACLASS_REGISTRY[criterion])
    unset = {field.name: field.metadata["unset"] for field in known if "unset" in field.metadata}
    return {
        action.option_strings[0]: Flag(
            str(unset.get(action.dest, action.default)), frozenset(map(str, action.choices or ()))
        )
        for action in parser._actions
    }
