"""A whole recipe through the real fairseq, in miniature.

One arm has a reward and its control, whose reward is always 1. A cost is 1 - reward, so that it
costs nothing, whatever is drawn: with a baseline that is such a cost, the gradient of the reward's
part is exactly zero, not only in expectation.
"""

import json
import re
from importlib.util import find_spec

import pytest
import torch
import yaml

from recipes.__main__ import main
from recipes.fairseq_commands import commands
from recipes.fairseq_commands.checkpoints import load_checkpoint
from recipes.fairseq_commands.training_log import read_training_log
from recipes.reporting.report import load_results
from recipes.text import read_lines

ARCHITECTURE = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --share-all-embeddings "
    "--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2"
)
COMMON = (
    "--optimizer adam --max-tokens 600 --seed 1 --no-epoch-checkpoints "
    "--required-batch-size-multiple 1"
)
CROSS_ENTROPY = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1"
REWARD = (
    "--criterion stochastic_graph --objective reinforce --cross-entropy-weight 0 "
    "--max-decode-length 12"
)
LOGS_TO_TENSORBOARD = find_spec("tensorboardX") or find_spec("tensorboard")


@pytest.fixture
def forked_fairseq(forked_programs, monkeypatch):
    """fairseq's commands in forks of a process that has imported fairseq already."""
    monkeypatch.setattr(commands, "console_script", lambda name: str(forked_programs / name))
    monkeypatch.setattr(commands, "has_gpu", lambda: False)


def test_recipe_from_text_to_report(forked_fairseq, recipe_file, tmp_path, data_dir, capsys):
    tensorboard = f"--tensorboard-logdir {tmp_path / 'tb'}" if LOGS_TO_TENSORBOARD else ""
    path = recipe_file(
        architecture=ARCHITECTURE,
        cross_entropy={"flags": f"{COMMON} {CROSS_ENTROPY} --lr 0.02 --max-update 60"},
        annealing={
            "flags": f"{COMMON} {CROSS_ENTROPY} --lr 0.01 --lr-scheduler polynomial_decay "
            "--end-learning-rate 0.001 --max-update 20"
        },
        finetune={
            "flags": f"{COMMON} --lr 0.001 --max-update 6 --eval-bleu {tensorboard} "
            """--eval-bleu-args '{"beam": 1, "max_len_b": 20}' """
            "--eval-bleu-remove-bpe sentencepiece --validate-interval-updates 3 "
            "--save-interval-updates 3 --keep-interval-updates 1",
            "checkpoint": "best",
        },
        arms={
            "cross_entropy": CROSS_ENTROPY,
            "expected_bleu": "--criterion expected_bleu --overlap paper --smoothing add-k-all "
            "--hypothesis-length fixed --cross-entropy-weight 0.1 --label-smoothing 0.1",
            "reinforce": REWARD,
        },
        decoding={"beams": [1], "flags": "--max-tokens 2000 --max-len-b 30"},
        log_interval=1,
    )
    work = tmp_path / "work"
    options = ["--data-dir", str(data_dir), "--work-dir", str(work)]
    assert main(["run", path, *options, "--control", "constant-reward"]) == 0
    assert "everything lies in" in capsys.readouterr().out
    results = load_results(work / "results.json")
    start, *trained = results["systems"].values()
    assert [system["updates"] for system in trained] == [6, 6, 6, 6]
    assert [stage["updates"] for stage in start["stages"]] == [60, 20]
    # A fresh optimiser: the rate begins anew, not where the first stage ended, and falls.
    log = read_training_log(work / "annealing/train.log")
    rates = [values["lr"] for _, values in sorted(log.epochs.items())]
    assert rates == sorted(rates, reverse=True)
    assert 0.001 == rates[-1] < rates[0]
    for arm in ("cross_entropy", "expected_bleu"):
        updates, bleu = results["curves"][arm]["bleu"]
        assert updates == [3, 6]
        # The checkpoint with the best BLEU on valid is decoded, of equal ones the later.
        best = max(zip(bleu, updates, strict=True))
        assert results["systems"][arm]["checkpoint_update"] == best[1]
    assert results["curves"]["expected_bleu"]["expected_bleu"][0] == [3, 6]
    # Every sentence of the split is there, in order, in words.
    output = work / "decoded/start/test.beam1.lenpen1.en"
    assert len(read_lines(output)) == 24
    assert not any("▁" in line for line in read_lines(output))
    assert "<svg" in (work / "gains.svg").read_text(encoding="utf-8")
    _check_constant_reward(work, results)
    if LOGS_TO_TENSORBOARD:
        _check_tensorboard(tmp_path / "tb")
    _check_evaluation_of_a_checkpoint(work, results, data_dir, tmp_path, capsys)


