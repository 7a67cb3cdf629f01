"""Whole runs with stochastic attention: training, fine-tuning from another kind, generation."""

import re

import pytest
from console_scripts import Started
from training_flags import QUIET, adam

KINDS = ("soft", "hard", "gumbel", "gumbel_st", "greedy", "exact")
SMALL = {
    "lstm": (
        *("--encoder-embed-dim", 16, "--decoder-embed-dim", 16, "--encoder-hidden-size", 16),
        *("--decoder-hidden-size", 16, "--decoder-out-embed-dim", 16, "--dropout", 0.1),
    ),
}


@pytest.fixture(params=sorted(SMALL))
def run(request, corpus, tmp_path):
    """Starts a command for an architecture, with its output in a file."""
    name = request.param

    def start(script, *flags, log):
        arch = ("--arch", f"stochastic_attention_{name}", *SMALL[name])
        return Started(
            script,
            corpus,
            *("--user-dir", "fairseq_plugins"),
            *((*arch, *QUIET) if script == "fairseq-train" else ("--cpu",)),
            *flags,
            log=tmp_path / f"{log}.log",
        )

    return start


def test_every_kind_trains_from_a_soft_checkpoint_and_translates(run, tmp_path):
    def train(kind, *flags):
        return run(
            "fairseq-train",
            *("--attention", kind, "--save-dir", tmp_path / kind, *adam(0.01)),
            *("--max-update", 2, "--batch-size", 32, "--no-epoch-checkpoints", *flags),
            log=f"train-{kind}",
        )

    train("soft", "--criterion", "cross_entropy").output()
    soft = ("--finetune-from-model", tmp_path / "soft" / "checkpoint_last.pt")
    graph = ("--criterion", "stochastic_graph")
    trainings = {kind: train(kind, *graph, *soft) for kind in KINDS[1:]}
    for kind, training in trainings.items():
        printed = training.output()
        updates = [line for line in printed.splitlines() if "| train_inner |" in line]
        assert len(updates) == 2
        assert all(("entropy_attention" in line) == (kind == "hard") for line in updates)
    generations = {
        kind: run(
            "fairseq-generate",
            *("--path", tmp_path / kind / "checkpoint_last.pt", "--gen-subset", "valid"),
            *("--beam", 3),
            log=f"generate-{kind}",
        )
        for kind in KINDS
    }
    for generation in generations.values():
        assert len(re.findall(r"^H-\d+", generation.output(), flags=re.MULTILINE)) == 8
