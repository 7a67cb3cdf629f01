"""Several seeds of the whole chain, some arms alone, and arms with a constant reward."""

import importlib.util
import shlex
import sys
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.pipeline import run_recipe
from recipes.reporting.report import load_results, write_report
from recipes.running.run import Run
from recipes.running.trained_arms import REWARD_OBJECTIVES, expand, has_reward
from recipes.schema.reading import load_recipe

REWARD = "--criterion stochastic_graph --objective reinforce --reward gleu"


@pytest.fixture
def run(recipe_file, fake_fairseq, data_dir, tmp_path):
    """Runs the small recipe; returns the systems in its results."""

    def start(changes=None, **options):
        recipe = load_recipe(recipe_file(**(changes or {})))
        start.said = []
        run_recipe(Run(recipe, tmp_path / "work", data_dir, start.said.append, **options))
        return load_results(tmp_path / "work/results.json")["systems"]

    return start


CHAIN = {
    "cross_entropy": {"flags": "--max-update 4 --lr 1 --seed 4"},
    "annealing": {"flags": "--max-update 5 --lr 1 --seed 4"},
    "finetune": {"flags": "--max-update 3 --lr 1 --seed 4"},
}


def trained(fake_fairseq):
    """Seed, and folder of the checkpoint it starts from, of every training by its folder."""
    found = {}
    for call in fake_fairseq.calls():
        if call[0] == "fairseq-train":
            name = call[call.index("--save-dir") + 1].split("/")[-1]
            start = "--finetune-from-model"
            before = call[call.index(start) + 1].split("/")[-2] if start in call else None
            found[name] = int(call[len(call) - call[::-1].index("--seed")]), before
    return found


def test_a_seed_is_that_of_the_whole_chain(run, fake_fairseq, tmp_path):
    systems = run(CHAIN, seeds=(4, 2))
    assert {name: (s["arm"], s["seed"], s["start"]) for name, s in systems.items()} == {
        "start": ("start", 4, "start"),
        "start.seed2": ("start", 2, "start.seed2"),
        "cross_entropy": ("cross_entropy", 4, "start"),
        "cross_entropy.seed2": ("cross_entropy", 2, "start.seed2"),
        "other": ("other", 4, "start"),
        "other.seed2": ("other", 2, "start.seed2"),
    }
    # The seed of the recipe file has stages without a seed in their names, and comes first.
    names = [line.split("] ")[1] for line in run.said if "] arm " in line]
    assert [name.split(":")[0] for name in names] == [
        *("arm cross_entropy", "arm other", "arm cross_entropy seed 2", "arm other seed 2")
    ]
    assert trained(fake_fairseq) == {
        "cross_entropy": (4, "annealing"),  # the arm, whose folder has the stage's name
        "annealing": (4, "cross_entropy"),
        "cross_entropy.seed2": (2, "annealing.seed2"),
        "annealing.seed2": (2, "cross_entropy.seed2"),
        "other": (4, "annealing"),
        "other.seed2": (2, "annealing.seed2"),
    }
    assert (tmp_path / "work/cross_entropy.seed2/checkpoint_last.pt").is_file()
    baselines = {n: s["scores"]["test"]["1"]["baseline"] for n, s in systems.items()}
    assert baselines["other"] == "cross_entropy"
    assert baselines["other.seed2"] == "cross_entropy.seed2"
    write_report(tmp_path / "work")
    text = (tmp_path / "work/results.md").read_text()
    assert "## BLEU over seeds: differences to cross_entropy" in text
    assert "| `start` | valid, greedy | 2 |" in text


def test_arms_of_all_seeds_can_share_a_start(run, fake_fairseq):
    systems = run(CHAIN, seeds=(4, 2), shared_start=True)
    names = ["start", "cross_entropy", "cross_entropy.seed2", "other", "other.seed2"]
    assert list(systems) == names
    assert {system["start"] for system in systems.values()} == {"start"}
    found = trained(fake_fairseq)
    assert found["other.seed2"] == (2, "annealing")
    assert len(found) == 5
    # With starts of their own, these arms are trained anew, and what was there is kept.
    systems = run(CHAIN, seeds=(4, 2))
    assert set(trained(fake_fairseq)) == {
        *("cross_entropy.seed2", "annealing.seed2", "other.seed2"),
    }
    assert systems["other.seed2"]["start"] == "start.seed2"


def test_arms_whose_start_is_outdated_are_left_out(run):
    run(CHAIN, seeds=(2,))
    # Not asked for, but finished: they stay.
    assert "other.seed2" in run(CHAIN)
    changed = {**CHAIN, "cross_entropy": {"flags": "--max-update 4 --lr 2 --seed 4"}}
    assert not any(name.endswith(".seed2") for name in run(changed))
    assert any("arm other seed 2: not asked for, and not" in line for line in run.said)


