import hashlib

import pytest

from recipes.corpora import cldr, find
from recipes.errors import ConfigError
from recipes.schema.reading import load_recipe


@pytest.fixture(scope="module")
def demo_files():
    recipe = load_recipe("demo")
    return cldr.make(recipe, recipe.data.corpus.options)


def test_demo_has_twenty_thousand_unique_pairs_in_disjoint_splits(demo_files):
    sizes = {name: len(lines) for name, lines in demo_files.items()}
    assert sizes["train.de"] + sizes["valid.de"] + sizes["test.de"] == 20000
    for lang in ("de", "en"):
        lines = [line for s in ("train", "valid", "test") for line in demo_files[f"{s}.{lang}"]]
        assert len(set(lines)) == len(lines) == 20000


def test_same_seed_same_corpus_other_seed_another():
    first, again, other = cldr.pairs(300, 1), cldr.pairs(300, 1), cldr.pairs(300, 2)
    assert first == again
    assert not set(first) & set(other)
    # A longer draw begins with the shorter one: nothing depends on sets' order.
    assert cldr.pairs(400, 1)[:300] == first


def test_corpus_does_not_depend_on_the_hash_seed(run_python):
    code = (
        "from recipes.corpora.cldr import pairs; import hashlib; "
        "print(hashlib.sha256(repr(pairs(200, 1)).encode()).hexdigest())"
    )
    expected = hashlib.sha256(repr(cldr.pairs(200, 1)).encode()).hexdigest()
    assert {run_python(code, PYTHONHASHSEED=seed) for seed in ("0", "7")} == {expected}


def test_text_is_plain_lines(demo_files):
    for lines in demo_files.values():
        for line in lines:
            assert line == " ".join(line.split()), "no-break or double spaces"
            assert line[-1] in ".?"
            assert "None" not in line
            assert "_" not in line


def test_test_set_has_words_that_training_lacks_and_ambiguity(demo_files):
    """The task must not be solved by copying: rare words, and several wordings for one meaning."""
    seen = {word for line in demo_files["train.en"] for word in line.split()}
    counts: dict[str, int] = {}
    for line in demo_files["train.en"]:
        for word in line.split():
            counts[word] = counts.get(word, 0) + 1
    rare = [word for word in seen if counts[word] <= 3]
    assert len(seen) > 3000
    assert len(rare) > 500
    text = " ".join(demo_files["train.en"])
    for one, other in (
        (" starts ", " begins "),
        (" mainly ", " above all "),
        (" shop ", " store "),
    ):
        assert text.count(one) > 20
        assert text.count(other) > 20


def test_inflection_and_word_order(demo_files):
    german = " ".join(demo_files["train.de"])
    for form in ("ein altes", "einen alten", "eine alte", "der Schweiz", "die Schweiz"):
        assert f" {form} " in german
    assert " Tagen " in german
    assert " Tage " in german


def test_wrong_options_are_named():
    recipe = load_recipe("demo")
    with pytest.raises(ConfigError, match=r"unknown \['sede'\]"):
        cldr.make(recipe, {"sede": 1})
    with pytest.raises(ConfigError, match="unknown 'cdlr'; did you mean 'cldr'"):
        find("cdlr")
    recipe.target_lang = "fr"
    with pytest.raises(ConfigError, match="not de and fr"):
        cldr.make(recipe, {})
