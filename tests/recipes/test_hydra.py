"""Configurations of fairseq-hydra-train against the command line that they come from."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_recipes import small_recipe

from recipes.errors import CommandError
from recipes.fairseq_commands.commands import train_command
from recipes.hydra_configs import command as hydra_command
from recipes.running.layout import Layout
from recipes.schema.reading import load_recipe

ROOT = Path(__file__).parents[2]
COMMON = "--optimizer adam --lr 0.01 --max-tokens 200 --max-update 2 --seed 1 --dropout 0.1 "
SMALL = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --share-all-embeddings "
    "--encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 16 "
    "--decoder-ffn-embed-dim 16 --encoder-attention-heads 2 --decoder-attention-heads 2"
)
# All in one process, as fairseq takes seconds to import: preprocessing and the command line's
# training, then the same through hydra, and a sweep of two settings.
PROGRAM = """
import json, sys
from fairseq_cli import preprocess, train, hydra_train
programs = {"preprocess": preprocess, "train": train, "hydra-train": hydra_train}
for name, *arguments in json.load(sys.stdin):
    sys.argv = [name, *arguments]
    programs[name].cli_main()
"""


def recipe(tmp_path, **changes):
    path = tmp_path / "small.yaml"
    settings = small_recipe(
        architecture=SMALL,
        cross_entropy={"flags": f"{COMMON} --criterion cross_entropy"},
        finetune={"flags": f"{COMMON} --adam-betas '(0.9, 0.98)' --eval-bleu-args '{{}}'"},
        arms={
            "cross_entropy": "--criterion cross_entropy",
            "bleu": "--criterion expected_bleu --cross-entropy-weight 0.25 --label-smoothing 0.1",
        },
    )
    path.write_text(yaml.safe_dump({**settings, **changes}), encoding="utf-8")
    return load_recipe(str(path))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Work-dir of the command line's trainings, and one of the same through hydra."""
    folder = tmp_path_factory.mktemp("hydra")
    for split in ("train", "valid", "test"):
        for lang in ("de", "en"):
            lines = [f"{lang}a b{n % 5} c{n % 3} d" for n in range(12)]
            (folder / f"{split}.{lang}").write_text("\n".join(lines) + "\n")
    settings = recipe(folder)
    written = hydra_command.write_configurations(settings, folder / "conf", folder / "hydra")
    layout = Layout(settings, folder / "line", folder)
    binarized = folder / "hydra/binarized"
    prefixes = [f"--{s}pref={folder / s}" for s in ("train", "valid", "test")]
    runs = [["preprocess", "-s", "de", "-t", "en", "--joined-dictionary", *prefixes]]
    runs[0] += ["--destdir", str(binarized)]
    start = layout.checkpoint("start")
    for save_dir, flags, checkpoint in (
        (layout.save_dir("start"), settings.cross_entropy.flags, None),
        (layout.save_dir("bleu"), settings.arm_flags("bleu"), start),
    ):
        command = train_command(settings, binarized, save_dir, flags, checkpoint)
        runs.append(["train", *map(str, command.arguments)])
    for name, *overrides in (
        ("cross_entropy",),
        ("arm_bleu",),
        ("arm_bleu", "-m", "criterion.cross_entropy_weight=0.25,0.5"),
    ):
        configuration = ["--config-dir", str(folder / "conf"), "--config-name", name]
        runs.append(["hydra-train", *configuration, *overrides])
    assert list(written) == ["cross_entropy", "arm_cross_entropy", "arm_bleu"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=json.dumps(runs),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


def parameters(save_dir):
    return torch.load(save_dir / "checkpoint_last.pt", weights_only=False)["model"]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_hydra_trains_the_parameters_of_the_command_line(trained):
    for save_dir in ("cross_entropy", "arms/bleu"):
        ours = parameters(trained / "hydra" / save_dir)
        assert equal(ours, parameters(trained / "line" / save_dir))
    assert not equal(ours, parameters(trained / "line/cross_entropy"))
    # The log is where a report looks for it, in fairseq's own format.
    log = (trained / "hydra/arms/bleu/train.log").read_text()
    assert " | INFO | train | epoch 001 | " in log


def test_jobs_of_a_sweep_have_folders_and_settings_of_their_own(trained):
    sweep = trained / "hydra/sweeps/arm_bleu"
    jobs = {w: sweep / f"criterion.cross_entropy_weight={w}" for w in ("0.25", "0.5")}
    usual = parameters(trained / "line/arms/bleu")
    assert equal(parameters(jobs["0.25"]), usual)
    assert not equal(parameters(jobs["0.5"]), usual)


def composed(config_dir, name, *overrides):
    """The configuration as hydra composes it."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_dir), version_base="1.1"):
        return compose(name, overrides=list(overrides), return_hydra_config=True)


@pytest.mark.parametrize(("nodes", "port"), [(1, None), (2, 29671)])
def test_settings_for_slurm_compose_with_the_launcher(trained, nodes, port):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = ["hydra/launcher=submitit_slurm", f"+run_config=slurm_{nodes}"]
    found = composed(trained / "conf", "arm_bleu", *overrides, "hydra.launcher.partition=gpu")
    assert "SlurmLauncher" in found.hydra.launcher._target_
    assert (found.hydra.launcher.nodes, found.hydra.launcher.partition) == (nodes, "gpu")
    assert found.distributed_training.distributed_world_size == 8 * nodes
    assert found.dataset.num_workers == 0
    assert found.distributed_training.get("distributed_port") == port


def test_values_given_by_others_are_left_to_them(trained):
    found = yaml.safe_load((trained / "conf/arm_bleu.yaml").read_text())
    assert found["optimization"]["lr"] == [0.01]
    assert "lr" not in found["optimizer"]
    assert "cpu" not in found["common"]  # the job may run where there are GPUs
    assert Path(found["common"]["user_dir"]).is_absolute()


def test_lines_to_run_begin_with_the_data_and_end_with_the_scores(tmp_path):
    settings = recipe(tmp_path, cross_entropy={"flags": COMMON, "average": 2})
    written = dict.fromkeys(["cross_entropy", "arm_bleu"], tmp_path)
    lines = hydra_command.run_lines(settings, written, tmp_path, ["run", "small"])
    assert [shlex.split(line)[-1] for line in lines] == [
        *("preprocess", "cross_entropy", "cross_entropy stage", "arm_bleu", "--take-over")
    ]


def test_flags_that_fairseq_refuses_are_shown(monkeypatch, tmp_path):
    message = "import sys; sys.exit('fairseq-train: error: no such flag')"
    monkeypatch.setattr(hydra_command, "CONVERSION", [sys.executable, "-c", message])
    with pytest.raises(CommandError, match="error: no such flag"):
        hydra_command.convert([])