def test_a_few_arms_get_more_seeds_and_the_others_stay(run, fake_fairseq):
    arms = {"cross_entropy": "--criterion a", "other": "--criterion b", "third": "--criterion c"}
    run({"arms": arms}, arms=("other",))
    assert fake_fairseq.programs().count("fairseq-train") == 3  # start, control, other
    run({"arms": arms})
    assert fake_fairseq.programs().count("fairseq-train") == 1
    systems = run({"arms": arms}, arms=("third",), seeds=(2,))
    assert fake_fairseq.programs().count("fairseq-train") == 3  # start, control, third
    starts = ["start", "start.seed2"]
    finished = ["cross_entropy", "cross_entropy.seed2", "other", "third", "third.seed2"]
    assert list(systems) == [*starts, *finished]
    # They stay in the results of later runs, until they are outdated.
    assert list(run({"arms": arms})) == [*starts, *finished]
    changed = {**arms, "third": "--criterion d"}
    assert list(run({"arms": changed})) == [*starts, *finished[:-1]]
    assert any("arm third seed 2: not asked for, and not" in line for line in run.said)


def test_a_damaged_arm_that_was_not_asked_for_is_left_out(run, tmp_path):
    assert "other.seed2" in run(seeds=(2,))
    checkpoint = tmp_path / "work/arms/other.seed2/checkpoint_last.pt"
    checkpoint.write_text(checkpoint.read_text()[:-1])
    systems = run()
    assert "other.seed2" not in systems
    assert "cross_entropy.seed2" in systems
    said = next(line for line in run.said if "arm other seed 2: not asked for, and" in line)
    assert "checkpoint_last.pt was changed or cut off" in said
    assert said.endswith("left out")


def test_control_with_constant_reward_differs_in_the_reward_alone(recipe_file):
    arms = {"cross_entropy": "--criterion a", "bleu": "--criterion b", "reinforce": REWARD}
    recipe = expand(load_recipe(recipe_file(arms=arms)), seeds=(1, 2), constant_reward=True)
    assert list(recipe.arms) == [
        *("cross_entropy", "cross_entropy.seed2", "bleu", "bleu.seed2"),
        *("reinforce", "reinforce.seed2"),
        *("reinforce.constant_reward", "reinforce.constant_reward.seed2"),
    ]
    control = recipe.arms["reinforce.constant_reward"]
    assert control.flags == shlex.split(REWARD.replace("gleu", "constant"))
    assert recipe.arms["reinforce.constant_reward.seed2"].flags == [*control.flags, "--seed", "2"]
    assert control.stage == "arm reinforce.constant_reward"


@pytest.mark.parametrize("by_recipe", [True, False])
def test_control_is_trained_beside_its_arm(run, tmp_path, by_recipe):
    arms = {"cross_entropy": "--criterion a", "reinforce": REWARD, "other": "--criterion b"}
    changes = {"arms": arms, "constant_reward": by_recipe}
    systems = run(changes, constant_reward=not by_recipe)
    names = ["other", "reinforce", "reinforce.constant_reward"]
    assert list(systems) == ["start", "cross_entropy", *names]
    assert systems["reinforce.constant_reward"]["arm"] == "reinforce.constant_reward"
    write_report(tmp_path / "work")
    assert "every output has the reward 1" in (tmp_path / "work/results.md").read_text()


def test_a_recipe_with_constant_reward_may_leave_its_rewarded_arms_out(recipe_file):
    arms = {"cross_entropy": "--criterion a", "reinforce": REWARD, "other": "--criterion b"}
    recipe = load_recipe(recipe_file(arms=arms, constant_reward=True))
    assert list(expand(recipe, arms=("other",)).arms) == ["cross_entropy", "other"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (REWARD, True),
        ("--criterion stochastic_graph --cost reward --feed sample", True),
        ("--criterion=stochastic_graph --objective=minimum_risk", True),
        ("--criterion stochastic_graph --objective gumbel", False),
        ("--criterion stochastic_graph --objective reinforce --cost expected_bleu", False),
        ("--criterion expected_bleu --cost reward", False),
    ],
)
def test_arms_with_a_reward(flags, expected):
    assert has_reward(shlex.split(flags)) is expected


def test_objectives_with_a_reward_are_those_of_the_criterion(monkeypatch):
    # The file alone: the plug-in imports fairseq, which takes seconds.
    path = Path(__file__).parents[2] / "fairseq_plugins/stochastic_graph/presets.py"
    spec = importlib.util.spec_from_file_location("presets_alone", path)
    presets = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "presets_alone", presets)
    spec.loader.exec_module(presets)
    rewarded = [n for n, o in presets.OBJECTIVES.items() if o.flags.get("cost") == "reward"]
    assert rewarded == list(REWARD_OBJECTIVES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("othr",)}, "--arms: 'othr' is not an arm"),
        ({"constant_reward": True}, "none of the arms trains on a reward"),
    ],
)
def test_what_cannot_be_expanded_is_refused(recipe_file, options, message):
    with pytest.raises(ConfigError, match=message):
        expand(load_recipe(recipe_file()), **options)


def test_names_of_the_runner_are_refused(recipe_file):
    arms = {"cross_entropy": "--criterion a", "cross_entropy.seed2": "--criterion b"}
    recipe = load_recipe(recipe_file(arms=arms))
    assert list(expand(recipe).arms) == list(arms)
    with pytest.raises(ConfigError, match=r"'cross_entropy\.seed2' is what the runner calls"):
        expand(recipe, seeds=(2,))
