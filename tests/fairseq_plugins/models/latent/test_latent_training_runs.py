"""Whole runs of ``--arch latent_transformer`` by fairseq's own commands."""

import re

import pytest
import torch
from console_scripts import Started
from fairseq_setup import epoch_batches, setup
from toy_corpus import SIZES
from training_flags import QUIET, adam, sgd, stochastic_graph
from two_workers import two_workers

KINDS = ("gaussian", "circle", "sphere", "torus", "so3")
RATE = 0.5
SEED = int(QUIET[QUIET.index("--seed") + 1])
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


def generated(corpus, folder, *flags, log=""):
    return Started(
        "fairseq-generate",
        *(corpus, "--path", folder / "checkpoint_last.pt", "--user-dir", "fairseq_plugins"),
        *("--cpu", "--gen-subset", "test", "--beam", 3, "--num-workers", 0),
        # With its default of 8 fairseq leaves the last sentences out.
        *("--required-batch-size-multiple", 1, "--max-len-b", 15, *flags),
        log=folder / f"generate{len(flags)}{log}.log",
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


def test_with_the_other_prior_every_kind_trains_and_its_samples_go_by_the_seed(
    corpus, cross_entropy_checkpoint, tmp_path
):
    """Conditional on manifolds, fixed for the Gaussian; outputs and their scores."""
    runs = {
        kind: started(
            corpus,
            tmp_path / kind,
            *("--latent", kind, "--finetune-from-model", cross_entropy_checkpoint),
            *("--latent-prior", "fixed" if kind == "gaussian" else "conditional"),
            *(*adam(0.01), "--max-update", 2, "--disable-validation"),
        )
        for kind in KINDS
    }
    sampled = ("--model-overrides", "{'latent_in_evaluation': 'sample'}")
    for kind, run in runs.items():
        assert len(re.findall(r"train_inner.*? kl=", run.output())) == 2, kind
    found = {
        (kind, seed, again): generated(
            corpus, tmp_path / kind, *sampled, "--seed", seed, log=f"{seed}{again}"
        )
        for kind in KINDS
        for seed, again in ((5, ""), (6, ""), *([(5, "again")] if kind == "sphere" else []))
    }
    found = {key: hypotheses(run.output()) for key, run in found.items()}
    assert {len(lines) for lines in found.values()} == {SIZES["test"]}
    for kind in KINDS:
        assert found[kind, 5, ""] != found[kind, 6, ""], kind
    assert found["sphere", 5, "again"] == found["sphere", 5, ""]


def test_two_workers_with_two_batches_an_update_add_their_gradients(
    corpus, cross_entropy_checkpoint, tmp_path
):
    """Against one process that draws what each of them draws, with the same weight of ``kl``."""
    flags = ("--latent", "sphere", "--latent-dim", 2, "--kl-weight", "linear:0.5:1:4")
    arguments = stochastic_graph(
        corpus,
        tmp_path / "two",
        *("--arch", "latent_transformer", *flags, "--dropout", 0, *sgd(RATE)),
        *("--finetune-from-model", cross_entropy_checkpoint, "--load-checkpoint-on-all-dp-ranks"),
        *("--train-subset", "even", "--batch-size", 4, "--update-freq", 2),
        *("--max-update", 1, "--disable-validation", "--no-epoch-checkpoints"),
        *("--required-batch-size-multiple", 1),
    )
    two = two_workers(arguments, tmp_path)["model"]
    printed = (tmp_path / "worker0.log").read_text(encoding="utf-8")
    (weight,) = re.findall(r"train_inner.*? kl_weight=(\S+),", printed)
    assert float(weight) == 0.5
    built = setup(
        corpus,
        "transformer",
        flags=("--arch", "latent_transformer", *flags),
        name="stochastic_graph",
    )
    start = torch.load(cross_entropy_checkpoint, weights_only=True)["model"]
    built.model.load_state_dict(start, strict=True, model_cfg=built.config.model)
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    batches = epoch_batches(built, "even", sentences=4)
    assert len(batches) == 4
    sizes = 0
    for worker in (0, 1):
        torch.manual_seed(SEED)  # as fairseq's trainer seeds every worker
        for each in batches[worker::2]:
            loss, size, _ = built.criterion(built.model, each)
            loss.backward()
            sizes += size
    with torch.no_grad():
        for name, parameter in built.model.named_parameters():
            parameter -= RATE * parameter.grad / float(sizes)
            torch.testing.assert_close(two[name], parameter.detach(), rtol=1e-5, atol=1e-5)
    moved = {
        name for name, value in built.model.state_dict().items() if not value.equal(before[name])
    }
    assert {"decoder.latent_projection.weight", "decoder.latent_posterior.2.bias"} <= moved


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
