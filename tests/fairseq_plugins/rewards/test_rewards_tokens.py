"""Rewards of token ids: values, what each token adds, and what never matches."""

import dataclasses

import pytest
import torch
from reward_cases import dictionary_of, outputs_of, reward_of, task_of

from fairseq_plugins.rewards import Outputs

WORDS = tuple("abcdefg")
DICTIONARY = dictionary_of(*WORDS)
HYPOTHESES = ["a b c d", "a b", "", "c c c c c", "d e f g a b", "e"]
REFERENCES = ["a b c d e", "c a c", "d e f g a b"]
OUTPUTS = outputs_of(HYPOTHESES, REFERENCES, DICTIONARY)
PER_TOKEN = ("sentence_bleu", "gleu", "constant")


def reward(name: str, level: str = "tokens", **options: object):
    return reward_of(name, level, task_of(DICTIONARY), **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sentence_bleu", {}),
        ("sentence_bleu", {"smoothing": "none", "max_order": 2}),
        ("sentence_bleu", {"smoothing": "add-k-all"}),
        ("gleu", {}),
        ("gleu", {"max_order": 2}),
        ("constant", {}),
    ],
)
def test_on_words_tokens_and_text_agree(name, options):
    on_tokens = reward(name, **options)(OUTPUTS)
    on_text = reward(name, level="text", **options)(OUTPUTS)
    torch.testing.assert_close(on_tokens, on_text)
    assert on_tokens.dtype == on_text.dtype == torch.float32
    assert on_tokens[4] == 1  # the reference itself
    if name != "constant":
        assert len(set(on_tokens.tolist())) > 3


@pytest.mark.parametrize("name", PER_TOKEN)
def test_what_the_tokens_add_sums_to_the_reward(name):
    scored = reward(name)
    assert scored.per_token
    added = scored.increments(OUTPUTS)
    assert added.shape == OUTPUTS.tokens.shape
    assert added.dtype == torch.float32
    torch.testing.assert_close(added.sum(1), scored(OUTPUTS))


@pytest.mark.parametrize("sentence_end", ["ngram", "ignore"])
@pytest.mark.parametrize("name", ["sentence_bleu", "gleu"])
def test_what_the_tokens_add_up_to_is_the_reward_of_the_prefix(name, sentence_end):
    scored = reward(name, sentence_end=sentence_end)
    so_far = scored.increments(OUTPUTS).cumsum(1)
    for size in range(1, OUTPUTS.tokens.size(1) + 1):
        tokens, lengths = OUTPUTS.tokens[:, :size], OUTPUTS.lengths.clamp(max=size)
        prefixes = dataclasses.replace(OUTPUTS, tokens=tokens, lengths=lengths)
        torch.testing.assert_close(so_far[:, size - 1], scored(prefixes))


@pytest.mark.parametrize("name", ["sentence_bleu", "gleu"])
def test_a_counted_end_is_one_more_word(name):
    """As text, with the end written as a word of its own that outputs which were cut off lack."""
    on_tokens = reward(name, sentence_end="ngram")(OUTPUTS)
    words = [*WORDS, "END"]
    longer = outputs_of(
        [f"{hypothesis} END" for hypothesis in HYPOTHESES],
        [f"{reference} END" for reference in REFERENCES],
        dictionary_of(*words),
    )
    on_text = reward_of(name, "text", task_of(dictionary_of(*words)))(longer)
    torch.testing.assert_close(on_tokens, on_text)
    cut = dataclasses.replace(
        OUTPUTS, tokens=OUTPUTS.tokens[:, :4], lengths=OUTPUTS.lengths.clamp(max=4)
    )
    assert reward(name, sentence_end="ngram")(cut)[0] < on_tokens[0]  # "a b c d" without its end


@pytest.mark.parametrize("name", ["sentence_bleu", "gleu"])
@pytest.mark.parametrize("symbol", ["bos", "pad", "eos", "unk"])
def test_special_symbols_never_match(name, symbol):
    special = getattr(DICTIONARY, symbol)()
    a, b = DICTIONARY.index("a"), DICTIONARY.index("b")
    tokens = torch.tensor([[a, special, b]])
    length = torch.tensor([3])
    outputs = Outputs(tokens, length, tokens, length, tokens)
    other_word = torch.tensor([[a, DICTIONARY.index("c"), b]])
    expected = reward(name)(Outputs(other_word, length, tokens, length, tokens))
    scored = reward(name)
    assert 0 < scored(outputs).item() == expected.item() < 1
    assert scored.increments(outputs).sum().item() == pytest.approx(expected.item())
    assert outputs.tokens.equal(tokens)  # the caller's ids are left as they are


def test_what_comes_after_the_end_does_not_count():
    longer = torch.cat([OUTPUTS.tokens, OUTPUTS.tokens], dim=1)
    repeated = Outputs(
        longer,
        OUTPUTS.lengths,
        OUTPUTS.references,
        OUTPUTS.reference_lengths,
        OUTPUTS.sources,
        OUTPUTS.samples,
    )
    for name in PER_TOKEN:
        for level in ("tokens", "text"):
            scored = reward(name, level)
            assert scored(repeated).equal(scored(OUTPUTS))


def test_a_constant_is_one_for_every_output():
    assert reward("constant")(OUTPUTS).tolist() == [1] * len(HYPOTHESES)
