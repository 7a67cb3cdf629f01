"""The page of troubleshooting speaks of flags and metrics that exist."""

import argparse
import re
from pathlib import Path

from fairseq import options
from fairseq.dataclass.utils import gen_parser_from_dataclass

from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig
from fairseq_plugins.stochastic_graph.config import StochasticGraphCriterionConfig
from recipes.__main__ import _parser as recipes_parser

PAGE = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text(encoding="utf-8")
# Of pip, and of tasks, optimisers and schedulers, whose flags fairseq adds when one is chosen.
OTHERS = {
    *("--no-deps", "--eval-bleu", "--eval-bleu-args", "--eval-bleu-detok"),
    *("--eval-bleu-remove-bpe", "--warmup-updates", "--share-all-embeddings", "--remove-bpe"),
}


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {flag for sub in action.choices.values() for flag in flags_of(sub)}
    return found


def test_its_flags_exist():
    criterions = argparse.ArgumentParser(conflict_handler="resolve")
    for config in (ExpectedBleuCriterionConfig, StochasticGraphCriterionConfig):
        gen_parser_from_dataclass(criterions, config())
    parsers = [
        *(options.get_training_parser(), options.get_generation_parser()),
        *(criterions, recipes_parser()),
    ]
    known = OTHERS.union(*map(flags_of, parsers))
    code = " ".join(re.findall(r"`([^`]+)`", PAGE))
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*\w", code))
    assert len(named) > 40
    assert named - known == set()


def test_its_recipe_settings_and_messages_exist():
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("fairseq_plugins", "recipes")
        for path in (Path(__file__).parents[2] / folder).rglob("*.py")
    )
    for message in ("nothing is sampled", "the checkpoint is that of another objective"):
        assert message in PAGE
        assert message in sources
