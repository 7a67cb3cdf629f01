import json
import shlex

import pytest
import yaml
from small_recipes import small_recipe

from recipes.errors import ConfigError
from recipes.schema.flags import check_flags, flag_value
from recipes.schema.reading import load_recipe, recipe_names


def test_packaged_recipes_are_valid():
    assert {"demo", "multi30k-de-en", "multi30k-de-en-expected-bleu"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.control == next(iter(recipe.arms))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "unknown key 'arm'; did you mean 'arms'"),
        ({"sentencepiece": {"vocab_size": 9, "typ": "bpe"}}, "sentencepiece: unknown key 'typ'"),
        ({"sentencepiece": {}}, "sentencepiece: missing key 'vocab_size'"),
        ({"sentencepiece": {"vocab_size": "many"}}, "vocab_size: expected int, found 'many'"),
        ({"sentencepiece": {"vocab_size": True}}, "vocab_size: expected int, found True"),
        ({"sentencepiece": 5}, "sentencepiece: expected a mapping"),
        ({"sentencepiece": {"vocab_size": 9, "model_type": "words"}}, "'words' is not one of"),
        ({"decoding": {"beams": []}}, "decoding.beams: expected a list with at least one"),
        ({"decoding": {"beams": [0]}}, "a beam is at least 1"),
        ({"arms": {"other": "--criterion b"}}, "control: 'cross_entropy' is not an arm"),
        ({"arms": {"cross_entropy": "", "start.a": ""}}, "'start.a': 'start' is the checkpoint"),
        (
            {"arms": {"cross_entropy": {"flags": "", "budget": "money"}}},
            "arms.cross_entropy.budget: 'money' is not one of updates, time",
        ),
        (
            {"finetune": {"flags": "--max-update 3", "checkpoint": "best"}},
            "finetune.checkpoint: 'best' is by the BLEU of validation; add --eval-bleu",
        ),
        ({"arms": {"cross_entropy": "--save-dir x"}}, "--save-dir is set by the runner"),
        ({"arms": {"cross_entropy": "--lr '1"}}, "arms.cross_entropy.flags: No closing quotation"),
        ({"arms": {"cross_entropy": "", "a b": ""}}, "'a b' becomes a file name"),
        ({"arms": {"cross_entropy": "", "b": "--max-update 9"}}, "the same updates"),
        ({"finetune": {"flags": "--lr 1"}}, "finetune.flags: give it an end"),
        ({"annealing": {"flag": "--lr 1"}}, "annealing: unknown key 'flag'; did you mean 'flags'"),
        ({"annealing": {}}, "annealing: missing key 'flags'"),
        ({"annealing": "--lr 1"}, "annealing: expected a mapping"),
        ({"annealing": {"flags": "--save-dir=x"}}, "annealing.flags: --save-dir=x is set by the"),
        ({"annealing": {"flags": "--lr '1"}}, "annealing.flags: No closing quotation"),
        ({"annealing": {"flags": "--lr 1"}}, "annealing.flags: give it an end"),
        ({"evaluation": {"selection": "comet"}}, "selection: 'comet' is not one of .*bleu, chrf"),
        ({"data": {"tests": ["train"]}}, "two splits are the same file"),
    ],
)
def test_wrong_recipe_names_the_key(recipe_file, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe_file(**changes))


# Text of a recipe file, and what is said of it.
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 5", "name: expected str, found 5"),
        ("name: ''", "name: '' becomes a file name"),
        ("name: ../x", "name: '../x' becomes a file name"),
        ("arms: {a: --lr 1}\narms: {b: --lr 1}", "line 2: .*the key 'arms' is given twice"),
        ("arms:\n  a: --lr 1\n  a: --lr 2", "line 3: .*the key 'a' is given twice"),
        ("a: [" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: [", "line 1: not valid YAML"),
        ("- a", "expected a mapping of keys at the top level"),
        (b"name: caf\xe9", "is not UTF-8 text"),
    ],
)
def test_what_is_no_recipe_has_one_message(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if "becomes" in message or "expected str" in message:
        path.write_text(f"{yaml.safe_dump(small_recipe())}{text}\n")
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(path))


