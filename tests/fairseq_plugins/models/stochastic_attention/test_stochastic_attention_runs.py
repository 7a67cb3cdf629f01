"""Whole runs with stochastic attention: from a plain checkpoint to translations of every kind."""

import math
import re
import shutil
from argparse import Namespace

import pytest
import torch
from console_scripts import Started
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq_setup import ARCHITECTURES, setup
from training_flags import QUIET, adam
from two_workers import two_workers

from fairseq_plugins.models.stochastic_attention.choice import KINDS

NEEDED = "decoder.attention.input_proj.weight"
"""Moves if positions are trained, and not otherwise."""
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


@pytest.mark.parametrize("arch", ["lstm", "transformer"])
def test_every_kind_translates_in_one_ensemble(corpus, checkpoints, tmp_path, arch):
    """The printed scores of tokens are those of the mean of what the models say of them."""
    paths = [str(path) for (its_arch, _), path in checkpoints.items() if its_arch == arch]
    printed = Started(
        "fairseq-generate",
        corpus,
        *("--user-dir", "fairseq_plugins", "--cpu", "--gen-subset", "valid", "--beam", 3),
        *("--num-workers", 0, "--max-len-a", 1, "--max-len-b", 5),
        *("--path", ":".join(paths), "--print-alignment", "soft"),
        log=tmp_path / "log",
    ).output()
    hypotheses = re.findall(r"^H-(\d+)\t\S+\t(.*)$", printed, flags=re.MULTILINE)
    scores = dict(re.findall(r"^P-(\d+)\t(.*)$", printed, flags=re.MULTILINE))
    assert len(hypotheses) == len(scores) == 8
    models, _, task = load_model_ensemble_and_task(paths)
    assert len(models) == len(KINDS)
    task.load_dataset("valid")
    dataset, compared = task.dataset("valid"), 0
    for number, words in hypotheses:
        of_tokens = torch.tensor([float(score) for score in scores[number].split()])
        tokens = task.target_dictionary.encode_line(words, add_if_not_exist=False).long()
        if len(tokens) != len(of_tokens):  # ``<s>`` is not printed
            continue
        net_input = dataset.collater([dataset[int(number)]])["net_input"]
        fed = torch.cat([tokens[-1:], tokens[:-1]]).unsqueeze(0)
        with torch.no_grad():
            log_probs = [
                model.get_normalized_probs(
                    model.eval()(**{**net_input, "prev_output_tokens": fed}), log_probs=True
                )[0, range(len(tokens)), tokens]
                for model in models
            ]
        mean = torch.stack(log_probs).logsumexp(0) - math.log(len(models))
        # fairseq prints four digits, to the base 2.
        torch.testing.assert_close(of_tokens, mean / math.log(2), rtol=1e-3, atol=1e-3)
        compared += 1
    assert compared >= 2


def test_evaluation_is_changed_by_model_overrides(corpus, checkpoints, tmp_path):
    """Interactive translation of one sentence twice, which drawn positions make different."""
    printed = Started(
        "fairseq-interactive",
        corpus,
        *("--user-dir", "fairseq_plugins", "--cpu", "--beam", 1),
        *("--source-lang", "de", "--target-lang", "en"),
        *("--path", checkpoints["transformer", "hard"]),
        *("--model-overrides", {"attention_in_evaluation": "sample"}),
        stdin="der hund sieht ein haus\n" * 2,
        log=tmp_path / "log",
    ).output()
    scores = re.findall(r"^H-\d+\t(\S+)", printed, flags=re.MULTILINE)
    assert len(scores) == 2
    assert scores[0] != scores[1]


def test_two_workers_resume_where_they_stopped(corpus, tmp_path):
    """In the middle of an epoch, two batches for each update, positions drawn while decoding."""
    flags = (
        corpus,
        *("--user-dir", "fairseq_plugins", "--criterion", "stochastic_graph", *QUIET),
        *(*ARCHITECTURES["lstm"], "--arch", "stochastic_attention_lstm", "--attention", "hard"),
        *("--objective", "reinforce", "--max-decode-length", 5, "--dropout", 0.1, *adam(0.01)),
        *("--batch-size", 4, "--required-batch-size-multiple", 1, "--update-freq", 2),
        *("--max-update", 3, "--save-interval-updates", 2, "--disable-validation"),
    )
    for name in ("whole", "resumed"):
        (tmp_path / name / "two").mkdir(parents=True)
    whole = two_workers(flags, tmp_path / "whole")
    (stopped,) = (tmp_path / "whole" / "two").glob("checkpoint_*_2.pt")
    shutil.copy(stopped, tmp_path / "resumed" / "two" / "checkpoint_last.pt")
    resumed = two_workers(flags, tmp_path / "resumed")
    before = torch.load(stopped, weights_only=True)["model"]
    assert not before[NEEDED].equal(whole["model"][NEEDED])
    for part in ("model", "criterion"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
