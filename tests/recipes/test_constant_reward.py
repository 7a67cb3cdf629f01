"""The control of a reward, from a recipe to its report, with the real criterion.

A cost is 1 - reward, so that a reward of 1 costs nothing, whatever is drawn: with a baseline that
is such a cost, the gradient of the reward's part is exactly zero, not only in expectation.
"""

import importlib
import logging
import os
import re
import sys
import traceback
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq.utils import import_user_module

from recipes.fairseq_commands.checkpoints import load_checkpoint
from recipes.fairseq_commands.commands import user_dir
from recipes.pipeline import run_recipe
from recipes.reporting.report import load_results, write_report
from recipes.running.run import Run
from recipes.schema.reading import load_recipe
from recipes.text import read_lines

ARCHITECTURE = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --share-all-embeddings "
    "--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 32 "
    "--decoder-ffn-embed-dim 32 --encoder-attention-heads 1 --decoder-attention-heads 1"
)
COMMON = "--optimizer adam --max-tokens 600 --seed 1 --no-epoch-checkpoints"
REWARD = "--criterion stochastic_graph --cross-entropy-weight 0 --max-decode-length 12 --objective"
REWARDED = {"reinforce": "reinforce"}


@pytest.fixture
def forked_fairseq(monkeypatch):
    """fairseq's commands in forks of this process, which has imported fairseq already."""
    programs = {
        f"fairseq-{name}": importlib.import_module(f"fairseq_cli.{name}")
        for name in ("preprocess", "train", "generate")
    }
    import_user_module(Namespace(user_dir=user_dir()))

    def run_command(argv, log, stage, on_line=None, append=False, *_):
        log.parent.mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
                file = os.open(log, flags)
                os.dup2(file, 1)
                os.dup2(file, 2)
                sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
                form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
                logging.basicConfig(
                    stream=sys.stdout, level="INFO", force=True,
                    format=form, datefmt="%Y-%m-%d %H:%M:%S",
                )  # fmt: skip
                sys.argv = argv
                programs[Path(argv[0]).name].cli_main()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, "\n".join(read_lines(log)[-30:])

    monkeypatch.setattr("recipes.running.run.run_command", run_command)
    monkeypatch.setattr("recipes.fairseq_commands.commands.has_gpu", lambda: False)


def parameters(checkpoint):
    return load_checkpoint(checkpoint)["model"]


def test_a_constant_reward_moves_nothing_and_has_its_row(
    forked_fairseq, recipe_file, data_dir, tmp_path
):
    arms = {name: f"{REWARD} {flags}" for name, flags in REWARDED.items()}
    path = recipe_file(
        architecture=ARCHITECTURE,
        cross_entropy={"flags": f"{COMMON} --criterion cross_entropy --lr 0.02 --max-update 20"},
        finetune={"flags": f"{COMMON} --lr 0.001 --max-update 2"},
        arms={"cross_entropy": "--criterion cross_entropy", **arms},
        # Drawn, as the most probable outputs of so little training are empty.
        decoding={"beams": [1], "flags": "--max-tokens 4000 --max-len-b 12 --sampling"},
    )
    work = tmp_path / "work"
    run_recipe(Run(load_recipe(path), work, data_dir, lambda line: None, constant_reward=True))

    start = parameters(work / "cross_entropy/checkpoint_last.pt")
    for name in REWARDED:
        same = parameters(work / f"arms/{name}.constant_reward/checkpoint_last.pt")
        assert start.keys() == same.keys()
        assert all(torch.equal(start[key], same[key]) for key in start)
        rewarded = parameters(work / f"arms/{name}/checkpoint_last.pt")
        assert not all(torch.equal(start[key], rewarded[key]) for key in start)
        log = (work / f"arms/{name}.constant_reward/train.log").read_text()
        assert set(re.findall(r"gnorm (\S+)", log)) == {"0"}
        assert set(re.findall(r"\| reward (\S+)", log)) == {"1"}

    results = load_results(work / "results.json")
    write_report(work)
    page, text = (work / "results.html").read_text(), (work / "results.md").read_text()
    scores = results["systems"]["start"]["scores"]["test"]["1"]["scores"]["bleu"]
    for name in REWARDED:
        system = results["systems"][f"{name}.constant_reward"]
        assert system["scores"]["test"]["1"]["scores"]["bleu"]["value"] == scores["value"]
        assert f"| `{name}.constant_reward` | every output has the reward 1;" in text
        assert f"{name}.constant_reward" in page