OUTSIDE = "/elsewhere/.bashrc"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../runs"},
        {"source_lang": "a/b"},
        {"target_lang": ".."},
        {"arms": {"cross_entropy": "", OUTSIDE: ""}},
        {"cross_entropy": {"flags": "--max-update 1", "checkpoint": OUTSIDE}},
        {"annealing": {"flags": "--max-update 1", "checkpoint": "../../c.pt"}},
        {"finetune": {"flags": "--max-update 1", "checkpoint": OUTSIDE}},
        {"data": {"train": OUTSIDE}},
        {"data": {"valid": "../valid"}},
        {"data": {"tests": ["a/b"]}},
        {"data": {"references": {"test": ["test.en", OUTSIDE]}}},
        {"data": {"references": {"test": ["../../test.en"]}}},
        {"data": {"files": {"../a": {"address": "http://x"}}}},
        {"data": {"references": {"test": ["a/../../test.en"]}}},
        {"data": {"references": {"test": ["a//test.en"]}}},
        {"data": {"sources": {OUTSIDE: [{"text": {"de": "a", "en": "b"}}]}}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_names_that_become_files_are_file_names(recipe_file, changes):
    with pytest.raises(ConfigError, match=r"becomes a file name"):
        load_recipe(recipe_file(**changes))


@pytest.mark.parametrize("name", [OUTSIDE, "../train.de", "a/../../train.de", "", "."])
def test_text_is_read_below_the_data_dir(recipe_file, name):
    def data(name):
        return {"sources": {"train": [{"text": {"de": name, "en": "train.en"}}]}}

    with pytest.raises(ConfigError, match=r"data.sources.train: .* is no path below --data-dir"):
        load_recipe(recipe_file(data=data(name)))
    assert load_recipe(recipe_file(data=data("a b/train.de")))


def test_a_file_whose_name_is_no_plain_name_needs_a_name(tmp_path):
    path = tmp_path / "my recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe()))
    with pytest.raises(ConfigError, match=r"rename the file or give `name:`: 'my recipe' becomes"):
        load_recipe(str(path))
    path.write_text(yaml.safe_dump(small_recipe(name="mine")))
    assert load_recipe(str(path)).name == "mine"


GROUPS = {
    "task.flags": lambda flags: {"task": {"flags": flags}},
    "architecture": lambda flags: {"architecture": flags},
    "cross_entropy.flags": lambda flags: {"cross_entropy": {"flags": flags}},
    "cross_entropy.task.flags": lambda flags: {
        "cross_entropy": {"flags": "", "task": {"flags": flags}}
    },
    "annealing.flags": lambda flags: {"annealing": {"flags": f"--max-epoch 1 {flags}"}},
    "finetune.flags": lambda flags: {"finetune": {"flags": f"--max-update 1 {flags}"}},
    "arms.cross_entropy.flags": lambda flags: {"arms": {"cross_entropy": flags}},
    "decoding.flags": lambda flags: {"decoding": {"flags": flags}},
}


@pytest.mark.parametrize("group", GROUPS)
def test_flags_of_every_group_are_checked(recipe_file, group):
    with pytest.raises(ConfigError, match=rf"^{group}: --user-dir is set by the runner"):
        load_recipe(recipe_file(**GROUPS[group]("--user-dir /tmp/x")))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--user-dir /tmp/x", "--user-dir is set by the runner"),
        ("--path=x.pt", "--path=x.pt is set by the runner"),
        ("--results-path x", "--results-path is set by the runner"),
        ("-sen", "-sen is set by the runner"),
        ("--continue-once x.pt", "--continue-once is set by the runner"),
        ("""--encoder-layers '__import__("os").system("true")'""", "may run code"),
        ("""--lr='[__import__("os").system("true")]'""", "may run code"),
        ("""--lr ' (lambda: open("x", "w"))()'""", "may run code"),
        ("""--model-overrides "{'lr': '[print(1)]'}" """, "may run code"),
        ("""--lr "[a['x'] for a.__class_getitem__ in [sys.stdout.write]]" """, "may run code"),
        ("--lr os.environ", r"may run code: .* a file as \./NAME"),
        ("""--lr "f'{x!r}'" """, "may run code"),
    ],
)
def test_flags_that_load_code_or_write_elsewhere_are_refused(flags, message):
    with pytest.raises(ConfigError, match=rf"^here: .*{message}"):
        check_flags("here", shlex.split(flags))


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        *((stage, "--user-dir=/tmp/x") for stage in ("", "cross_entropy.", "annealing.")),
        *(("", name) for name in ("-x", "a b", "a/b", "", "a\n")),
    ],
)
def test_the_name_of_a_task_is_no_flag(recipe_file, stage, name):
    settings = ["annealing.flags=--max-update 2", f"{stage}task.name={json.dumps(name)}"]
    with pytest.raises(ConfigError, match=rf"^{stage}task.name: .* is no name of a task"):
        load_recipe(recipe_file(), settings)


