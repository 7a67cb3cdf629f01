"""Recipes of models that fill all positions at once: task translation_lev, without a beam."""

import json
import shlex
from pathlib import Path

import pytest
from fairseq import options
from small_recipes import small_recipe

import fairseq_plugins  # noqa: F401  registers its architectures
from recipes.errors import ConfigError
from recipes.fairseq_commands.commands import generate_command, train_command
from recipes.pipeline import run_recipe
from recipes.reporting.report import markdown
from recipes.running.layout import Layout
from recipes.running.run import Run
from recipes.running.trained_arms import expand
from recipes.schema.flags import without_flag
from recipes.schema.reading import load_recipe
from recipes.schema.recipe import Task

ONE_PASS = "--max-tokens 2000 --iter-decode-max-iter 0"
ITERATIVE = {
    "task": {"name": "translation_lev", "flags": "--noise full_mask"},
    "decoding": {"beams": [1], "flags": ONE_PASS},
}


def test_task_is_a_name_or_a_name_with_flags(recipe_file):
    assert load_recipe(recipe_file()).task == Task("translation", [])
    settings = ["decoding.beams=[1]", "task=translation_lev"]
    assert load_recipe(recipe_file(), settings).task == Task("translation_lev", [])
    assert load_recipe(recipe_file(**ITERATIVE)).task.flags == ["--noise", "full_mask"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoding": {"beams": [1, 5]}},
            "without beam and length penalty; write 'beams: \\[1\\]'",
        ),
        ({"decoding": {"beams": [1], "lenpen": [1, 2]}}, "--iter-decode-max-iter 0 is one pass"),
        ({"task": {"flags": "--cpu"}}, "task.flags: --cpu is set by the runner"),
        (
            {"cross_entropy": {"flags": "", "task": {"flags": "--cpu"}}},
            "cross_entropy.task.flags: --cpu is set by the runner",
        ),
        (
            {"finetune": {"flags": "--max-update 2", "task": "translation"}},
            "finetune.task: .*; give it as task",
        ),
        ({"task": {"nam": "x"}}, "task: unknown key 'nam'; did you mean 'name'"),
    ],
)
def test_what_such_a_task_does_not_have_is_refused(recipe_file, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe_file(**{**ITERATIVE, **changes}))


def test_commands_of_the_multi30k_recipe_are_those_of_fairseq():
    recipe = load_recipe("multi30k-de-en-nat")
    layout = Layout(expand(recipe), Path("work"), Path("text"))
    assert recipe.annealing is not None
    trainings = [recipe.annealing.completed(), recipe.arm_flags("nat_loss")]
    for flags in trainings:
        words = train_command(recipe, layout.binarized, Path("save"), flags).arguments
        given = without_flag(list(map(str, words)), "--user-dir")  # imported above
        args = options.parse_args_and_arch(options.get_training_parser(), input_args=given)
        assert (args.task, args.noise) == ("translation_lev", "full_mask")
        assert args.src_embedding_copy is True
        assert args.label_smoothing == 0.1
    command = generate_command(
        *(Path("c.pt"), layout.binarized, recipe.languages, "test", 1, 1.0),
        *(recipe.decoding.flags, False, recipe.task),
    )
    words = list(map(str, command.arguments))
    assert not {"--beam", "--lenpen"} & set(words)
    args = options.parse_args_and_arch(options.get_generation_parser(), input_args=words)
    assert args.task == "translation_lev"
    assert (args.iter_decode_max_iter, args.iter_decode_eos_penalty) == (0, 0)


def test_the_first_stages_may_have_a_task_of_their_own(
    fake_fairseq, recipe_file, data_dir, tmp_path
):
    stage = {"flags": "--lr 1 --max-update 2", "task": "translation"}
    recipe = load_recipe(recipe_file(**{**ITERATIVE, "cross_entropy": stage}))
    run_recipe(Run(recipe, tmp_path / "work", data_dir, lambda line: None))
    tasks = [call[call.index("--task") + 1] for call in fake_fairseq.calls()[1:]]
    assert tasks[0] == "translation"
    assert set(tasks[1:]) == {"translation_lev"}


def test_an_iterative_recipe_runs_to_its_report(fake_fairseq, recipe_file, data_dir, tmp_path):
    recipe = load_recipe(recipe_file(**ITERATIVE))
    said: list[str] = []
    assert run_recipe(Run(recipe, tmp_path / "work", data_dir, said.append))
    calls = fake_fairseq.calls()
    for call in calls[1:]:
        task = call.index("--task")
        assert call[task + 1 : task + 4] == ["translation_lev", "--noise", "full_mask"]
        assert "--beam" not in call
    assert sum(call[0] == "fairseq-generate" for call in calls) == 6
    assert any("decode start test: start" in line for line in said)
    results = json.loads((tmp_path / "work/results.json").read_text())
    assert results["searches"] == {"1": "one pass"}
    report = markdown(results, None, "results.json")
    assert "## test, one pass: differences to" in report
    assert "greedy" not in report


def test_the_number_of_passes_names_the_search(fake_fairseq, recipe_file, data_dir, tmp_path):
    changes = {"decoding": {"beams": [1], "flags": "--iter-decode-max-iter 9"}}
    recipe = load_recipe(recipe_file(**{**ITERATIVE, **changes}))
    run_recipe(Run(recipe, tmp_path / "work", data_dir, lambda line: None))
    results = json.loads((tmp_path / "work/results.json").read_text())
    assert results["searches"] == {"1": "up to 10 passes"}


def test_flags_of_an_arm_come_last_and_decoding_names_no_architecture(recipe_file):
    arms = {"cross_entropy": "--criterion a", "wide": "--criterion b --arch other --wide 3"}
    recipe = load_recipe(recipe_file(arms=arms))
    words = list(train_command(recipe, Path("b"), Path("s"), recipe.arm_flags("wide")).arguments)
    assert words[words.index("--arch") :][:2] == ["--arch", "transformer"]
    last = len(words) - 1 - words[::-1].index("--arch")
    assert words[last : last + 4] == ["--arch", "other", "--wide", "3"]
    search = (Path("c.pt"), Path("b"), recipe.languages, "test", 1, 1.0, ["--max-tokens", "9"])
    assert "--arch" not in generate_command(*search).arguments


def test_fairseq_takes_the_architecture_of_the_arm():
    first = small_recipe()["architecture"]
    for later in ("lstm", "transformer_iwslt_de_en"):
        words = shlex.split(f"data --task translation {first} --arch {later}")
        args = options.parse_args_and_arch(options.get_training_parser(), input_args=words)
        assert args.arch == later
