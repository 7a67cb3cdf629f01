import argparse
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from recipes.errors import RecipeError
from recipes.fairseq_commands.checkpoints import (
    BrokenCheckpointError,
    average_checkpoints,
    checkpoint_updates,
    last_checkpoints,
    load_checkpoint,
    mend_last_checkpoint,
)


def save(path, value, updates=1):
    model = {"w": torch.full((2, 3), value), "version": torch.tensor([3])}
    torch.save({"model": model, "optimizer_history": [{"num_updates": updates}]}, path)


def test_average_is_the_mean_and_keeps_integers(tmp_path):
    for epoch, value in ((1, 1.0), (2, 2.0), (10, 6.0)):
        save(tmp_path / f"checkpoint{epoch}.pt", value, updates=epoch)
    paths = last_checkpoints(tmp_path, 2)
    assert [path.name for path in paths] == ["checkpoint2.pt", "checkpoint10.pt"]
    average_checkpoints(paths, tmp_path / "average_2.pt")
    result = load_checkpoint(tmp_path / "average_2.pt")
    assert torch.equal(result["model"]["w"], torch.full((2, 3), 4.0))
    assert torch.equal(result["model"]["version"], torch.tensor([3]))
    assert checkpoint_updates(tmp_path / "average_2.pt") == 10


def test_loading_leaves_the_log_as_it_is(tmp_path):
    """In a process that has not imported fairseq, which would make all libraries log."""
    save(tmp_path / "checkpoint1.pt", 1.0)
    code = (
        "import logging, pathlib, sys\n"
        "from recipes.fairseq_commands.checkpoints import load_checkpoint\n"
        "before = logging.root.level, logging.root.handlers[:]\n"
        "load_checkpoint(pathlib.Path(sys.argv[1]))\n"
        "assert 'fairseq' in sys.modules\n"
        "assert (logging.root.level, logging.root.handlers) == before\n"
    )
    arguments = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "checkpoint1.pt")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "DEBUG" not in done.stderr


def test_average_of_equal_parameters_is_that_parameter(tmp_path):
    for epoch in range(1, 4):
        save(tmp_path / f"checkpoint{epoch}.pt", 0.1)
    average_checkpoints(last_checkpoints(tmp_path, 3), tmp_path / "a.pt")
    assert torch.equal(load_checkpoint(tmp_path / "a.pt")["model"]["w"], torch.full((2, 3), 0.1))


def test_update_checkpoints_are_taken_without_epoch_ones(tmp_path):
    for name in ("checkpoint_1_50.pt", "checkpoint_1_100.pt", "checkpoint_2_150.pt"):
        save(tmp_path / name, 1.0)
    names = [path.name for path in last_checkpoints(tmp_path, 2)]
    assert names == ["checkpoint_1_100.pt", "checkpoint_2_150.pt"]
    with pytest.raises(RecipeError, match="fewer than 4 checkpoints"):
        last_checkpoints(tmp_path, 4)


class Program:
    """Runs a command when it is unpickled in full."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def average(folder):
    average_checkpoints([folder / "checkpoint_last.pt"], folder / "average_1.pt")


def mend(folder):
    mend_last_checkpoint(folder, pytest.fail)


@pytest.mark.parametrize("use", [average, mend])
def test_what_is_stored_in_a_checkpoint_does_not_run(tmp_path, use):
    save(tmp_path / "checkpoint1.pt", 1.0)
    state = torch.load(tmp_path / "checkpoint1.pt", weights_only=True)
    last = tmp_path / "checkpoint_last.pt"
    torch.save({**state, "extra_state": Program(tmp_path / "ran")}, last)
    before = last.read_bytes()
    with pytest.raises(RecipeError, match=r"checkpoint_last.pt was not loaded: .*mkdir"):
        use(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert last.read_bytes() == before


def test_checkpoints_of_fairseq_hold_what_is_allowed(tmp_path):
    extra = {"args": argparse.Namespace(lr=[1.0]), "extra_state": {"loss": np.float64(2.0)}}
    torch.save({"model": {}, "optimizer_history": [{"num_updates": 3}], **extra}, tmp_path / "c.pt")
    assert checkpoint_updates(tmp_path / "c.pt") == 3


@pytest.mark.parametrize("size", [0, 1, 100, -10])
def test_a_checkpoint_that_was_cut_off_is_named(tmp_path, size):
    last = tmp_path / "checkpoint_last.pt"
    save(last, 1.0)
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(BrokenCheckpointError, match=r"last.pt is cut off, or no checkpoint$"):
        checkpoint_updates(last)
