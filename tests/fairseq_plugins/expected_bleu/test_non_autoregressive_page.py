"""docs/non_autoregressive.md: its commands parse, its shell lines do what they say."""

import re
import shlex
import subprocess

import pytest
from console_scripts import REPOSITORY
from fairseq import options

PAGE = (REPOSITORY / "docs" / "non_autoregressive.md").read_text(encoding="utf-8")
PLUGIN = REPOSITORY / "fairseq_plugins"
LINES = [
    line
    for block in re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
PARSERS = {
    "fairseq-train": (options.get_training_parser, 3),
    "fairseq-generate": (options.get_generation_parser, 2),
}
"""By program, with how many commands of the page are its."""
OUTPUT = "S-1\tx\nH-1\t-0.5\ta a b b b a\nD-1\t-0.5\tz z\nH-0\t-0.5\tc\nH-10\t-0.5\td c d d\n"


@pytest.mark.parametrize("program", PARSERS)
def test_commands_parse(program):
    parser, number = PARSERS[program]
    commands = [shlex.split(line.split(">")[0]) for line in LINES if line.startswith(program)]
    assert len(commands) == number
    for words in commands:
        words = [str(PLUGIN) if word == PLUGIN.name else word for word in words]
        options.parse_args_and_arch(parser(), input_args=words[1:])


def test_an_architecture_or_criterion_of_the_plugin_comes_with_its_folder():
    """The parser above has seen the plugin; a shell has not."""
    commands = [shlex.split(line) for line in LINES if line.startswith("fairseq-train")]
    for words in commands:
        ours = any("warm_started" in word or word == "expected_bleu" for word in words)
        assert ours == (PLUGIN.name in words)


def shell(line, folder):
    (folder / "out.txt").write_text(OUTPUT, encoding="utf-8")
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def test_shell_lines_count_and_join_repeated_tokens(tmp_path):
    count, join = (line for line in LINES if line.startswith("grep"))
    assert float(shell(count, tmp_path)) == pytest.approx(100 * 4 / 11, abs=0.01)
    assert shell(join, tmp_path).splitlines() == ["c", "a b a", "d c d"]
