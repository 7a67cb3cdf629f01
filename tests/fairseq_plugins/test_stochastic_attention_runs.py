"""Whole runs with stochastic attention: from a plain checkpoint to translations of every kind."""

import re
from argparse import Namespace

import pytest
import torch
from console_scripts import Started, console
from fairseq_setup import ARCHITECTURES, setup
from training_flags import QUIET, adam

from fairseq_plugins.models.stochastic_attention.flags import KINDS

LAST_HEAD = {"attention_in_layers": "0", "attention_in_heads": "1"}


def plain_checkpoint(corpus, arch, path):
    """What fairseq's trainer saves of its own ``lstm`` or ``transformer``, before any update."""
    plain = setup(corpus, arch, name="cross_entropy")
    optimiser = {
        "criterion_name": "CrossEntropyCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    torch.save(
        {
            "args": None,
            "cfg": plain.config,
            "model": plain.model.state_dict(),
            "criterion": None,
            "optimizer_history": [optimiser],
            "extra_state": {"train_iterator": {"epoch": 1}},
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def checkpoints(corpus, tmp_path_factory):
    """``{(arch, kind): path}``: one hard model of each architecture, trained; the others are it."""
    folder = tmp_path_factory.mktemp("stochastic_attention")
    trainings = {}
    for arch in ("lstm", "transformer"):
        plain = plain_checkpoint(corpus, arch, folder / f"{arch}.pt")
        trainings[arch] = Started(
            "fairseq-train",
            corpus,
            *("--user-dir", "fairseq_plugins", "--criterion", "stochastic_graph"),
            *(*ARCHITECTURES[arch], "--arch", f"stochastic_attention_{arch}", *QUIET),
            *("--attention", "hard", "--finetune-from-model", plain, "--dropout", 0.1),
            *(*adam(0.01), "--max-update", 2, "--batch-size", 32, "--no-epoch-checkpoints"),
            *("--save-dir", folder / arch),
            log=folder / f"{arch}.log",
        )
    paths = {}
    for arch, training in trainings.items():
        printed = training.output()
        updates = [line for line in printed.splitlines() if "| train_inner |" in line]
        node = "attention" if arch == "lstm" else "attention.layer0"
        assert len(updates) == 2
        assert all(f"entropy_{node}=" in line for line in updates)
        assert "valid on 'valid' subset" in printed
        trained = torch.load(folder / arch / "checkpoint_last.pt", weights_only=False)
        for kind in KINDS:
            where = LAST_HEAD if (arch, kind) == ("transformer", "exact") else {}
            model = {**vars(trained["cfg"]["model"]), "attention": kind, **where}
            state = {**trained, "cfg": {**trained["cfg"], "model": Namespace(**model)}}
            paths[arch, kind] = folder / f"{arch}-{kind}.pt"
            torch.save(state, paths[arch, kind])
    return paths


def test_every_kind_translates_in_one_ensemble(corpus, checkpoints, tmp_path):
    printed = Started(
        "fairseq-generate",
        corpus,
        *("--user-dir", "fairseq_plugins", "--cpu", "--gen-subset", "valid", "--beam", 3),
        *("--path", ":".join(map(str, checkpoints.values())), "--print-alignment", "soft"),
        log=tmp_path / "log",
    ).output()
    assert len(re.findall(r"^H-\d+", printed, flags=re.MULTILINE)) == 8


def test_evaluation_is_changed_by_model_overrides(corpus, checkpoints):
    """Interactive translation of one sentence twice, which drawn positions make different."""
    printed = console(
        "fairseq-interactive",
        corpus,
        *("--user-dir", "fairseq_plugins", "--cpu", "--beam", 1),
        *("--source-lang", "de", "--target-lang", "en"),
        *("--path", checkpoints["transformer", "hard"]),
        *("--model-overrides", {"attention_in_evaluation": "sample"}),
        stdin="der hund sieht ein haus\n" * 2,
    )
    scores = re.findall(r"^H-\d+\t(\S+)", printed, flags=re.MULTILINE)
    assert len(scores) == 2
    assert scores[0] != scores[1]
