import os
import shlex
from pathlib import Path

import pytest

from recipes.fairseq_commands import commands
from recipes.running.layout import Layout
from recipes.running.run import Run
from recipes.running.trained_arms import START, expand
from recipes.schema.reading import load_recipe
from recipes.steps.training import train_starts

CROSS_ENTROPY = """
fairseq-train runs/multi30k-en-fr/binarized --user-dir fairseq_plugins --task translation
--source-lang en --target-lang fr --update-epoch-batch-itr True
--arch transformer --encoder-layers 3 --decoder-layers 3
--encoder-embed-dim 256 --decoder-embed-dim 256 --encoder-ffn-embed-dim 1024
--decoder-ffn-embed-dim 1024 --encoder-attention-heads 4 --decoder-attention-heads 4
--share-all-embeddings --dropout 0.3 --criterion label_smoothed_cross_entropy
--label-smoothing 0.1 --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0
--weight-decay 0.0001 --lr-scheduler inverse_sqrt --lr 0.001 --warmup-updates 1000
--warmup-init-lr 1e-07 --max-tokens 4096 --max-epoch 12 --seed 1 --keep-last-epochs 4 --cpu
--save-dir runs/multi30k-en-fr/cross_entropy --log-format simple --log-interval 20
--no-progress-bar
"""
ANNEALING = """
fairseq-train runs/multi30k-en-fr/binarized --user-dir fairseq_plugins --task translation
--source-lang en --target-lang fr
--finetune-from-model runs/multi30k-en-fr/cross_entropy/checkpoint_last.pt
--update-epoch-batch-itr True --arch transformer
--encoder-layers 3 --decoder-layers 3 --encoder-embed-dim 256 --decoder-embed-dim 256
--encoder-ffn-embed-dim 1024 --decoder-ffn-embed-dim 1024 --encoder-attention-heads 4
--decoder-attention-heads 4 --share-all-embeddings --criterion label_smoothed_cross_entropy
--label-smoothing 0.1 --dropout 0.3 --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0
--lr-scheduler polynomial_decay --max-tokens 4096 --seed 1 --keep-interval-updates 1
--no-epoch-checkpoints --required-batch-size-multiple 1
--eval-bleu --eval-bleu-args '{"beam": 1}' --eval-bleu-remove-bpe=sentencepiece
--weight-decay 0.0001 --lr 7e-4 --end-learning-rate 1e-4 --max-update 560
--validate-interval-updates 56 --save-interval-updates 56
--best-checkpoint-metric bleu --maximize-best-checkpoint-metric --total-num-update 560
--cpu --save-dir runs/multi30k-en-fr/annealing
--log-format simple --log-interval 20 --no-progress-bar
"""


@pytest.fixture
def layout(monkeypatch):
    monkeypatch.setattr(commands, "has_gpu", lambda: False)
    monkeypatch.setattr(commands, "user_dir", lambda: "fairseq_plugins")
    return Layout(expand(load_recipe("multi30k-en-fr")), Path("runs/multi30k-en-fr"), Path("data"))


def test_multi30k_stages_before_the_arms(layout, tmp_path):
    for split in layout.recipe.data.splits:
        for lang in layout.recipe.languages:
            (tmp_path / f"{split}.{lang}").touch()
    run = Run(
        load_recipe("multi30k-en-fr"), layout.work_dir, tmp_path, lambda line: None, dry_run=True
    )
    train_starts(run)
    expected = [("cross_entropy stage", CROSS_ENTROPY), ("annealing stage", ANNEALING)]
    assert [(name, shlex.split(line)) for name, line in run.commands] == [
        (name, shlex.split(line)) for name, line in expected
    ]


def test_arms_start_from_the_last_stage(recipe_file):
    def start(**changes):
        return Layout(expand(load_recipe(recipe_file(**changes))), Path("w"), Path("d")).checkpoint(
            START
        )

    flags = {"flags": "--max-update 2"}
    assert start() == Path("w/cross_entropy/checkpoint_last.pt")
    assert start(annealing=None) == Path("w/cross_entropy/checkpoint_last.pt")
    assert start(annealing=flags) == Path("w/annealing/checkpoint_last.pt")
    assert start(annealing={**flags, "average": 3}) == Path("w/annealing/average_3.pt")
    best = {"flags": "--max-update 2 --eval-bleu", "checkpoint": "best"}
    assert start(annealing=best) == Path("w/annealing/checkpoint_best.pt")


def test_what_flags_imply_is_added(recipe_file):
    def added(flags, checkpoint):
        finetune = {"flags": f"--eval-bleu {flags}", "checkpoint": checkpoint}
        found = load_recipe(recipe_file(finetune=finetune)).arm_flags("other")
        return found[len(shlex.split(flags)) + 3 :]  # --eval-bleu, --criterion b

    best = ["--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"]
    assert added("--max-update 9", "best") == best
    assert added("--max-update 9", "checkpoint_last.pt") == []
    assert added("--max-update 9 --best-checkpoint-metric loss", "best") == []
    falling = "--lr-scheduler polynomial_decay --max-update 9"
    assert added(falling, "checkpoint_last.pt") == ["--total-num-update", "9"]
    assert added(f"{falling} --total-num-update 12", "checkpoint_last.pt") == []


def test_multi30k_preprocess_is_the_published_command(layout):
    command = commands.preprocess_command(layout.recipe, layout.segmented, layout.binarized)
    expected = (
        "fairseq-preprocess -s en -t fr --user-dir fairseq_plugins "
        "--trainpref runs/multi30k-en-fr/segmented/train "
        "--validpref runs/multi30k-en-fr/segmented/valid "
        "--testpref runs/multi30k-en-fr/segmented/test_2016_flickr,"
        "runs/multi30k-en-fr/segmented/test_2017_flickr "
        "--joined-dictionary --destdir runs/multi30k-en-fr/binarized --workers 2"
    )
    assert command.portable() == expected


def test_printed_line_can_be_pasted(layout):
    command = commands.Command("fairseq-train", (Path("a b"), "--adam-betas", "(0.9, 0.98)"))
    assert shlex.split(str(command))[1:] == ["a b", "--adam-betas", "(0.9, 0.98)"]
    assert os.access(command.argv()[0], os.X_OK)


def test_gpu_replaces_cpu_and_takes_fp16(layout, monkeypatch):
    def flags(fp16):
        arguments = (Path("c.pt"), Path("bin"), ("de", "en"), "test", 5, 1.0, [], fp16)
        return commands.generate_command(*arguments).arguments

    assert "--cpu" in flags(True)
    assert "--fp16" not in flags(True)
    monkeypatch.setattr(commands, "has_gpu", lambda: True)
    assert "--cpu" not in flags(True)
    assert "--fp16" in flags(True)
    assert "--fp16" not in flags(False)


def test_fingerprint_knows_neither_folder_nor_machine(layout, monkeypatch):
    def fingerprint(work):
        recipe = layout.recipe
        command = commands.train_command(recipe, work / "binarized", work / "arms/x", ["--lr", "1"])
        return command.fingerprint(work)

    there = fingerprint(Path("runs/there"))
    monkeypatch.setattr(commands, "has_gpu", lambda: True)
    monkeypatch.setattr(commands, "user_dir", lambda: "/somewhere/fairseq_plugins")
    assert fingerprint(Path("/elsewhere")) == there
    assert "--lr" in there


def test_subsets_have_fairseq_names(layout):
    splits = ["train", "valid", "test_2016_flickr", "test_2017_flickr"]
    assert [layout.subset(split) for split in splits] == ["train", "valid", "test", "test1"]
