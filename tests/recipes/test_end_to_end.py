"""A whole recipe through the real fairseq, in miniature."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_recipes import small_recipe

from recipes.__main__ import main
from recipes.fairseq_commands.training_log import read_training_log
from recipes.reporting.report import load_results
from recipes.text import read_lines

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --share-all-embeddings "
    "--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2"
)
COMMON = "--optimizer adam --max-tokens 600 --seed 1 --required-batch-size-multiple 1"


def recipes(*arguments, check=True):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "recipes", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=check,
    )  # fmt: skip


def test_recipe_from_text_to_report(tmp_path, data_dir):
    path = tmp_path / "mini.yaml"
    recipe = small_recipe(
        architecture=ARCHITECTURE,
        cross_entropy={
            "flags": f"{COMMON} --criterion label_smoothed_cross_entropy --label-smoothing 0.1 "
            "--lr 0.02 --max-update 60 --no-epoch-checkpoints",
        },
        annealing={
            "flags": f"{COMMON} --criterion label_smoothed_cross_entropy --label-smoothing 0.1 "
            "--lr 0.01 --lr-scheduler polynomial_decay "
            "--end-learning-rate 0.001 --max-update 20 --no-epoch-checkpoints",
        },
        finetune={
            "flags": f"{COMMON} --lr 0.001 --max-update 6 --no-epoch-checkpoints --eval-bleu "
            """--eval-bleu-args '{"beam": 1, "max_len_b": 20}' """
            "--eval-bleu-remove-bpe sentencepiece --validate-interval-updates 3 "
            "--save-interval-updates 3 --keep-interval-updates 1",
            "checkpoint": "best",
        },
        arms={
            "cross_entropy": "--criterion label_smoothed_cross_entropy --label-smoothing 0.1",
            "expected_bleu": "--criterion expected_bleu --overlap paper --smoothing add-k-all "
            "--hypothesis-length fixed --cross-entropy-weight 0.1 --label-smoothing 0.1",
        },
        decoding={"beams": [1], "flags": "--max-tokens 2000 --max-len-b 30"},
    )
    path.write_text(yaml.safe_dump(recipe))
    work = tmp_path / "work"
    done = recipes("run", path, "--data-dir", data_dir, "--work-dir", work, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = load_results(work / "results.json")
    start, *trained = results["systems"].values()
    assert [system["updates"] for system in trained] == [6, 6]
    assert [stage["updates"] for stage in start["stages"]] == [60, 20]
    # A fresh optimiser: the rate begins anew, not where the first stage ended, and falls.
    rates = [
        values["lr"]
        for _, values in sorted(read_training_log(work / "annealing/train.log").epochs.items())
    ]
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
    assert "everything lies in" in done.stdout

    # Any checkpoint can be scored alone; the figures agree with the recipe's.
    scores = tmp_path / "scores.json"
    shown = recipes(
        *("evaluate", "--checkpoint", work / "annealing/checkpoint_last.pt", "--beam", 1),
        *("--data", work / "binarized", "--split", "test", "--reference", data_dir / "test.en"),
        *("--sentencepiece", work / "sentencepiece.model", "--metrics", "bleu"),
        *("--output-dir", tmp_path / "decoded", "--json", scores, "--", "--max-len-b", 30),
    ).stdout
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
