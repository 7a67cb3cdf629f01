"""fairseq's commands with non-autoregressive models and ``--user-dir fairseq_plugins``."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from console_scripts import Started
from non_autoregressive_models import FAMILIES, model_flags
from toy_corpus import SIZES
from training_flags import QUIET, TRANSFORMER, adam, sgd
from two_workers import two_workers

NAT = "nonautoregressive_transformer"
WARM = "warm_started_nonautoregressive_transformer"
WITHOUT_CHANCE = Path(__file__).parent / "every_second_word_deleted"
# As the models of the literature have them.
SIZES_OF_NAT = (
    "--src-embedding-copy",
    "--left-pad-source",
    "--pred-length-offset",
    "--share-all-embeddings",
)
BEST = ("--best-checkpoint-metric", "expected_bleu", "--maximize-best-checkpoint-metric")
SHORT = ("--required-batch-size-multiple", 1, "--no-epoch-checkpoints")
METRICS = ["loss", "nll_loss", "ppl", "expected_bleu", "length_ratio", "precision_1", "precision_4"]
DECODING = {
    NAT: ("--iter-decode-max-iter", 0, "--iter-decode-with-beam", 2),
    WARM: ("--iter-decode-max-iter", 0),
    "cmlm_transformer": ("--iter-decode-max-iter", 2),
    "iterative_nonautoregressive_transformer": ("--iter-decode-max-iter", 3),
    "levenshtein_transformer": ("--iter-decode-max-iter", 3),
}
HEADS = {
    "levenshtein_transformer": ["mask_ins_loss", "word_del_loss"],
}
"""Where it is not ``length_loss`` alone."""


def arguments(corpus, arch, save_dir, *flags, criterion="expected_bleu"):
    return (
        corpus,
        *("--user-dir", "fairseq_plugins", "--criterion", criterion, "--save-dir", save_dir),
        *(*TRANSFORMER, *model_flags(arch), *QUIET, *SHORT, *flags),
    )


def train(corpus, arch, save_dir, *flags, **options):
    log = save_dir.with_suffix(".log")
    return Started(
        "fairseq-train", *arguments(corpus, arch, save_dir, *flags, **options), log=log
    ).output()


def generate(corpus, checkpoint, log, *flags):
    return Started(
        "fairseq-generate",
        corpus,
        *("--task", "translation_lev", "--path", checkpoint, "--user-dir", "fairseq_plugins"),
        *("--cpu", "--num-workers", 0, "--gen-subset", "test"),
        *("--required-batch-size-multiple", 1, *flags),
        log=log,
    ).output()


def load(checkpoint):
    """A checkpoint; ``weights_only`` stays on."""
    return torch.load(checkpoint, weights_only=True)


@pytest.mark.parametrize("arch", [*FAMILIES, WARM])
def test_a_model_trains_and_generates(corpus, arch, tmp_path):
    save_dir = tmp_path / "run"
    printed = train(corpus, arch, save_dir, *adam(0.01), "--max-update", 2, "--batch-size", 16)
    lines = [
        line
        for line in printed.splitlines()
        if "| train_inner |" in line or "valid on 'valid' subset" in line
    ]
    assert len(lines) == 3
    for line in lines:
        for name in (*METRICS, *HEADS.get(arch, ["length_loss"])):
            assert re.search(rf"\b{name}[= ]", line), f"no {name} in: {line}"
        assert not re.search(r"\b_\w+_loss|_count|expected_(matches|totals)", line)
    printed = generate(
        corpus,
        save_dir / "checkpoint_best.pt",
        tmp_path / "generate.log",
        *DECODING[arch],
    )
    assert len(re.findall(r"^H-\d+", printed, re.MULTILINE)) == SIZES["test"]
    assert "BLEU4 =" in printed


def test_nat_loss_then_expected_bleu_then_a_resumed_run(corpus, tmp_path):
    """The first with fairseq alone; dropout and two batches an update are all that is random."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    flags = (*SIZES_OF_NAT, "--dropout", 0.1, "--batch-size", 8, "--label-smoothing", 0.1)
    train(corpus, NAT, first, *flags, *adam(0.01), "--max-update", 20, criterion="nat_loss")
    flags = (*flags, *adam(0.002), *BEST, "--update-freq", 2, "--max-update", 6)
    flags = (*flags, "--save-interval-updates", 3)
    printed = train(
        corpus, NAT, second, *flags, "--finetune-from-model", first / "checkpoint_last.pt"
    )
    assert "loading pretrained model" in printed
    scores = [
        float(score)
        for score in re.findall(r"valid on 'valid' subset.*?\| expected_bleu ([\d.]+)", printed)
    ]
    assert len(set(scores)) > 1
    best = load(second / "checkpoint_best.pt")["extra_state"]["best"]
    assert best == pytest.approx(max(scores), abs=0.0051)
    third.mkdir()
    shutil.copy(second / "checkpoint_1_3.pt", third / "checkpoint_last.pt")
    assert "Loaded checkpoint" in train(corpus, NAT, third, *flags)
    ours, theirs = (load(folder / "checkpoint_last.pt") for folder in (third, second))
    assert ours["optimizer_history"][-1]["num_updates"] == 6
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arch", "flags"),
    [
        (NAT, ("--noise", "full_mask")),
        (NAT, ("--noise", "full_mask", "--feed", "greedy")),
        ("levenshtein_transformer", ("--user-dir", WITHOUT_CHANCE)),
    ],
    ids=["length of the reference", "own length", "levenshtein"],
)
def test_two_workers_end_where_one_ends(corpus, arch, flags, tmp_path):
    """Sentences of different lengths: a mean of the workers' means would be another."""
    flags = (*flags, "--train-subset", "even", "--max-epoch", 3, "--disable-validation")
    flags = (*flags, "--dropout", 0, *sgd(0.5))
    one = tmp_path / "one"
    train(corpus, arch, one, *flags, "--batch-size", 16)
    two = two_workers(
        arguments(corpus, arch, tmp_path / "two", *flags, "--batch-size", 8), tmp_path
    )["model"]
    expected = load(one / "checkpoint_last.pt")["model"]
    torch.testing.assert_close(two, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_on_the_cpu(corpus, tmp_path):
    printed = train(
        corpus,
        NAT,
        tmp_path / "run",
        *(*adam(0.001), "--fp16", "--fp16-no-flatten-grads", "--max-update", 2),
        *("--batch-size", 16, "--disable-validation"),
    )
    losses = re.findall(r"\| train_inner \|.*? loss=([\d.]+|nan|inf)", printed)
    assert len(losses) == 2
    assert all(0 < float(loss) < 3 for loss in losses)
