import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy_corpus
from console_scripts import Started, console
from fairseq_setup import descend, setup
from filelock import FileLock
from training_flags import (
    QUIET,
    RESUMABLE,
    TRANSFORMER,
    adam,
    expected_bleu,
    resumable_graph,
    stochastic_graph,
)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The models here are tiny: threads only cost time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def lone_worker(tmp_path):
    """A process group of one."""
    rendezvous = f"file://{tmp_path / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all of pytest-xdist's workers see, or this process's own without xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "fairseq_plugins"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def corpus(shared) -> Path:
    """The binarised corpus; see ``toy_corpus``."""
    binary = shared / "binary"
    with FileLock(shared / "corpus.lock"):
        if not (shared / "corpus.done").exists():
            text = shared / "text"
            text.mkdir(exist_ok=True)
            toy_corpus.write_corpus(text)
            # fairseq reads the sets as train, valid, valid1, ...; they are renamed to our names.
            held_out = [name for name in toy_corpus.SIZES if name != "train"]
            console(
                "fairseq-preprocess",
                *("--source-lang", toy_corpus.SOURCE, "--target-lang", toy_corpus.TARGET),
                *("--trainpref", text / "train", "--destdir", binary, "--joined-dictionary"),
                *("--validpref", ",".join(str(text / name) for name in held_out)),
            )
            for number, name in reversed(list(enumerate(held_out))):
                prefix = f"valid{number or ''}."
                for file in binary.glob(f"{prefix}*"):
                    file.rename(binary / (f"{name}." + file.name.removeprefix(prefix)))
            (shared / "corpus.done").touch()
    return binary


@pytest.fixture(scope="session")
def learnt(corpus) -> Callable[[str], dict[str, torch.Tensor]]:
    """Weights per architecture that translate a few training sentences, and end them, mostly."""

    @functools.cache
    def weights(arch: str) -> dict[str, torch.Tensor]:
        built = setup(corpus, arch, name="label_smoothed_cross_entropy")
        descend(built, built.batch(*range(14)), steps=40, learning_rate=0.03)
        return {name: value.clone() for name, value in built.model.state_dict().items()}

    return weights


@pytest.fixture(scope="session")
def cross_entropy_checkpoint(corpus, shared) -> Path:
    """What ``fairseq-train --criterion label_smoothed_cross_entropy`` leaves, plugin not loaded."""
    save_dir = shared / "cross_entropy"
    checkpoint = save_dir / "checkpoint_last.pt"
    with FileLock(shared / "cross_entropy.lock"):
        if not checkpoint.exists():
            Started(
                "fairseq-train",
                corpus,
                *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", 0.1),
                *("--save-dir", save_dir, "--max-epoch", 6, "--batch-size", 16),
                *(*TRANSFORMER, *QUIET, *adam(0.02), "--dropout", 0.1),
                *("--no-epoch-checkpoints", "--required-batch-size-multiple", 1),
                log=shared / "cross_entropy.log",
            ).output()
    return checkpoint


@pytest.fixture(scope="session")
def expected_bleu_run(corpus, cross_entropy_checkpoint, shared) -> tuple[Path, str]:
    """Save directory and output of a fine-tuning run; it also stopped half-way in an epoch.

    Sampled prefixes, dropout and two batches per update: all that a resumed run has to get
    right.  It is started by the console script itself.
    """
    save_dir, log = shared / "expected_bleu", shared / "expected_bleu.log"
    with FileLock(shared / "expected_bleu.lock"):
        if not log.exists():
            printed = console(
                "fairseq-train",
                *expected_bleu(corpus, save_dir, *RESUMABLE),
                *("--finetune-from-model", cross_entropy_checkpoint),
            )
            log.write_text(printed, encoding="utf-8")
    return save_dir, log.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def graph_run(corpus, cross_entropy_checkpoint, shared) -> Callable[[str], tuple[Path, str]]:
    """The same of ``--criterion stochastic_graph``, for a key of ``GRAPH_RESUMABLE``."""

    def run(baseline: str) -> tuple[Path, str]:
        save_dir, done = shared / f"graph_{baseline}", shared / f"graph_{baseline}.done"
        with FileLock(shared / f"graph_{baseline}.lock"):
            if not done.exists():
                printed = Started(
                    "fairseq-train",
                    *stochastic_graph(corpus, save_dir, *resumable_graph(baseline)),
                    *("--finetune-from-model", cross_entropy_checkpoint),
                    log=shared / f"graph_{baseline}.log",
                ).output()
                done.write_text(printed, encoding="utf-8")
        return save_dir, done.read_text(encoding="utf-8")

    return run
