"""What of a checkpoint ``torch.load(weights_only=True)`` may build."""

import argparse
import pickle
from contextlib import contextmanager

import numpy
import pytest
import torch
from console_scripts import Started
from fairseq import checkpoint_utils

from fairseq_plugins.checkpoint_safety import allow_fairseq_checkpoints, checkpoint_types


@contextmanager
def only_allowing(types):
    """Replace the list of allowed types for a while."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals(types)
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_fairseqs_checkpoints_load_with_the_list_and_not_without(
    cross_entropy_checkpoint, expected_bleu_run
):
    for checkpoint in (cross_entropy_checkpoint, expected_bleu_run[0] / "checkpoint_best.pt"):
        with only_allowing([]), pytest.raises(pickle.UnpicklingError, match="weights_only"):
            torch.load(checkpoint, weights_only=True)
        with only_allowing(checkpoint_types()):
            assert "model" in torch.load(checkpoint, weights_only=True)


def test_a_class_that_a_checkpoint_asks_for_is_needed(cross_entropy_checkpoint):
    rest = [kind for kind in checkpoint_types() if kind is not argparse.Namespace]
    with only_allowing(rest), pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(cross_entropy_checkpoint, weights_only=True)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "bool"])
def test_meters_may_hold_numpys_numbers_and_arrays(dtype, tmp_path):
    meters = {"number": numpy.dtype(dtype).type(1), "array": numpy.ones(3, dtype)}
    torch.save(meters, tmp_path / "meters.pt")
    with only_allowing([]), pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(tmp_path / "meters.pt", weights_only=True)
    with only_allowing(checkpoint_types()):
        read = torch.load(tmp_path / "meters.pt", weights_only=True)
    assert read["number"] == 1
    assert read["array"].dtype == dtype
    assert read["array"].tolist() == [1, 1, 1]


class Foreign:
    """A class that a checkpoint has no business to hold."""

    built = False

    def __setstate__(self, state):
        Foreign.built = True


class RunsACommand:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a checkpoint ran code')",))


@pytest.mark.parametrize("held", [Foreign, RunsACommand])
def test_a_checkpoint_that_asks_for_anything_else_is_refused(held, tmp_path):
    allow_fairseq_checkpoints()
    instance = held()
    instance.attribute = 1
    torch.save({"model": {}, "extra": instance}, tmp_path / "foreign.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(tmp_path / "foreign.pt", weights_only=True)
    assert not Foreign.built


def test_nothing_on_the_list_runs_code():
    """Types and numpy's two constructors, no other function."""
    functions = [kind for kind in checkpoint_types() if not isinstance(kind, type)]
    assert sorted(function.__name__ for function in functions) == ["_reconstruct", "scalar"]


def test_a_reward_that_a_checkpoint_names_is_run_only_if_it_is_given_again(
    corpus, cross_entropy_checkpoint, tmp_path, monkeypatch
):
    """As the settings of a stranger's checkpoint could have been written."""
    called = tmp_path / "called"
    (tmp_path / "stored_reward.py").write_text(
        f"open({str(called)!r}, 'w').close()\n\n\ndef one(hypotheses, references, sources):\n"
        "    return [1.0] * len(hypotheses)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # which processes inherit
    reward = ("--criterion", "stochastic_graph", "--reward", "stored_reward:one")
    checkpoint = torch.load(cross_entropy_checkpoint, weights_only=True)
    checkpoint["cfg"]["criterion"] = {
        "_name": "stochastic_graph",
        "objective": "self_critical",
        "reward": "stored_reward:one",
        "reward_level": "text",
        "sentence_avg": False,
    }
    torch.save(checkpoint, tmp_path / "strangers.pt")
    command = (
        *("fairseq-validate", corpus, "--user-dir", "fairseq_plugins", "--task", "translation"),
        *("--path", tmp_path / "strangers.pt", "--batch-size", 8, "--num-workers", 0, "--cpu"),
    )
    with pytest.raises(AssertionError, match=r"give it again: .*--reward stored_reward:one"):
        Started(*command, log=tmp_path / "refused.log").output()
    assert not called.exists()
    assert "reward_greedy 1" in Started(*command, *reward, log=tmp_path / "given.log").output()
    assert called.exists()


def test_settings_of_other_criterions_stay_as_they_are(cross_entropy_checkpoint, tmp_path):
    state = torch.load(cross_entropy_checkpoint, weights_only=True)
    state["cfg"]["criterion"]["reward"] = "http://host"
    torch.save(state, tmp_path / "checkpoint.pt")
    loaded = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint.pt"))
    assert loaded["cfg"]["criterion"]["reward"] == "http://host"
