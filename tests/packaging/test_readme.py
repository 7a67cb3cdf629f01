"""What README.md tells people to type."""

from __future__ import annotations

import re
import shlex

import pytest
from documents import (
    REPOSITORY,
    criterion_flags,
    flag_rows,
    named_in,
    section,
)

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


def test_python_example_runs() -> None:
    (code,) = [text for language, text in BLOCKS if language == "python"]
    namespace: dict[str, object] = {}
    exec(code, namespace)
    score, logits = namespace["score"], namespace["logits"]
    assert 0 < score.item() < 1
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, {"criterion": "expected_bleu", "overlap": "exact", "cross_entropy_weight": 0.1}),
        (1, {"criterion": "stochastic_graph", "objective": "self_critical"}),
    ],
)
def test_training_commands_parse(number: int, expected: dict[str, object]) -> None:
    from fairseq import options

    words = commands("fairseq-train")[number]
    words[words.index("fairseq_plugins")] = str(REPOSITORY / "fairseq_plugins")
    args = options.parse_args_and_arch(options.get_training_parser(), input_args=words[1:])
    assert expected.items() <= vars(args).items()
    assert args.label_smoothing == 0.1


def test_no_training_command_is_left_untested() -> None:
    assert len(commands("fairseq-train")) == 2


def test_flag_table_lists_all_flags_of_expected_bleu_with_their_defaults() -> None:
    table = flag_rows(section(README, "In your own training"))
    flags = criterion_flags("expected_bleu")
    assert {name: default for name, (default, _) in table.items()} == {
        name: flag.default for name, flag in flags.items()
    }


def test_flag_table_of_stochastic_graph_has_the_defaults_of_cross_entropy() -> None:
    table = flag_rows(section(README, "Rewards, sampling and relaxations"))
    flags = criterion_flags("stochastic_graph")
    assert table
    assert {name: default for name, (default, _) in table.items()} == {
        name: flags[name].default for name in table
    }


@pytest.mark.parametrize(
    ("heading", "criterion"),
    [
        ("In your own training", "expected_bleu"),
        ("Rewards, sampling and relaxations", "stochastic_graph"),
    ],
)
def test_flag_tables_name_the_choices(heading: str, criterion: str) -> None:
    flags = criterion_flags(criterion)
    for name, (_, meaning) in flag_rows(section(README, heading)).items():
        assert flags[name].choices <= named_in(meaning), name


def test_recipe_commands_parse() -> None:
    from recipes.__main__ import _parser

    for words in commands("python -m recipes"):
        _parser().parse_args(words[3:])


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    for words in commands("make"):
        assert words[1] in targets
