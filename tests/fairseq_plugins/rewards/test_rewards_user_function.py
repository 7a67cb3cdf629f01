"""``--reward module:function`` calls the user's function, and says what is wrong with it."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from reward_cases import dictionary_of, outputs_of, reward_of, task_of

DICTIONARY = dictionary_of("a@@", "b", "c")
OUTPUTS = outputs_of(
    ["a@@ b c", "c", "b", "b b"], ["a@@ b", "c c"], DICTIONARY, sources=["c b", "b"]
)

REWARDS = """
import torch

calls = []

def length_ratio(hypotheses, references, sources):
    calls.append((hypotheses, references, sources, torch.is_grad_enabled()))
    return [len(h.split()) / len(r.split()) for h, r in zip(hypotheses, references)]

not_a_function = 3
"""


@pytest.fixture
def working_directory(tmp_path, monkeypatch):
    """A folder with a module of rewards, which Python knows only as the working directory."""
    (tmp_path / "rewards_of_a_user.py").write_text(REWARDS, encoding="utf-8")
    (tmp_path / "broken_rewards.py").write_text("import no_such_library\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    yield tmp_path
    sys.modules.pop("rewards_of_a_user", None)


def reward(name: str, **options: object):
    return reward_of(name, "text", task_of(DICTIONARY), reward_remove_bpe="@@ ", **options)


def test_a_function_of_the_working_directory_gets_text_and_gives_rewards(working_directory):
    scored = reward("rewards_of_a_user:length_ratio")
    rewards = scored(OUTPUTS)
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == [2, 1, 0.5, 1]
    assert sys.modules["rewards_of_a_user"].calls == [
        (
            ["ab c", "c", "b", "b b"],
            ["ab", "ab", "c c", "c c"],
            ["c b", "c b", "b", "b"],
            False,  # without gradient
        )
    ]
    assert not scored.per_token


def test_an_installed_module_wins_over_a_file_of_the_same_name(working_directory, monkeypatch):
    (working_directory / "colorsys.py").write_text("rgb_to_hsv = None", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    reward("colorsys:rgb_to_hsv")  # the file has nothing to call under that name
    assert sys.modules["colorsys"].__file__ != str(working_directory / "colorsys.py")


def test_the_example_of_the_documentation_works(working_directory):
    page = Path(__file__).parents[3] / "docs" / "rewards.md"
    example = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert example.startswith("# my_rewards.py\n")
    (working_directory / "my_rewards.py").write_text(example, encoding="utf-8")
    rewards = reward("my_rewards:chrf_plus_plus")(OUTPUTS)
    expected = sacrebleu.sentence_chrf("ab c", ["ab"], word_order=2).score / 100
    assert rewards[0].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "cannot import no_such_module"),
        ("broken_rewards:f", "cannot import broken_rewards (No module named 'no_such_library')"),
        ("rewards_of_a_user:f", "rewards_of_a_user.py) has no function f"),
        ("rewards_of_a_user:not_a_function", "has, but cannot call, not_a_function"),
        ("rewards_of_a_user:", "write module:function"),
        (":length_ratio", "write module:function"),
    ],
)
def test_what_cannot_be_found_is_named(working_directory, name, message):
    with pytest.raises(ValueError, match=rf"--reward {name}: .*{re.escape(message)}"):
        reward(name)


@pytest.mark.parametrize(
    "result",
    [
        (1, 0.5, 0, -2),
        np.array([1, 0.5, 0, -2], dtype=np.float32),
        torch.tensor([1, 0.5, 0, -2], dtype=torch.float64),
    ],
)
def test_any_sequence_of_numbers_will_do(monkeypatch, result):
    monkeypatch.setattr("reward_cases.answer", lambda *_: result, raising=False)
    assert reward("reward_cases:answer")(OUTPUTS).tolist() == [1, 0.5, 0, -2]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0, 2.0], "a number for each of 4 hypotheses; got 2"),
        (
            [0.0, float("nan"), 0.0, 0.0],
            "finite in float32; got nan for hypothesis 1: 'c'",
        ),
        (
            [0.0, 0.0, 0.0, float("inf")],
            "finite in float32; got inf for hypothesis 3: 'b b'",
        ),
        ([0.0, 0.0, 1e39, 0.0], "finite in float32; got 1e+39 for hypothesis 2"),
        (None, "a sequence of numbers, one for each hypothesis; got NoneType"),
        (0.5, "a sequence of numbers, one for each hypothesis; got float"),
        (torch.tensor(0.5), "a sequence of numbers, one for each hypothesis; got float"),
        (["high"] * 4, "a sequence of numbers, one for each hypothesis; got list"),
        ({"scores": [0] * 4}, "a sequence of numbers, one for each hypothesis; got dict"),
    ],
)
def test_what_is_wrong_with_the_result_is_named(monkeypatch, result, message):
    monkeypatch.setattr("reward_cases.answer", lambda *_: result, raising=False)
    with pytest.raises(
        ValueError, match=rf"--reward reward_cases:answer must .*{re.escape(message)}"
    ):
        reward("reward_cases:answer")(OUTPUTS)


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), SystemExit(0), KeyError(3)])
def test_what_the_function_raises_ends_the_run_with_an_error(monkeypatch, error):
    """fairseq would leave the batch out, or end as if all was well."""

    def failing(*_):
        raise error

    def failing_later(*_):
        yield 1.0
        raise error

    for function in (failing, failing_later):
        monkeypatch.setattr("reward_cases.answer", function, raising=False)
        message = rf"--reward reward_cases:answer raised {type(error).__name__}: .*{error.args[0]}"
        with pytest.raises(ValueError, match=message):
            reward("reward_cases:answer")(OUTPUTS)
