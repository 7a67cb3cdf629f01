"""TensorBoard and Weights & Biases through fairseq's own flags."""

import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from recipes.errors import RecipeError
from recipes.fairseq_commands import commands
from recipes.pipeline import run_recipe
from recipes.running.run import Run
from recipes.schema.reading import load_recipe
from recipes.steps import training

TENSORBOARD = "finetune.flags+=--tensorboard-logdir tb"


@pytest.fixture
def run(recipe_file, fake_fairseq, data_dir, tmp_path):
    """Runs the small recipe with settings; returns the calls of fairseq-train."""

    def start(*settings):
        recipe = load_recipe(recipe_file(), list(settings))
        run_recipe(Run(recipe, tmp_path / "work", data_dir, lambda line: None))
        return [call for call in fake_fairseq.calls() if call[0] == "fairseq-train"]

    return start


def test_each_training_has_a_folder_of_its_own(run, monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: object())
    calls = run(TENSORBOARD)
    folders = [c[c.index("--tensorboard-logdir") + 1] for c in calls if "tb" in " ".join(c)]
    assert folders == ["tb/arms/cross_entropy", "tb/arms/other"]
    # They are not settings: taking them away, or adding others, trains nothing again.
    assert run() == []
    assert run("finetune.flags+=--wandb-project=p") == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (TENSORBOARD, "--tensorboard-logdir needs tensorboard or tensorboardX; .* tensorboardX"),
        ("cross_entropy.flags+=--wandb-project p", "cross_entropy.flags: --wandb-project needs"),
    ],
)
def test_a_library_that_is_missing_is_named_before_anything_runs(
    run, fake_fairseq, monkeypatch, setting, message
):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=message):
        run(setting)
    assert fake_fairseq.calls() == []


@pytest.mark.skipif(
    not (find_spec("tensorboardX") or find_spec("tensorboard")),
    reason="neither tensorboardX nor tensorboard is installed: python -m pip install tensorboardX",
)
def test_curves_of_a_training_reach_tensorboard(tmp_path, data_dir):
    words = shlex.split(
        "--arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 "
        "--decoder-embed-dim 16 --encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 "
        "--encoder-attention-heads 1 --decoder-attention-heads 1 --task translation "
        "--optimizer adam --lr 0.001 --max-tokens 600 --max-update 2 --no-save --cpu "
        "--criterion cross_entropy --log-format simple --log-interval 1"
    )
    binarized = tmp_path / "binarized"
    prefixes = [f"--{split}pref={data_dir / split}" for split in ("train", "valid")]
    run = tmp_path / "run.py"
    run.write_text(
        "import sys\n"
        "from fairseq_cli import preprocess, train\n"
        "for program, arguments in zip((preprocess, train), ARGUMENTS):\n"
        "    sys.argv = ['program', *arguments]\n"
        "    program.cli_main()\n".replace(
            "ARGUMENTS",
            repr(
                [
                    ["-s", "de", "-t", "en", *prefixes, "--destdir", str(binarized)],
                    [str(binarized), *words, "--tensorboard-logdir", str(tmp_path / "tb")],
                ]
            ),
        )
    )
    from recipes.fairseq_commands.process import run_command

    command = [commands.sys.executable, str(run)]
    run_command(command, tmp_path / "log", "tensorboard", environment={"OMP_NUM_THREADS": "1"})
    groups = {path.name: list(path.iterdir()) for path in (tmp_path / "tb").iterdir()}
    assert set(groups) == {"train_inner", "train", "valid"}
    written = b"".join(Path(p).read_bytes() for files in groups.values() for p in files)
    for metric in (b"loss", b"ppl", b"gnorm"):
        assert metric in written
