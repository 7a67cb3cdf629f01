import pytest
import torch

from recipes.errors import RecipeError
from recipes.fairseq_commands.checkpoints import (
    average_checkpoints,
    checkpoint_updates,
    last_checkpoints,
    load_checkpoint,
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
