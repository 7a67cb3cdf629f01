"""Rewards of text are sacrebleu's scores of the text that the ids stand for."""

import pytest
import sacrebleu
from fairseq.data import encoders
from reward_cases import dictionary_of, outputs_of, reward_of, task_of

from fairseq_plugins.rewards.reward import RewardOptions
from fairseq_plugins.rewards.text_rewards import UNKNOWN_IN_HYPOTHESIS, UNKNOWN_IN_REFERENCE, Texts

# Pieces of sentencepiece; "▁" starts a word, and 13a splits the full stop off.
PIECES = dictionary_of(
    *("▁the", "▁a", "▁c", "at", "▁dog", "s", "▁sat", "▁lay", "▁on", "▁mat", "▁slow", "ly", ".")
)
HYPOTHESES = [
    "▁the ▁c at ▁sat ▁on ▁the ▁mat .",
    "▁the ▁dog s ▁sat .",
    "▁a ▁c at ▁lay",
    "",
    "▁the ▁dog ▁lay ▁slow ly ▁on ▁a ▁mat . . . .",
    ".",
]
REFERENCES = [
    "▁the ▁c at ▁lay ▁on ▁the ▁mat .",
    "▁a ▁c at ▁lay",
    "▁dog s .",
]
OUTPUTS = outputs_of(HYPOTHESES, REFERENCES, PIECES)
PAIRS = [
    (hypothesis.replace(" ", "").replace("▁", " ").strip(), reference)
    for hypothesis, reference in zip(
        HYPOTHESES,
        [
            *["the cat lay on the mat."] * 2,
            *["a cat lay"] * 2,
            *["dogs."] * 2,
        ],
        strict=True,
    )
]


def reward(name: str, **options: object):
    settings = {"reward_remove_bpe": "sentencepiece", **options}
    return reward_of(name, "text", task_of(PIECES), **settings)


def texts(task, **options: object) -> Texts:
    return Texts(RewardOptions(task, "chrf", "text", **options))


def test_sentence_bleu_is_that_of_sacrebleu():
    metric = sacrebleu.BLEU(smooth_method="add-k", smooth_value=1, effective_order=True)
    expected = [metric.sentence_score(h, [y]).score / 100 for h, y in PAIRS]
    assert reward("sentence_bleu")(OUTPUTS).tolist() == pytest.approx(expected, abs=1e-7)
    assert expected[2] == pytest.approx(1)  # a perfect output of fewer words than orders
    assert len(set(expected)) > 3


def test_chrf_is_that_of_sacrebleu():
    expected = [sacrebleu.CHRF().sentence_score(h, [y]).score / 100 for h, y in PAIRS]
    assert reward("chrf")(OUTPUTS).tolist() == pytest.approx(expected, abs=1e-7)
    assert expected[2] == pytest.approx(1)


def test_ter_is_one_minus_that_of_sacrebleu():
    expected = [1 - sacrebleu.TER().sentence_score(h, [y]).score / 100 for h, y in PAIRS]
    assert reward("ter")(OUTPUTS).tolist() == pytest.approx(expected, abs=1e-7)
    assert expected[2] == 1
    assert min(expected) < 0  # not clamped


def test_gleu_follows_from_the_counts_of_sacrebleu():
    expected = []
    for hypothesis, reference in PAIRS:
        score = sacrebleu.BLEU(smooth_method="none", effective_order=True).sentence_score(
            hypothesis, [reference]
        )
        in_reference = sum(max(score.ref_len - shorter, 0) for shorter in range(4))
        expected.append(sum(score.counts) / max(sum(score.totals), in_reference))
    assert reward("gleu")(OUTPUTS).tolist() == pytest.approx(expected, abs=1e-7)
    assert expected[2] == 1


def test_the_tokenisation_is_the_one_asked_for():
    characters = sacrebleu.BLEU(
        tokenize="char", smooth_method="add-k", smooth_value=1, effective_order=True
    )
    expected = [characters.sentence_score(h, [y]).score / 100 for h, y in PAIRS]
    scores = reward("sentence_bleu", reward_sacrebleu_tokenizer="char")(OUTPUTS)
    assert scores.tolist() == pytest.approx(expected, abs=1e-7)
    assert scores.tolist() != reward("sentence_bleu")(OUTPUTS).tolist()


@pytest.mark.parametrize("name", ["sentence_bleu", "gleu", "chrf", "ter"])
@pytest.mark.parametrize("tokenizer", ["13a", "intl"])
def test_unknown_words_never_match(name, tokenizer):
    scored = reward(name, reward_remove_bpe=None, reward_sacrebleu_tokenizer=tokenizer)
    unknown = scored(outputs_of(["▁the ??"], ["▁the ??"], PIECES))
    assert unknown.item() < 1
    # What stands on the two sides has no character in common.
    assert scored(outputs_of(["??"], ["??"], PIECES)).item() == 0


def test_the_text_is_what_fairseq_makes_of_the_ids():
    source = dictionary_of("der", "hu@@", "nd", "bellt")
    target = dictionary_of("the", "do@@", "g", "barks")
    outputs = outputs_of(
        ["the do@@ g barks", "the ?? g", "", "barks do@@"],
        ["the do@@ g", "?? barks"],
        target,
        sources=["der hu@@ nd bellt", "?? nd"],
        source_dictionary=source,
    )
    made = texts(task_of(target, source), reward_remove_bpe="subword_nmt")
    assert made.hypotheses(outputs) == [
        "the dog barks",
        f"the {UNKNOWN_IN_HYPOTHESIS} g",
        "",
        "barks do",
    ]
    # References and sources stand once for each of the two samples.
    assert made.references(outputs) == [
        *["the dog"] * 2,
        *[f"{UNKNOWN_IN_REFERENCE} barks"] * 2,
    ]
    assert made.sources(outputs) == [*["der hund bellt"] * 2, *[f"{UNKNOWN_IN_REFERENCE} nd"] * 2]


@encoders.register_tokenizer("shouting")
class Shouting:
    """A detokeniser whose work is seen, and for which language."""

    def __init__(self, options):
        self.mark = f" [{options.target_lang}{getattr(options, 'mark', '')}]"

    def decode(self, text: str) -> str:
        return text.upper() + self.mark


def test_the_detokeniser_gets_its_options_and_each_side_its_language():
    words = dictionary_of("a", "b")
    outputs = outputs_of(["a"], ["b"], words)
    made = texts(task_of(words), reward_detok="shouting", reward_detok_args='{"mark": "!"}')
    assert made.hypotheses(outputs) == ["A [en!]"]
    assert made.references(outputs) == ["B [en!]"]
    assert made.sources(outputs) == ["B [de!]"]
