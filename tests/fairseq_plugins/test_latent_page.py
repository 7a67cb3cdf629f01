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
from fairseq_plugins.models.latent.kinds import KINDS, ManifoldKind
from fairseq_plugins.models.latent.settings import LatentSettings, add_latent_flags

PAGE = (Path(__file__).parents[2] / "docs" / "latent_variables.md").read_text(encoding="utf-8")
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
    add_latent_flags(parser)
    flags = {action.option_strings[0]: action for action in parser._actions}
    assert set(ROWS) == set(flags)
    for name, action in flags.items():
        for choice in action.choices or ():
            assert f"`{choice}`" in ROWS[name][1], name


def test_defaults_are_those_of_the_page():
    defaults = {name: row[0].strip("`") for name, row in ROWS.items()}
    default = LatentSettings.of(object())
    assert defaults == {
        "--latent": default.kind,
        "--latent-dim": str(default.dim),
        "--latent-prior": "by `--latent",
        "--latent-from": default.source,
        "--latent-in-evaluation": "deterministic",
        "--kl-weight": "1",
        "--free-bits": "0",
        "--word-dropout": "0",
    }
    assert not default.samples_in_evaluation
    assert default.kl_weight(0) == 1
    assert default.free_bits == 0
    assert default.word_dropout == 0


@pytest.mark.parametrize("number", range(4))
def test_commands_are_understood(number):
    program, *arguments = list(commands())[number]
    if program == "fairseq-train":
        parser = options.get_training_parser()
        parsed = options.parse_args_and_arch(parser, arguments)
        assert LatentSettings.of(parsed).kind == "gaussian"
        assert parsed.criterion == "stochastic_graph"
    else:
        parsed = options.parse_args_and_arch(options.get_generation_parser(), arguments)
        assert ast.literal_eval(parsed.model_overrides).keys() <= {"latent_in_evaluation"}


def test_laws_are_narrow_enough_for_the_turns_that_are_summed():
    """The probability that the page gives for what is missed: twice a Gaussian's tail."""
    widest = max(kind.widest for kind in KINDS.values() if issubclass(kind, ManifoldKind))
    reach = (2 * TURNS + 1) * math.pi / widest
    assert widest == math.pi
    # Two angles, or a bound of a chi distribution's tail that is a thousand times too large.
    assert 2 * math.erfc(reach / math.sqrt(2)) < 1e-11
