"""Whole runs of ``--arch latent_transformer`` by fairseq's own commands."""

import re

import pytest
import torch
from console_scripts import Started
from toy_corpus import SIZES
from training_flags import adam, stochastic_graph

KINDS = ("gaussian", "circle", "sphere", "torus", "so3")
MODEL = ("--arch", "latent_transformer", "--latent-dim", 2, "--batch-size", 16)
# Flat gradients need a CUDA device; the scale is one that no update is skipped at.
FLOAT16 = ("--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", 4)


def started(corpus, folder, *flags):
    folder.mkdir(exist_ok=True)
    return Started(
        "fairseq-train",
        *stochastic_graph(corpus, folder, *MODEL, "--no-epoch-checkpoints", *flags),
        log=folder / "train.log",
    )


def generated(corpus, folder, *flags):
    return Started(
        "fairseq-generate",
        *(corpus, "--path", folder / "checkpoint_last.pt", "--user-dir", "fairseq_plugins"),
        *("--cpu", "--gen-subset", "test", "--beam", 3, "--num-workers", 0),
        # With its default of 8 fairseq leaves the last sentences out.
        *("--required-batch-size-multiple", 1, "--max-len-b", 15, *flags),
        log=folder / f"generate{len(flags)}.log",
    )


def hypotheses(printed):
    return sorted(re.findall(r"^H-\d+.*", printed, re.MULTILINE))


@pytest.fixture(scope="module")
def trained(corpus, cross_entropy_checkpoint, tmp_path_factory):
    """Folder and output of two updates of each kind, from a plain transformer; one in 16 bits."""
    folder = tmp_path_factory.mktemp("latent")
    flags = ("--finetune-from-model", cross_entropy_checkpoint, *adam(0.01), "--max-update", 2)
    runs = {
        kind: started(
            corpus, folder / kind, "--latent", kind, *flags, *(FLOAT16 if kind == "so3" else ())
        )
        for kind in KINDS
    }
    return {kind: (folder / kind, run.output()) for kind, run in runs.items()}


def test_every_kind_trains_from_a_plain_transformer(trained):
    for folder, printed in trained.values():
        assert "the checkpoint has no decoder.latent_projection: it starts anew" in printed
        lines = re.findall(r"train_inner.*? kl=(\S+), kl_weight=1,.* gnorm=(\S+),", printed)
        assert len(lines) == 2
        assert all(float(kl) > 0 and 0 < float(norm) < 100 for kl, norm in lines)
        state = torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]
        assert state["decoder.latent_projection.weight"].any()


def test_every_kind_generates_the_same_whatever_the_seed_unless_it_samples(corpus, trained):
    runs = {kind: generated(corpus, folder) for kind, (folder, _) in trained.items()}
    folder, _ = trained["gaussian"]
    again = generated(corpus, folder, "--seed", 5)
    sampled = ("--model-overrides", "{'latent_in_evaluation': 'sample'}")
    drawn = generated(corpus, folder, *sampled, "--seed", 5)
    found = {kind: hypotheses(run.output()) for kind, run in runs.items()}
    assert {len(lines) for lines in found.values()} == {SIZES["test"]}
    assert hypotheses(again.output()) == found["gaussian"]
    drawn = hypotheses(drawn.output())
    assert len(drawn) == SIZES["test"]
    assert drawn != found["gaussian"]


def test_annealing_goes_on_where_it_stopped(corpus, tmp_path):
    flags = ("--kl-weight", "linear:0:1:8", *adam(0.01), "--disable-validation")

    def weights(printed):
        return [float(w) for w in re.findall(r"train_inner.*? kl_weight=(\S+),", printed)]

    whole = started(corpus, tmp_path / "whole", *flags, "--max-update", 6)
    first = started(corpus, tmp_path / "parts", *flags, "--max-update", 3)
    assert weights(first.output()) == [0, 0.125, 0.25]
    rest = started(corpus, tmp_path / "parts", *flags, "--max-update", 6)
    assert weights(rest.output()) == [0.375, 0.5, 0.625]
    assert weights(whole.output()) == [0, 0.125, 0.25, 0.375, 0.5, 0.625]
    states = [
        torch.load(tmp_path / run / "checkpoint_last.pt", weights_only=True)["model"]
        for run in ("whole", "parts")
    ]
    # fairseq seeds every update by its number, and with it what is drawn.
    torch.testing.assert_close(states[0], states[1])


def test_rewards_train_the_prior_and_the_cross_entropy_the_posterior(corpus, tmp_path):
    printed = started(
        corpus,
        tmp_path / "run",
        *("--objective", "leave_one_out", "--samples", 2, "--cross-entropy-weight", 0.5),
        *(*adam(0.01), "--max-update", 2, "--disable-validation", "--max-decode-length", 8),
    ).output()
    (first, second) = re.findall(r"train_inner.*", printed)
    for line in (first, second):
        for name in ("kl", "kl_weight", "entropy_latent", "advantage_latent", "reward"):
            assert f" {name}=" in line
