"""What docs/latent_variables.md says of flags, numbers and commands."""

import ast
import math
import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest
from fairseq import options

from criterions.manifolds import TURNS
from fairseq_plugins.models.latent.latent_distributions import KINDS
from fairseq_plugins.models.latent.latent_transformer import LatentFlags

PAGE = (Path(__file__).parents[4] / "docs" / "latent_variables.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.splitlines()
    if line.startswith(("| `--latent", "| `--kl", "| `--free", "| `--word"))
    if len(cells := re.split(r" (?<!\\)\| ", line.strip("| "))) == 3
}


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for command in "".join(blocks).replace("\\\n", " ").splitlines():
        yield shlex.split(command)


def test_every_flag_has_a_row():
    parser = ArgumentParser(add_help=False)
    LatentFlags.add_to(parser)
    flags = {action.option_strings[0]: action for action in parser._actions}
    assert set(ROWS) == set(flags)
    for name, action in flags.items():
        for choice in action.choices or ():
            assert f"`{choice}`" in ROWS[name][1], name


def test_defaults_are_those_of_the_page():
    defaults = {name: row[0].strip("`") for name, row in ROWS.items()}
    given = vars(LatentFlags())
    shown = {"--" + name.replace("_", "-"): str(value) for name, value in given.items()}
    shown = {name: value.removesuffix(".0") for name, value in shown.items()}
    assert defaults == {name: shown[name] for name in ROWS} | {"--latent-prior": "by `--latent"}
    assert shown["--latent-prior"] == "None"


@pytest.mark.parametrize("number", range(4))
def test_commands_are_understood(number):
    program, *arguments = list(commands())[number]
    if program == "fairseq-train":
        parser = options.get_training_parser()
        parsed = options.parse_args_and_arch(parser, arguments)
        assert LatentFlags.of(parsed).latent == "gaussian"
        assert parsed.criterion == "stochastic_graph"
    else:
        parsed = options.parse_args_and_arch(options.get_generation_parser(), arguments)
        assert ast.literal_eval(parsed.model_overrides).keys() <= {"latent_in_evaluation"}


def test_distributions_are_narrow_enough_for_the_turns_that_are_summed():
    """The probability that the page gives for what is missed: twice a Gaussian's tail."""
    kinds = [make(1) for make in KINDS.values()]
    widest = max(kind.widest for kind in kinds if kind.embedding is not None)
    reach = (2 * TURNS + 1) * math.pi / widest
    assert widest == math.pi
    # Two angles, or a bound of a chi distribution's tail that is a thousand times too large.
    assert 2 * math.erfc(reach / math.sqrt(2)) < 1e-11
