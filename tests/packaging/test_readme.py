"""What README.md tells people to type."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match[1], match[2]) for match in FENCE.finditer(README)]


def commands(program: str) -> list[list[str]]:
    """The words of every shell command of the README that starts with ``program``."""
    lines = [
        line
        for language, text in BLOCKS
        if not language
        for line in text.replace("\\\n", " ").splitlines()
    ]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(program)]
    assert found, f"README.md has no command that starts with {program!r}"
    return found


@pytest.fixture(scope="module")
def criterion_parser() -> ArgumentParser:
    """The flags that the criterion adds to fairseq-train."""
    from fairseq.criterions import CRITERION_REGISTRY
    from fairseq.utils import import_user_module

    import_user_module(Namespace(user_dir=str(REPOSITORY / "fairseq_plugins")))
    parser = ArgumentParser(add_help=False)
    CRITERION_REGISTRY["expected_bleu"].add_args(parser)
    return parser


def test_python_example_runs() -> None:
    (code,) = [text for language, text in BLOCKS if language == "python"]
    namespace: dict[str, object] = {}
    exec(code, namespace)
    score, logits = namespace["score"], namespace["logits"]
    assert 0 < score.item() < 1
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_training_command_parses() -> None:
    from fairseq import options

    (words,) = commands("fairseq-train")
    words[words.index("fairseq_plugins")] = str(REPOSITORY / "fairseq_plugins")
    args = options.parse_args_and_arch(options.get_training_parser(), input_args=words[1:])
    assert args.criterion == "expected_bleu"
    assert args.overlap == "exact"
    assert args.cross_entropy_weight == args.label_smoothing == 0.1


def test_flag_table_lists_all_flags_with_their_defaults(criterion_parser: ArgumentParser) -> None:
    table = dict(re.findall(r"^\| `(--[a-z-]+)` \| `(.*?)` \|", README, re.MULTILINE))
    defaults = {
        action.option_strings[0]: str(action.default) for action in criterion_parser._actions
    }
    assert table == defaults


def test_flag_table_names_the_choices(criterion_parser: ArgumentParser) -> None:
    rows = dict(re.findall(r"^\| `(--[a-z-]+)` \| (.*) \|$", README, re.MULTILINE))
    for action in criterion_parser._actions:
        flag = action.option_strings[0]
        if flag in rows and action.choices:
            named = set(re.findall(r"`([\w-]+)`", rows[flag]))
            assert set(map(str, action.choices)) <= named, flag


def test_recipe_commands_parse() -> None:
    from recipes.__main__ import _parser

    for words in commands("python -m recipes"):
        _parser().parse_args(words[3:])


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    for words in commands("make"):
        assert words[1] in targets


def test_links_lead_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (REPOSITORY / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (REPOSITORY / target).exists(), f"{document} links to {target}"
