"""Settings of a reward that cannot work are refused with the flag and the fix."""

import pytest
import torch
from reward_cases import dictionary_of, outputs_of, reward_of, task_of

from fairseq_plugins.rewards import Reward, reward_help, reward_names
from fairseq_plugins.rewards.reward import REWARDS

DICTIONARY = dictionary_of("a", "b")


def build(name: str = "chrf", level: str = "text", **options: object):
    return reward_of(name, level, task_of(DICTIONARY), **options)


def test_every_name_gives_a_reward_on_text():
    outputs = outputs_of(["a b", "a"], ["a b"], DICTIONARY)
    assert reward_names() == ("chrf", "constant", "gleu", "sentence_bleu", "ter")
    for name in reward_names():
        perfect, worse = build(name)(outputs).tolist()
        assert perfect == pytest.approx(1)
        assert worse <= perfect


def test_a_registered_class_is_found_and_listed(monkeypatch):
    """A new reward takes one class: its name, its level and its line of help."""
    registry = REWARDS["text"]
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))

    @registry.register("length")
    class Length(Reward):
        """Tokens before the end, 100% of them."""

        def __call__(self, outputs):
            return outputs.lengths.float()

    assert "length (Tokens before the end, 100%% of them)" in reward_help()
    assert build("length")(outputs_of(["a b", "a"], ["a b"], DICTIONARY)).tolist() == [2, 1]
    with pytest.raises(ValueError, match="--reward length is not defined on tokens"):
        build("length", "tokens")


@pytest.mark.parametrize("name", ["chrf", "ter"])
def test_metrics_of_text_are_refused_on_tokens(name):
    with pytest.raises(
        ValueError,
        match=f"--reward {name} is not defined on tokens: set --reward-level text, or choose one "
        "of constant, gleu, sentence_bleu",
    ):
        build(name, "tokens")


def test_a_user_function_is_refused_on_tokens():
    with pytest.raises(ValueError, match="--reward os:getcwd takes text: set --reward-level text"):
        build("os:getcwd", "tokens")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "bleu"}, "--reward must be one of chrf, .*, or module:function; got 'bleu'"),
        ({"level": "words"}, "--reward-level must be one of tokens, text; got 'words'"),
        ({"reward_workers": -1}, "--reward-workers must be at least 0; got -1"),
        ({"max_order": 0}, "--max-order must be an integer of at least 1; got 0"),
        ({"smoothing": "exp"}, "--smoothing must be one of none, .*; got 'exp'"),
        (
            {"reward_remove_bpe": "bytes"},
            "--reward-remove-bpe must be sentencepiece, .*; got 'bytes'",
        ),
        ({"reward_detok": "spaces"}, "--reward-detok must be space, .*; got 'spaces'"),
        ({"reward_detok_args": "{"}, "--reward-detok-args must be a JSON object .*; got '{'"),
        ({"reward_detok_args": "[]"}, r"--reward-detok-args must be a JSON object .*; got \[\]"),
        (
            {"name": "gleu", "reward_sacrebleu_tokenizer": "14a"},
            "--reward-sacrebleu-tokenizer must be one of .*13a.*; got '14a'",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_text_without_a_dictionary_of_the_source_is_refused():
    task = task_of(DICTIONARY)
    task.source_dictionary = None
    with pytest.raises(ValueError, match="--reward-level text needs a task with a source dict"):
        reward_of("chrf", "text", task)


@pytest.mark.parametrize("name", ["sentence_bleu", "gleu", "chrf", "ter"])
def test_reward_to_go_on_text_is_refused(name):
    scored = build(name)
    assert not scored.per_token
    with pytest.raises(
        ValueError, match=f"--credit reward_to_go .* --reward {name} with --reward-level text"
    ):
        scored.increments(outputs_of(["a"], ["b"], DICTIONARY))


def test_a_constant_tells_what_each_token_adds_on_either_level():
    outputs = outputs_of(["a b", ""], ["a b"], DICTIONARY)
    for level in ("tokens", "text"):
        added = build("constant", level).increments(outputs)
        assert added.sum(1).equal(torch.ones(2))
