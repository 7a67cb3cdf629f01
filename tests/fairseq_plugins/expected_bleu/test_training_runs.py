"""fairseq's commands with ``--user-dir fairseq_plugins``."""

import re
import shutil

import pytest
import torch
from console_scripts import REPOSITORY, Started, console
from fairseq_setup import epoch_batches, setup
from omegaconf import OmegaConf
from toy_corpus import SIZES
from training_flags import RESUMABLE, adam, expected_bleu, sgd

METRICS = ["loss", "nll_loss", "ppl", "expected_bleu", "length_ratio", "precision_1", "precision_4"]


def load(checkpoint):
    """A checkpoint; ``weights_only`` stays on."""
    return torch.load(checkpoint, weights_only=True)


def train(corpus, save_dir, *flags):
    log = save_dir.with_suffix(".log")
    return Started("fairseq-train", *expected_bleu(corpus, save_dir, *flags), log=log).output()


def test_every_log_line_has_the_metrics(expected_bleu_run):
    _, printed = expected_bleu_run
    training = [line for line in printed.splitlines() if "| train_inner |" in line]
    validation = [line for line in printed.splitlines() if "valid on 'valid' subset" in line]
    assert len(training) == 6
    assert validation
    for line in (*training, *validation):
        for name in METRICS:
            assert re.search(rf"\b{name}[= ]", line), f"no {name} in: {line}"
        assert not re.search(r"\b_expected|expected_(matches|totals)", line), "sums are in the way"


def test_the_best_checkpoint_is_that_of_the_highest_expected_bleu(expected_bleu_run):
    save_dir, printed = expected_bleu_run
    scores = [
        float(score)
        for score in re.findall(r"valid on 'valid' subset.*?\| expected_bleu ([\d.]+)", printed)
    ]
    assert len(set(scores)) > 1
    best = load(save_dir / "checkpoint_best.pt")["extra_state"]["best"]
    assert best == pytest.approx(max(scores), abs=0.0051)


def test_a_resumed_run_ends_like_the_unbroken_one(corpus, expected_bleu_run, tmp_path):
    save_dir, _ = expected_bleu_run
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(save_dir / "checkpoint_1_3.pt", resumed / "checkpoint_last.pt")
    printed = train(corpus, resumed, *RESUMABLE)
    assert "Loaded checkpoint" in printed
    ours, theirs = (load(folder / "checkpoint_last.pt") for folder in (resumed, save_dir))
    assert ours["optimizer_history"][-1]["num_updates"] == 6
    stopped = load(save_dir / "checkpoint_1_3.pt")
    assert stopped["optimizer_history"][-1]["num_updates"] == 3
    assert ours["model"].keys() == theirs["model"].keys()
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=0, atol=0)


def test_fine_tuning_starts_at_the_cross_entropy_checkpoint(
    corpus, cross_entropy_checkpoint, tmp_path
):
    """One update over two micro-batches: the weighted mean of their gradients."""
    before = load(cross_entropy_checkpoint)["model"]
    built = setup(corpus, weights=before)
    sample_sizes = 0
    for sample in epoch_batches(built, "even", sentences=8):
        loss, sample_size, _ = built.criterion(built.model, sample)
        loss.backward()
        sample_sizes += sample_size
    rate = 0.5
    expected = {
        name: before[name] - rate * parameter.grad / sample_sizes
        for name, parameter in built.model.named_parameters()
    }
    printed = train(
        corpus,
        tmp_path / "run",
        *("--finetune-from-model", cross_entropy_checkpoint, *sgd(rate)),
        *("--train-subset", "even", "--max-update", 1, "--disable-validation"),
        *("--dropout", 0, "--batch-size", 8, "--update-freq", 2),
    )
    assert "loading pretrained model" in printed
    after = load(tmp_path / "run" / "checkpoint_last.pt")["model"]
    after = {name: after[name] for name in expected}
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_on_the_cpu(corpus, cross_entropy_checkpoint, tmp_path):
    """``--bf16`` is in the test of hydra: fairseq takes the flag to mean a TPU."""
    printed = train(
        corpus,
        tmp_path / "run",
        *("--finetune-from-model", cross_entropy_checkpoint, *adam(0.001)),
        *("--fp16", "--fp16-no-flatten-grads"),  # flat gradients need a CUDA device
        *("--feed", "greedy", "--batch-size", 16, "--max-update", 2, "--no-epoch-checkpoints"),
    )
    losses = re.findall(r"\| train_inner \|.*? loss=([\d.]+|nan|inf)", printed)
    assert len(losses) == 2
    assert all(0 < float(loss) < 2 for loss in losses)


def test_generate_reads_the_checkpoint(corpus, expected_bleu_run, tmp_path):
    save_dir, _ = expected_bleu_run
    printed = Started(
        "fairseq-generate",
        corpus,
        *("--path", save_dir / "checkpoint_best.pt", "--user-dir", "fairseq_plugins", "--cpu"),
        # With its default of 8 fairseq leaves the last sentences out.
        *("--gen-subset", "test", "--beam", 2, "--required-batch-size-multiple", 1),
        *("--num-workers", 0),
        log=tmp_path / "generate.log",
    ).output()
    assert len(re.findall(r"^H-\d+", printed, re.MULTILINE)) == SIZES["test"]
    assert "BLEU4 =" in printed


def test_interactive_reads_the_checkpoint(corpus, expected_bleu_run):
    save_dir, _ = expected_bleu_run
    printed = console(
        "fairseq-interactive",
        corpus,
        *("--path", save_dir / "checkpoint_last.pt", "--user-dir", "fairseq_plugins", "--cpu"),
        *("--source-lang", "de", "--target-lang", "en", "--beam", 1),
        stdin="der hund und zebra\nein haus\n",
    )
    assert len(re.findall(r"^H-\d+\t-?[\d.]+\t\S", printed, re.MULTILINE)) == 2


def test_hydra_train_takes_the_criterion_from_a_config_file(corpus, tmp_path):
    config = {
        "common": {"user_dir": str(REPOSITORY / "fairseq_plugins"), "cpu": True, "bf16": True},
        "task": {"_name": "translation", "data": str(corpus)},
        "model": {"_name": "transformer", "encoder_layers": 1, "decoder_layers": 1}
        | {f"{part}_embed_dim": 16 for part in ("encoder", "decoder")}
        | {f"{part}_ffn_embed_dim": 16 for part in ("encoder", "decoder")}
        | {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
        "criterion": {"_name": "expected_bleu", "feed": "greedy", "cross_entropy_weight": 0.25},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 1, "lr": [0.001], "sentence_avg": True},
        "dataset": {"batch_size": 16, "disable_validation": True, "num_workers": 0},
        "checkpoint": {"save_dir": str(tmp_path / "run")},
    }
    text = "# @package _group_\n" + OmegaConf.to_yaml(OmegaConf.create(config))
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    console(
        "fairseq-hydra-train",
        *("--config-dir", tmp_path, "--config-name", "tiny"),
        f"hydra.run.dir={tmp_path / 'hydra'}",
    )
    checkpoint = load(tmp_path / "run" / "checkpoint_last.pt")
    criterion = checkpoint["cfg"]["criterion"]
    assert criterion["_name"] == "expected_bleu"
    assert (criterion["feed"], criterion["overlap"]) == ("greedy", "exact")
    assert criterion["cross_entropy_weight"] == 0.25
    assert criterion["sentence_avg"] is True
    assert checkpoint["optimizer_history"][-1]["num_updates"] == 1
    for weight in checkpoint["model"].values():  # written as float32, trained in 16 bits
        assert torch.equal(weight, weight.bfloat16().to(weight.dtype))
