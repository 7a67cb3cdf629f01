"""Settings that cannot work are refused with the name of the flag."""

import pytest
from fairseq.models import FairseqLanguageModel
from fairseq_setup import setup


@pytest.mark.parametrize(
    ("option", "value", "flag"),
    [
        ("max_order", 0, "--max-order"),
        ("max_order", 5000, "--max-order"),
        ("cross_entropy_weight", float("inf"), "--cross-entropy-weight"),
        ("cross_entropy_weight", -0.1, "--cross-entropy-weight"),
        ("label_smoothing", -0.1, "--label-smoothing"),
        ("label_smoothing", 1.0, "--label-smoothing"),
        ("max_decode_length", 0, "--max-decode-length"),
        ("max_decode_ratio", -1.0, "--max-decode-ratio"),
        ("ignore_prefix_size", -1, "--ignore-prefix-size"),
        ("cross_entropy_weight", float("nan"), "--cross-entropy-weight"),
    ],
)
def test_a_value_out_of_range_is_refused(corpus, option, value, flag):
    with pytest.raises(ValueError, match=f"{flag} must be .*{value}"):
        setup(corpus, **{option: value})


@pytest.mark.parametrize(
    "flag", ["--overlap", "--feed", "--hypothesis-length", "--bleu-level", "--smoothing"]
)
def test_an_unknown_choice_is_refused(corpus, capsys, flag):
    with pytest.raises(SystemExit):
        setup(corpus, flags=(flag, "nonsense"))
    assert f"argument {flag}: invalid choice: 'nonsense'" in capsys.readouterr().err


def test_an_adaptive_softmax_is_refused(corpus):
    built = setup(corpus, flags=("--adaptive-softmax-cutoff", "8,12"))
    with pytest.raises(ValueError, match="--adaptive-softmax-cutoff"):
        built.criterion(built.model, built.batch(0, 1))


def test_a_language_model_is_refused(corpus):
    built = setup(corpus)
    language_model = FairseqLanguageModel(built.model.decoder)
    with pytest.raises(ValueError, match="encoder-decoder --arch"):
        built.criterion(language_model, built.batch(0, 1))
