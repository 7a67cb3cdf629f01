"""Recipes composed of base files."""

import re
from pathlib import Path

import pytest
import yaml
from small_recipes import small_recipe

from recipes.__main__ import main
from recipes.errors import ConfigError
from recipes.schema.flags import flag_value, with_flags
from recipes.schema.reading import composed, load_recipe, recipe_names

PAGE = (Path(__file__).parents[2] / "docs/recipes.md").read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file and returns its path."""

    def written(content, name="mine.yaml"):
        path = tmp_path / name
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


@pytest.mark.parametrize("name", recipe_names())
def test_what_show_prints_is_the_whole_recipe(name, write, capsys):
    assert main(["show", name]) == 0
    printed = capsys.readouterr().out
    assert "defaults:" not in printed
    assert "flags+" not in printed
    copy = load_recipe(write(printed, f"{name}.yaml"))
    assert copy == load_recipe(name)


def test_show_takes_settings(capsys):
    settings = ["--set", "decoding.beams=[7]", "--set", "finetune.flags+=--lr 7"]
    assert main(["show", "iwslt14-de-en", *settings]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["decoding"]["beams"] == [7]
    assert shown["finetune"]["flags"].endswith("--lr 7")
    assert main(["show", "iwslt14-de-en", "--set", "decoding.beam=7"]) == 1
    assert "unknown key 'beam'; did you mean 'beams'" in capsys.readouterr().err


def test_one_name_may_stand_for_the_files_of_both_languages(write):
    source = {"text": "a/train.{lang}.gz"}
    recipe = small_recipe(data={"sources": {"train": [source]}})
    (found,) = load_recipe(write(recipe)).data.sources["train"]
    assert found.text == {"de": "a/train.de.gz", "en": "a/train.en.gz"}


def test_a_new_language_pair_is_a_few_lines(write):
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    example = next(text for text in examples if "defaults:" in text)
    assert len(example.splitlines()) <= 30
    recipe = load_recipe(write(example))
    other = load_recipe("iwslt14-de-en")
    assert recipe.languages == ("nl", "en")
    for key in ("cross_entropy", "annealing", "arms", "decoding", "evaluation", "architecture"):
        assert getattr(recipe, key) == getattr(other, key)
    flags = recipe.finetune.flags
    assert flag_value(flags, "--max-update") == "2000"
    assert flags.count("--max-update") == 1
    assert set(with_flags(flags, ["--max-update", "1000"])) == set(other.finetune.flags)


def test_the_recipe_comes_after_its_bases_and_the_settings_after_it(write):
    write({"arms": {"a": "--lr 1", "b": {"flags": "--lr 2"}}, "fp16": True}, "one.yaml")
    write({"defaults": ["one.yaml"], "arms": {"b": {"description": "two"}}}, "two.yaml")
    own = {"defaults": ["two.yaml"], "control": "a", "arms": {"a": "--lr 3", "c": "--lr 4"}}
    own |= {"data": {"tests": ["test"]}}
    recipe = {k: v for k, v in small_recipe().items() if k not in ("arms", "data")} | own
    found = load_recipe(write(recipe), ["arms.b.flags+=--x 1", "data.tests+=more"])
    assert {name: arm.flags for name, arm in found.arms.items()} == {
        "a": ["--lr", "3"], "b": ["--lr", "2", "--x", "1"], "c": ["--lr", "4"],
    }  # fmt: skip
    assert found.arms["b"].description == "two"
    assert (found.fp16, found.data.tests) == (True, ["test", "more"])


def test_added_flags_take_the_place_of_those_of_the_base():
    flags = ["--lr", "1", "--update-freq=2", "--seed", "-1", "--fp", "--betas", "(0, 1)"]
    assert with_flags(flags, ["--update-freq", "3", "--lr=2", "--new"]) == [
        *("--lr=2", "--update-freq", "3", "--seed", "-1", "--fp", "--betas", "(0, 1)", "--new")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"defaults": ["iwst"]}, r"there is no base 'iwst'; did you mean 'iwslt'\? \(bases: ann"),
        ({"defaults": ["../demo"]}, "there is no base"),
        ({"defaults": ["gone.yaml"]}, "base gone.yaml: the file does not exist"),
        ({"defaults": "iwslt"}, "defaults: expected a list of names, found 'iwslt'"),
        ({"defaults": ["mine.yaml"]}, "'mine.yaml' is a base of itself"),
        ({"defaults": ["iwslt"], "finetun": {}}, "unknown key 'finetun'; did you mean 'finetune'"),
        (
            {**small_recipe(), "defaults": ["iwslt"], "cross_entropy": {"flag": "x"}},
            "cross_entropy: unknown key 'flag'",
        ),
        ({"defaults": ["iwslt"], "data": {"lowercase+": True}}, "data: lowercase.: no base has"),
        ({"defaults": ["iwslt"], "finetune": {"flags+": "--lr '1"}}, "No closing quotation"),
        ({"defaults": ["iwslt"], "finetune": {"flags": "", "flags+": ""}}, "together with 'flags'"),
        ("defaults: [iwslt]\nfp16: true\nfp16: true\n", "line 3: .*'fp16' is given twice"),
        ({"flags+": "--lr 1"}, r"unknown key 'flags\+'"),
    ],
)
def test_what_cannot_be_composed_is_named(write, content, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(content))


def test_text_that_looks_like_a_reference_stays_text(write):
    for text in ("costs ${HOME} ${oc.env:HOME}", "${x and more"):
        recipe = {"defaults": ["finetune"], **small_recipe(description=text)}
        assert composed(write(recipe))["description"] == text


def test_keys_that_are_no_text_are_keys_like_others(write):
    write(small_recipe(), "base.yaml")
    recipe = {"defaults": ["base.yaml"], "arms": {1: "--lr 1"}}
    assert load_recipe(write(recipe)).arms["1"].flags == ["--lr", "1"]


def test_an_arm_of_the_base_can_be_left_out(write):
    write(small_recipe(), "base.yaml")
    found = load_recipe(write({"defaults": ["base.yaml"], "arms": {"other": None}}))
    assert list(found.arms) == ["cross_entropy"]
    with pytest.raises(ConfigError, match=r"arms\.othr: expected a mapping of keys, found None"):
        load_recipe(write({"defaults": ["base.yaml"], "arms": {"othr": None}}))
