"""``--criterion stochastic_graph`` in 16 bits: float16 by ``--fp16``, bfloat16 through hydra.

``--bf16`` itself is taken by fairseq, without a GPU, to mean a TPU.
"""

import re

import pytest
import torch
from console_scripts import REPOSITORY, Started
from omegaconf import OmegaConf
from training_flags import adam, stochastic_graph

# With a flag that goes with them.
OBJECTIVES = {
    "reinforce": ("max_decode_ratio", 1.5),
    "gumbel": ("relaxation_temperature", "geometric:2:0.5:9"),
    "minimum_risk": ("samples", 3),
}


def losses_of(printed):
    return [
        (float(loss), float(norm))
        for loss, norm in re.findall(r"train_inner.*? loss=(\S+),.*? gnorm=(\S+),", printed)
    ]


def assert_trained(printed, before, checkpoint):
    losses = losses_of(printed)
    assert len(losses) == 2
    assert all(0 < loss < 10 and 0 < norm < 100 for loss, norm in losses)
    after = torch.load(checkpoint, weights_only=True)["model"]
    moved = {name for name in before if (after[name] != before[name].to(after[name].dtype)).any()}
    assert len(moved) > len(before) / 2
    assert all(weight.isfinite().all() for weight in after.values())
    return after


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_float16_trains(corpus, cross_entropy_checkpoint, tmp_path, objective):
    printed = Started(
        "fairseq-train",
        *stochastic_graph(corpus, tmp_path / "run", "--objective", objective, *adam(0.01)),
        *("--finetune-from-model", cross_entropy_checkpoint),
        # The norm is printed with three digits: the risk's gradient grows with its sharpness.
        *(("--candidate-sharpness", 1) if objective == "minimum_risk" else ()),
        *("--fp16", "--fp16-no-flatten-grads"),  # flat gradients need a CUDA device
        # The scale that training settles on; from fairseq's 128 the first updates may be skipped.
        *("--fp16-init-scale", 4, "--batch-size", 16, "--max-update", 2),
        *("--no-epoch-checkpoints", "--disable-validation"),
        log=tmp_path / "run.log",
    ).output()
    before = torch.load(cross_entropy_checkpoint, weights_only=True)["model"]
    assert_trained(printed, before, tmp_path / "run" / "checkpoint_last.pt")


@pytest.fixture
def configuration(corpus, cross_entropy_checkpoint, tmp_path):
    """``tiny.yaml`` in a folder of its own; the criterion is named on the command line."""
    sides = ("encoder", "decoder")
    config = {
        "common": {
            "user_dir": str(REPOSITORY / "fairseq_plugins"),
            "cpu": True,
            "bf16": True,
            "log_format": "simple",
            "log_interval": 1,
        },
        "task": {"_name": "translation", "data": str(corpus)},
        "model": {"_name": "transformer", "dropout": 0.1}
        | {f"{side}_{part}_dim": 16 for side in sides for part in ("embed", "ffn_embed")}
        | {f"{side}_layers": 1 for side in sides}
        | {f"{side}_attention_heads": 2 for side in sides},
        "criterion": {"_name": "cross_entropy"},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 2, "lr": [0.01]},
        "dataset": {"batch_size": 16, "disable_validation": True, "num_workers": 0},
        "checkpoint": {"finetune_from_model": str(cross_entropy_checkpoint)},
    }
    text = "# @package _group_\n" + OmegaConf.to_yaml(OmegaConf.create(config))
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_hydra_train_takes_the_criterion_from_the_command_line_and_trains_in_bfloat16(
    cross_entropy_checkpoint, configuration, objective
):
    save_dir = configuration / "run"
    option, value = OBJECTIVES[objective]
    printed = Started(
        "fairseq-hydra-train",
        *("--config-dir", configuration, "--config-name", "tiny"),
        *("criterion._name=stochastic_graph", f"+criterion.objective={objective}"),
        *(f"+criterion.{option}={value}", f"checkpoint.save_dir={save_dir}"),
        f"hydra.run.dir={configuration / 'hydra'}",
        log=configuration / "run.log",
    ).output()
    before = torch.load(cross_entropy_checkpoint, weights_only=True)["model"]
    after = assert_trained(printed, before, save_dir / "checkpoint_last.pt")
    for weight in after.values():  # written as float32, trained in 16 bits
        assert torch.equal(weight, weight.bfloat16().to(weight.dtype))
    settings = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)["cfg"]["criterion"]
    assert (settings["_name"], settings["objective"]) == ("stochastic_graph", objective)
    assert (settings["feed"], settings[option]) == (None, value)
