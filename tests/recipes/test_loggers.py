"""TensorBoard and Weights & Biases through fairseq's own flags."""

import pytest

from recipes.pipeline import run_recipe
from recipes.running.run import Run
from recipes.schema.reading import load_recipe

TENSORBOARD = "finetune.flags+=--tensorboard-logdir tb"


@pytest.fixture
def run(recipe_file, fake_fairseq, data_dir, tmp_path):
    """Runs the small recipe with settings; returns the calls of fairseq-train."""

    def start(*settings):
        recipe = load_recipe(recipe_file(), list(settings))
        run_recipe(Run(recipe, tmp_path / "work", data_dir, lambda line: None))
        return [call for call in fake_fairseq.calls() if call[0] == "fairseq-train"]

    return start


def test_each_training_has_a_folder_of_its_own(run):
    calls = run(TENSORBOARD)
    folders = [c[c.index("--tensorboard-logdir") + 1] for c in calls if "tb" in " ".join(c)]
    assert folders == ["tb/arms/cross_entropy", "tb/arms/other"]
    # They are not settings: taking them away, or adding others, trains nothing again.
    assert run() == []
    assert run("finetune.flags+=--wandb-project=p") == []
