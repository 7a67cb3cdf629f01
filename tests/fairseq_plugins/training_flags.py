"""Flags of ``fairseq-train`` that the tests of whole runs share."""

from pathlib import Path

from fairseq_setup import ARCHITECTURES

TRANSFORMER = ARCHITECTURES["transformer"]
# Batches are made by the process itself: a worker for them takes seconds to start.
QUIET = (
    *("--cpu", "--log-format", "simple", "--log-interval", "1", "--seed", "7"),
    *("--num-workers", "0"),
)


def sgd(learning_rate: float) -> tuple[object, ...]:
    """Plain gradient descent: parameters show every gradient as it is."""
    return ("--optimizer", "sgd", "--lr", learning_rate, "--clip-norm", 0)


def adam(learning_rate: float) -> tuple[object, ...]:
    return ("--optimizer", "adam", "--lr", learning_rate)


def expected_bleu(corpus: Path, save_dir: Path, *flags: object) -> tuple[object, ...]:
    """Arguments of a run with the criterion; ``flags`` come last and override."""
    return _run("expected_bleu", corpus, save_dir, *flags)


def stochastic_graph(corpus: Path, save_dir: Path, *flags: object) -> tuple[object, ...]:
    """Arguments of a run with the criterion; ``flags`` come last and override."""
    return _run("stochastic_graph", corpus, save_dir, *flags)


def _run(criterion: str, corpus: Path, save_dir: Path, *flags: object) -> tuple[object, ...]:
    return (
        corpus,
        *("--user-dir", "fairseq_plugins", "--criterion", criterion),
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

GRAPH_RESUMABLE: dict[str, tuple[object, ...]] = {
    "moving_average": (
        *("--objective", "reinforce", "--baseline-decay", 0.9),
        *("--teacher-forcing", "linear:0.9:0:6"),
    ),
    "learned": (
        *("--objective", "mixer"),
        *("--teacher-prefix", "linear:6:0:6"),
    ),
}
"""Objectives whose baseline has a state and whose schedule moves at every update, by baseline."""


def resumable_graph(baseline: str) -> tuple[object, ...]:
    """As ``RESUMABLE``, of ``--criterion stochastic_graph``."""
    return (
        *GRAPH_RESUMABLE[baseline],
        *("--dropout", 0.1, "--update-freq", 2, "--batch-size", 8, *adam(0.01)),
        *("--max-update", 6, "--save-interval-updates", 3, "--required-batch-size-multiple", 1),
        *("--best-checkpoint-metric", "reward_greedy", "--maximize-best-checkpoint-metric"),
    )