def test_values_of_flags_that_are_data_are_taken(recipe_file):
    flags = """--adam-betas '(0.9, 0.98)' --lr 1e-4 --update-freq 1,2 --eval-bleu-args '{"beam": 1}'
    --kl-weight linear:0:1:300 --tensorboard-logdir runs/a/b --lr-scheduler=polynomial_decay
    --lexicon ./words.txt --clip-norm 2*-1.5 --model-overrides "{'betas': '[0.9, (1,)]'}"
    --reward rewards.mine:chrf"""
    found = load_recipe(recipe_file(finetune={"flags": f"--max-update 3 {flags}"})).finetune
    assert found.flags[2:] == shlex.split(flags)


def test_an_alias_stands_for_its_value(tmp_path):
    path = tmp_path / "r.yaml"
    shared = {"flags": "--max-update 1"}
    path.write_text(yaml.safe_dump(small_recipe(cross_entropy=shared, finetune=shared)))
    assert "*id001" in path.read_text()
    assert load_recipe(str(path)).finetune.flags == ["--max-update", "1"]


def test_missing_key_is_named(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("source_lang: de\n")
    with pytest.raises(ConfigError, match="missing key 'target_lang', 'sentencepiece'"):
        load_recipe(str(path))


def test_unknown_recipe_suggests_one():
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        load_recipe("dmo")


def test_set_replaces_appends_and_reads_yaml(recipe_file):
    recipe = load_recipe(
        recipe_file(),
        [
            "sentencepiece.vocab_size=50",
            "decoding.beams=[1, 4]",
            "decoding.lenpen=[0.5, 1]",
            "arms.other.flags=--criterion c",
            "arms.third.flags=--criterion d",
            "finetune.flags+=--max-update 7",
            "data.tests+=second",
        ],
    )
    assert recipe.sentencepiece.vocab_size == 50
    assert recipe.decoding.beams == [1, 4]
    assert recipe.decoding.lenpen == [0.5, 1.0]
    assert recipe.arms["other"].flags == ["--criterion", "c"]
    assert list(recipe.arms) == ["cross_entropy", "other", "third"]
    assert flag_value(recipe.finetune.flags, "--max-update") == "7"
    assert recipe.data.tests == ["test", "second"]


def test_set_finds_keys_with_dots(recipe_file):
    file = {"address": "https://example.org/a.tgz"}
    data = {"tests": ["test"], "files": {"a.b.tgz": file, "a": dict(file)}}
    sha256 = 32 * "0a"
    settings = [f"data.files.a.b.tgz.sha256={sha256}", "data.files.a.sha256=" + 32 * "0b"]
    found = load_recipe(recipe_file(data=data), settings).data.files
    assert {name: file.sha256 for name, file in found.items()} == {
        "a.b.tgz": sha256, "a": 32 * "0b",
    }  # fmt: skip


@pytest.mark.parametrize(
    "setting", ["beams", "source_lang.x=1", "sentencepiece.vocab_size+=1", "finetune.flags=[a"]
)
def test_wrong_setting_is_an_error(recipe_file, setting):
    with pytest.raises(ConfigError, match="--set"):
        load_recipe(recipe_file(), [setting])


def test_flag_value_takes_the_last():
    flags = ["--lr", "1", "--x=3", "--lr", "2"]
    assert flag_value(flags, "--lr") == "2"
    assert flag_value(flags, "--x") == "3"
    assert flag_value(flags, "--y") is None
