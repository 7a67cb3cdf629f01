"""What README.md tells people to type."""

from __future__ import annotations

import re
import shlex

from documents import REPOSITORY

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


def test_training_command_parses() -> None:
    from fairseq import options

    (words,) = commands("fairseq-train")  # the others are run by tests/recipes
    words[words.index("fairseq_plugins")] = str(REPOSITORY / "fairseq_plugins")
    args = options.parse_args_and_arch(options.get_training_parser(), input_args=words[1:])
    assert {"criterion": "stochastic_graph", "objective": "self_critical"}.items() <= vars(
        args
    ).items()
    assert args.label_smoothing == 0.1


def test_recipe_commands_parse() -> None:
    from recipes.__main__ import _parser

    for words in commands("python -m recipes"):
        _parser().parse_args(words[3:])


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    for words in commands("make"):
        assert words[1] in targets