def _check_constant_reward(work, results):
    """A constant reward moves nothing, the reward does; and each has its row."""

    def parameters(folder):
        return load_checkpoint(work / folder / "checkpoint_last.pt")["model"]

    start, rewarded = parameters("annealing"), parameters("arms/reinforce")
    same = parameters("arms/reinforce.constant_reward")
    assert start.keys() == same.keys()
    assert all(torch.equal(start[key], same[key]) for key in start)
    assert not all(torch.equal(start[key], rewarded[key]) for key in start)
    log = (work / "arms/reinforce.constant_reward/train.log").read_text()
    assert set(re.findall(r"gnorm[ =](\S+?)[, ]", log)) == {"0"}
    assert set(re.findall(r"\| reward (\S+)", log)) == {"1"}
    ours, theirs = (
        results["systems"][name]["scores"]["test"]["1"]["scores"]["bleu"]["value"]
        for name in ("reinforce.constant_reward", "start")
    )
    assert ours == theirs
    row = "| `reinforce.constant_reward` | every output has the reward 1;"
    assert row in (work / "results.md").read_text()
    assert "reinforce.constant_reward" in (work / "results.html").read_text()


def _check_tensorboard(folder):
    """Each arm has a folder of its own."""
    assert len(list(folder.glob("arms/*"))) == 4
    groups = {path.name: list(path.iterdir()) for path in (folder / "arms/cross_entropy").iterdir()}
    assert set(groups) == {"train_inner", "train", "valid"}
    written = b"".join(path.read_bytes() for files in groups.values() for path in files)
    for metric in (b"loss", b"ppl", b"gnorm"):
        assert metric in written


def _check_evaluation_of_a_checkpoint(work, results, data_dir, tmp_path, capsys):
    """Any checkpoint can be scored alone; the figures agree with the recipe's."""
    scores = tmp_path / "scores.json"
    arguments = (
        *("evaluate", "--checkpoint", work / "annealing/checkpoint_last.pt", "--beam", 1),
        *("--data", work / "binarized", "--split", "test", "--reference", data_dir / "test.en"),
        *("--sentencepiece", work / "sentencepiece.model", "--metrics", "bleu"),
        *("--output-dir", tmp_path / "decoded", "--json", scores, "--", "--max-len-b", 30),
    )
    assert main(list(map(str, arguments))) == 0
    shown = capsys.readouterr().out
    assert re.search(r"scored: detokenised text .* against .*test.en", shown)
    (system,) = json.loads(scores.read_text())["systems"].values()
    start = results["systems"]["start"]["scores"]["test"]["1"]
    bleu = start["scores"]["bleu"]["value"]
    assert system["scores"]["bleu"]["value"] == pytest.approx(bleu, abs=1e-9)
    assert 0 < system["average_probability"] < 1
    # fairseq prints four decimals, and batches by other lengths round otherwise.
    assert system["average_probability"] == pytest.approx(start["average_probability"], abs=1e-3)


def test_list_and_show(capsys):
    assert main(["list"]) == 0
    assert re.search(r"^demo +\S", capsys.readouterr().out, re.MULTILINE)
    assert main(["show", "demo"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["source_lang"] == "de"
    assert main(["show", "dmo"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no recipe 'dmo'")
