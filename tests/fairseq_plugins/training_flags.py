"""Flags of ``fairseq-train`` that the tests of whole runs share."""

from pathlib import Path

from fairseq_setup import ARCHITECTURES

TRANSFORMER = ARCHITECTURES["transformer"]
QUIET = ("--cpu", "--log-format", "simple", "--log-interval", "1", "--seed", "7")


def sgd(learning_rate: float) -> tuple[object, ...]:
    """Plain gradient descent: parameters show every gradient as it is."""
    return ("--optimizer", "sgd", "--lr", learning_rate, "--clip-norm", 0)


def adam(learning_rate: float) -> tuple[object, ...]:
    return ("--optimizer", "adam", "--lr", learning_rate)


def expected_bleu(corpus: Path, save_dir: Path, *flags: object) -> tuple[object, ...]:
    """Arguments of a run with the criterion; ``flags`` come last and override."""
    return (
        corpus,
        *("--user-dir", "fairseq_plugins", "--criterion", "expected_bleu"),
        *("--save-dir", save_dir),
        *TRANSFORMER,
        *QUIET,
        *flags,
    )


RESUMABLE: tuple[object, ...] = (
    *("--feed", "sample", "--dropout", 0.1, "--update-freq", 2, "--batch-size", 8),
    *adam(0.001),
    *("--max-update", 6, "--save-interval-updates", 3, "--required-batch-size-multiple", 1),
    *("--best-checkpoint-metric", "expected_bleu", "--maximize-best-checkpoint-metric"),
)
"""Checkpoints after updates 3 and 6; an epoch of 60 sentences has 4 updates."""
