"""What all recipes of the package promise: sources, licences, controls, the same comparison."""

import re
from pathlib import Path

import pytest

import recipes
from recipes.__main__ import main
from recipes.data.origins import CUT, FOLDER, SOURCES, origin
from recipes.data.test_sets import language_pair
from recipes.running.run import Run
from recipes.running.trained_arms import has_reward
from recipes.schema.flags import BUDGET_FLAGS, flag_value
from recipes.schema.reading import load_recipe, recipe_names

CONFIGS = Path(recipes.__file__).parent / "configs"
DOWNLOADED = [
    "multi30k-de-en",
    "multi30k-en-fr",
    "iwslt14-de-en",
    "iwslt15-en-vi",
    "wmt16-en-ro",
    "wmt14-en-de",
]
NEW = [*DOWNLOADED[1:], "tatoeba-en-de"]
ARMS = {"cross_entropy", "expected_bleu", "self_critical", "leave_one_out", "minimum_risk"}


def test_all_recipes_of_the_documentation_are_there():
    assert {*NEW, "multi30k-de-en", "demo"} <= set(recipe_names())


@pytest.mark.parametrize("name", NEW)
def test_the_same_arms_are_compared(name):
    assert set(load_recipe(name).arms) == ARMS


@pytest.mark.parametrize("name", DOWNLOADED[1:])
def test_arms_start_where_annealing_ends_with_its_learning_rate(name):
    recipe = load_recipe(name)
    rate = float(flag_value(recipe.annealing.flags, "--end-learning-rate"))
    assert {float(flag_value(recipe.arm_flags(arm), "--lr")) for arm in recipe.arms} == {rate}
    assert flag_value(recipe.finetune.flags, BUDGET_FLAGS[0]) is not None


def batch(flags):
    """Tokens of an update."""
    value = [flag_value(flags, flag) for flag in ("--max-tokens", "--update-freq")]
    return int(value[0]) * int(value[1] or 1)


@pytest.mark.parametrize("name", recipe_names())
def test_arms_follow_the_protocol(name):
    """A learning rate that falls to 0, batch and weight decay as before, ten validations."""
    recipe = load_recipe(name)
    before = recipe.cross_entropy.flags
    for arm in recipe.arms:
        flags = recipe.arm_flags(arm)
        assert flag_value(flags, "--lr-scheduler") == "polynomial_decay"
        assert float(flag_value(flags, "--end-learning-rate")) == 0
        assert flag_value(flags, "--total-num-update") == flag_value(flags, "--max-update")
        assert batch(flags) == batch(before)
        assert flag_value(flags, "--weight-decay") == flag_value(before, "--weight-decay")
        interval = int(flag_value(flags, "--validate-interval-updates"))
        assert int(flag_value(flags, "--max-update")) >= 10 * interval
    rewarded = any(has_reward(recipe.arm_flags(arm)) for arm in recipe.arms)
    assert recipe.constant_reward is rewarded


@pytest.mark.parametrize("name", [n for n in recipe_names() if not load_recipe(n).task.iterative])
def test_start_and_arms_are_the_best_of_their_validations(name):
    recipe = load_recipe(name)
    start = recipe.annealing or recipe.cross_entropy
    trainings = [(start, start.completed()), (recipe.finetune, recipe.finetune.flags)]
    if start.checkpoint != "best":
        # The learning rate has fallen: the last checkpoint is where training ended.
        assert flag_value(trainings.pop(0)[1], "--lr-scheduler") == "polynomial_decay"
    for training, flags in trainings:
        assert training.checkpoint == "best"
        assert "--eval-bleu" in flags
        interval = flag_value(flags, "--validate-interval-updates")
        # fairseq picks the best of the checkpoints that it saves.
        assert interval == flag_value(flags, "--save-interval-updates")
        if interval is None:
            assert int(flag_value(flags, "--max-epoch")) >= 10


@pytest.mark.parametrize("name", NEW)
def test_licence_and_size_are_named(name):
    data = load_recipe(name).data
    assert data.licence
    assert re.search(r"\d.* pairs", data.size)


@pytest.mark.parametrize("name", DOWNLOADED)
def test_every_split_has_a_source_and_every_file_a_use(name, tmp_path):
    recipe = load_recipe(name)
    data = recipe.data
    used = set()
    for sources in data.sources.values():
        for source in sources:
            used.update(source.files)
            if source.sacrebleu:
                assert {*language_pair(source, recipe.languages).split("-")} == {*recipe.languages}
    assert used == set(data.files)
    said: list[str] = []
    run = Run(recipe, tmp_path / "work", None, said.append, dry_run=True)
    assert run.layout.text_dir == tmp_path / "work/text"
    for split in data.splits:
        assert split in data.sources or (split == data.valid and data.hold_out)


def test_tatoeba_takes_a_folder_or_cuts_a_download(tmp_path):
    recipe = load_recipe("tatoeba-en-de")
    assert [origin(recipe, None, s) for s in recipe.data.splits] == [SOURCES, CUT, CUT, CUT]
    for name in ("train", "valid", "test"):
        for lang in recipe.languages:
            (tmp_path / f"{name}.{lang}").touch()
    assert origin(recipe, tmp_path, "test_multiref") == CUT
    (tmp_path / "test_multiref.en-de.tsv").touch()
    origins = [origin(recipe, tmp_path, split) for split in recipe.data.splits]
    assert origins == [FOLDER, FOLDER, FOLDER, SOURCES]


def test_downloads_that_were_not_tried_are_said_to_be(capsys):
    assert main(["list"]) == 0
    rows = re.split(r"\n(?=\w)", capsys.readouterr().out)
    untried = {row.split()[0] for row in rows if "download not tried" in row}
    assert untried == set(recipe_names()) - {"demo"}


def test_unknown_checksums_are_said_to_be_unknown():
    """A null checksum needs its reason beside it, and no file has an invented one."""
    without = {
        name
        for name in recipe_names()
        if any(file.sha256 is None for file in load_recipe(name).data.files.values())
    }
    assert without == {"iwslt14-de-en", "tatoeba-en-de"}
    for name in without:
        text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").replace("#", "")
        assert "first run prints the SHA-256" in " ".join(text.split())
