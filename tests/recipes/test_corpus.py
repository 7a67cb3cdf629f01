import hashlib
import re

import pytest

from recipes.corpora import cldr
from recipes.errors import ConfigError
from recipes.schema.reading import load_recipe


@pytest.fixture(scope="module")
def demo_files():
    recipe = load_recipe("demo")
    return cldr.make(recipe, recipe.data.corpus.options)


def test_no_sentence_is_in_two_splits_or_twice_in_one(demo_files):
    sizes = load_recipe("demo").data.corpus.options
    assert sizes["test"] >= 2000
    for lang in ("de", "en"):
        splits = [demo_files[f"{split}.{lang}"] for split in ("train", "valid", "test")]
        assert [len(lines) for lines in splits] == [sizes["train"], sizes["valid"], sizes["test"]]
        assert len({line for lines in splits for line in lines}) == sum(map(len, splits))


def test_same_seed_same_corpus_other_seed_another():
    first, other = cldr.pairs(300, 1), cldr.pairs(300, 2)
    assert len(set(first) & set(other)) < 3
    # A longer draw begins with the shorter one.
    assert cldr.pairs(400, 1)[:300] == first


def test_corpus_does_not_depend_on_the_hash_seed(run_python):
    code = (
        "from recipes.corpora.cldr import pairs; import hashlib; "
        "print(hashlib.sha256(repr(pairs(200, 1)).encode()).hexdigest())"
    )
    expected = hashlib.sha256(repr(cldr.pairs(200, 1)).encode()).hexdigest()
    assert {run_python(code, PYTHONHASHSEED=seed) for seed in ("0", "7")} == {expected}


def test_text_is_plain_sentences(demo_files):
    for lines in demo_files.values():
        for line in lines:
            assert line == " ".join(line.split()), "no-break or double spaces"
            assert re.fullmatch(r"[^\W\d_a-zà-ÿ].*[.?]|\d.*[.?]", line), "begins like a sentence"
            assert not re.search(r"None|[][{}|_=#]", line), "left over from the patterns"


def test_english_has_several_wordings_for_one_german(demo_files):
    """What a model that chooses all words at once has to decide between."""
    text = "\n".join(demo_files["train.en"])
    for one, other in (
        (r" starts ", r" begins "),
        (r"^On \w+day, ", r" on \w+day[.?]$"),
        (r" March \d+, \d{4}", r" \d+ March \d{4}"),
        (r"^In \d+ \w+, ", r" in \d+ \w+\.$"),
        (r"€\d+ ", r" \d+ euros "),
        (r"^Because ", r" because "),
    ):
        assert len(re.findall(one, text, re.MULTILINE)) > 20
        assert len(re.findall(other, text, re.MULTILINE)) > 20


def test_pairs_say_the_same(demo_files):
    """Numbers, years and names of people stand on both sides."""
    people = set(cldr._WOMEN.split()) | set(cldr._MEN.split())
    for german, english in zip(demo_files["test.de"], demo_files["test.en"], strict=True):
        assert people & set(german.split()) == people & set(english.split())
        assert re.findall(r"\b\d{4}\b", german) == re.findall(r"\b\d{4}\b", english)
        assert ("?" in german) == ("?" in english)


def test_inflection(demo_files):
    german = " ".join(demo_files["train.de"])
    for form in ("ein altes Buch", "einen alten Tisch", "die alten Bücher"):
        assert form in german
    assert " vor 3 Tagen " in german
    assert re.search(r" \d+ alte \w+ ", german)
    assert " an old book " in " ".join(demo_files["train.en"])


def test_wrong_options_are_named():
    recipe = load_recipe("demo")
    with pytest.raises(ConfigError, match=r"unknown \['sede'\]"):
        cldr.make(recipe, {"sede": 1})
    with pytest.raises(ConfigError, match=r"data.corpus.name: 'cdlr' is not one of cldr"):
        load_recipe("demo", ["data.corpus.name=cdlr"])
    recipe.target_lang = "fr"
    with pytest.raises(ConfigError, match="not de and fr"):
        cldr.make(recipe, {})
