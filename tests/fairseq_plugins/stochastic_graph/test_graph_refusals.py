"""Combinations of flags that would not do what they say are refused, and both flags are named."""

import pytest
import torch
from fairseq_setup import graph_criterion, setup

from fairseq_plugins.stochastic_graph.state_size import decoder_state_size

REWARD = {"objective": "reinforce"}
CANDIDATES = {"objective": "minimum_risk"}
SAMPLED_ROWS = {"feed": "sample", "cost": "expected_bleu"}

REFUSED = [
    ({"teacher_forcing": "0.5"}, "--teacher-forcing 0.5", "--feed teacher"),
    ({"teacher_prefix": "3"}, "--teacher-prefix 3", "--feed teacher"),
    ({"unroll": "two_pass"}, "--unroll two_pass", "--feed teacher"),
    ({"relaxation_temperature": "2"}, "--relaxation-temperature 2", "--feed teacher"),
    (
        {"feed": "straight_through", "relaxation_temperature": "2"},
        "--relaxation-temperature 2",
        "--feed straight_through",
    ),
    ({"target": "raml", "cost": "expected_bleu"}, "--target raml", "--cost expected_bleu"),
    ({"target": "raml", "feed": "sample"}, "--target raml", "--feed sample"),
    ({"raml_distance": "hamming"}, "--raml-distance hamming", "--target reference"),
    ({"raml_temperature": 0.5}, "--raml-temperature 0.5", "--target reference"),
    ({"emit": "sample"}, "--emit sample", "--cost cross_entropy"),
    ({"credit": "reward_to_go"}, "--credit reward_to_go", "--cost cross_entropy"),
    ({"reward": "gleu"}, "--reward gleu", "--cost cross_entropy"),
    ({"reward_level": "text"}, "--reward-level text", "--cost cross_entropy"),
    ({"reward_normalization": "batch"}, "--reward-normalization batch", "--cost cross_entropy"),
    ({**REWARD, "emit": "greedy"}, "--emit greedy", "--feed sample"),
    ({**REWARD, "feed": "greedy"}, "--emit sample", "--feed greedy"),
    ({"cross_entropy_weight": 0.5}, "--cross-entropy-weight 0.5", "--cost cross_entropy"),
    ({**REWARD, "label_smoothing": 0.1}, "--label-smoothing 0.1", "--cross-entropy-weight 0.0"),
    (
        {**REWARD, "credit": "reward_to_go", "reward_normalization": "batch"},
        "--credit reward_to_go",
        "--reward-normalization batch",
    ),
    (
        {**REWARD, "credit": "reward_to_go", "reward_level": "text"},
        "--credit reward_to_go",
        "--reward-level text",
    ),
    (
        {**CANDIDATES, "credit": "reward_to_go"},
        "--credit reward_to_go",
        "--estimator candidate_set",
    ),
    ({"feed": "soft", "estimator": "none"}, "--estimator none", "--feed soft"),
    ({"feed": "gumbel", "estimator": "straight_through"}, "--estimator straight_", "--feed gumbel"),
    ({"feed": "gumbel_st", "estimator": "pathwise"}, "--estimator pathwise", "--feed gumbel_st"),
    ({"feed": "sample", "estimator": "pathwise"}, "--estimator pathwise", "--feed sample"),
    ({"cost": "reward", "estimator": "none"}, "--estimator none", "--cost reward"),
    ({"feed": "greedy", "estimator": "score_function"}, "--estimator score_f", "--feed greedy"),
    (
        {**SAMPLED_ROWS, "estimator": "candidate_set"},
        "--estimator candidate",
        "--cost expected_bleu",
    ),
    ({**CANDIDATES, "feed": "teacher"}, "--estimator candidate_set", "--feed teacher"),
    ({**CANDIDATES, "samples": 1}, "--estimator candidate_set", "--samples 1"),
    ({**CANDIDATES, "teacher_prefix": "2"}, "--estimator candidate_set", "--teacher-prefix 2"),
    (
        {**CANDIDATES, "teacher_forcing": "0.2"},
        "--estimator candidate_set",
        "--teacher-forcing 0.2",
    ),
    ({**REWARD, "candidate_loss": "risk"}, "--candidate-loss risk", "--estimator score_function"),
    ({**REWARD, "candidate_sharpness": 1.0}, "--candidate-sharpness 1.0", "--estimator score_f"),
    ({**REWARD, "candidate_reference": True}, "--candidate-reference True", "--estimator score_f"),
    (
        {"objective": "max_margin", "candidate_sharpness": 1.0},
        "--candidate-sharpness 1.0",
        "--candidate-loss max_margin",
    ),
    (
        {"objective": "sequence_nll", "reward_normalization": "group"},
        "--reward-normalization group",
        "--candidate-loss sequence_nll",
    ),
    ({"feed": "sample", "baseline": "moving_average"}, "--baseline moving_a", "--estimator none"),
    ({**REWARD, "baseline": "leave_one_out"}, "--baseline leave_one_out", "--samples 1"),
    (
        {**SAMPLED_ROWS, "estimator": "score_function", "baseline": "greedy"},
        "--baseline greedy",
        "--cost expected_bleu",
    ),
    (
        {"objective": "self_critical", "reward_normalization": "batch"},
        "--baseline greedy",
        "--reward-normalization batch",
    ),
    (
        {"feed": "soft", "cost": "reward", "baseline": "learned"},
        "--baseline learned",
        "--feed soft",
    ),
    ({**REWARD, "reward_normalization": "group"}, "--reward-normalization group", "--samples 1"),
    ({"feed": "greedy", "samples": 2}, "--samples 2", "--feed greedy"),
    ({"feed": "gumbel", "samples": 2}, "--samples 2", "--feed gumbel"),
    ({"feed": "soft", "cost": "reward", "samples": 2}, "--samples 2", "--feed soft"),
    ({**REWARD, "sample_topk": 4}, "--sample-topk 4", "--estimator score_function"),
    ({**REWARD, "sample_topp": 0.5}, "--sample-topp 0.5", "--estimator score_function"),
    ({"sample_temperature": 2.0}, "--sample-temperature 2.0", "--feed teacher"),
    ({"feed": "greedy", "sample_topk": 4}, "--sample-topk 4", "--feed greedy"),
    ({"feed": "soft", "sample_topp": 0.5}, "--sample-topp 0.5", "--feed soft"),
    ({"sample_dropout": "both"}, "--sample-dropout both", "--feed teacher"),
    ({"feed": "sample", "sample_dropout": "off"}, "--sample-dropout off", "--estimator none"),
    ({"feed": "sample", "sample_dropout": "scoring"}, "--sample-dropout sc", "--estimator none"),
    ({**REWARD, "baseline_state_dim": 16}, "--baseline-state-dim 16", "--baseline moving_average"),
    (
        {"layer_estimator": "straight_through", "layer_baseline": "none"},
        "--layer-baseline none",
        "--layer-estimator straight_through",
    ),
    (
        {"layer_estimator": "straight_through", "baseline_decay": 0.5},
        "--baseline-decay 0.5",
        "--baseline none",
    ),
    ({"reward_clip": "0:1"}, "--reward-clip 0:1", "--cost cross_entropy"),
    (
        {**REWARD, "credit": "reward_to_go", "reward_clip": "0:1"},
        "--reward-clip 0:1",
        "--credit reward_to_go",
    ),
    ({"reward_workers": 2}, "--reward-workers 2", "--cost cross_entropy"),
    ({**REWARD, "reward_workers": 2}, "--reward-workers 2", "--reward-level tokens"),
    ({**REWARD, "reward_remove_bpe": "@@ "}, "--reward-remove-bpe @@ ", "--reward-level tokens"),
    ({**REWARD, "reward_detok": "moses"}, "--reward-detok moses", "--reward-level tokens"),
    (
        {**REWARD, "reward_level": "text", "reward": "chrf", "reward_sacrebleu_tokenizer": "char"},
        "--reward-sacrebleu-tokenizer char",
        "--reward chrf",
    ),
    (
        {**REWARD, "reward_level": "text", "reward": "os:getcwd", "reward_workers": 2},
        "--reward-workers 2",
        "--reward os:getcwd",
    ),
    ({"max_order": 2}, "--max-order 2", "--cost cross_entropy"),
    ({"smoothing": "none"}, "--smoothing none", "--cost cross_entropy"),
    ({**REWARD, "reward": "gleu", "smoothing": "none"}, "--smoothing none", "--reward gleu"),
    (
        {**REWARD, "reward_level": "text", "reward": "ter", "max_order": 2},
        "--max-order 2",
        "--reward ter",
    ),
    ({"feed": "sample", "max_decode_length": 9}, "--max-decode-length 9", "--cost cross_entropy"),
    (
        {"objective": "expected_bleu", "max_decode_ratio": 1.0},
        "--max-decode-ratio 1.0",
        "--feed te",
    ),
]

OUT_OF_RANGE = [
    ({"feed": "sample", "teacher_forcing": "1.5"}, "--teacher-forcing must be at most 1; got 1.5"),
    (
        {"feed": "sample", "teacher_forcing": "linear:1:-1:9"},
        "--teacher-forcing must be at least 0",
    ),
    ({"feed": "sample", "teacher_forcing": "often"}, "--teacher-forcing: schedule 'often'"),
    ({"feed": "sample", "teacher_prefix": "-1"}, "--teacher-prefix must be at least 0; got -1"),
    ({"feed": "soft", "relaxation_temperature": "0"}, "--relaxation-temperature must be above 0"),
    (
        {"feed": "gumbel", "relaxation_temperature": "linear:1:0:9"},
        "--relaxation-temperature must be above 0; got 0",
    ),
    ({"target": "raml", "raml_temperature": 0.0}, "--raml-temperature must be above 0; got 0"),
    ({**CANDIDATES, "candidate_sharpness": 0.0}, "--candidate-sharpness must be above 0; got 0"),
    ({**REWARD, "sample_temperature": 0.0}, "--sample-temperature must be above 0; got 0"),
    ({**REWARD, "sample_temperature": float("nan")}, "--sample-temperature must be above 0; got n"),
    ({"feed": "sample", "sample_topk": -1}, "--sample-topk must be at least 0; got -1"),
    ({"feed": "sample", "sample_topp": 1.5}, "--sample-topp must be above 0, and 1 at most"),
    ({**REWARD, "samples": 0}, "--samples must be at least 1; got 0"),
    ({**REWARD, "cross_entropy_weight": -1.0}, "--cross-entropy-weight must be at least 0"),
    ({"label_smoothing": 1.0}, "--label-smoothing must be below 1; got 1"),
    ({**REWARD, "baseline_decay": 1.0}, "--baseline-decay must be below 1; got 1"),
    ({**REWARD, "baseline_decay": -0.1}, "--baseline-decay must be at least 0; got -0.1"),
    ({"objective": "mixer", "baseline_state_dim": 0}, "--baseline-state-dim must be at least 1"),
    ({**REWARD, "reward_clip": "1"}, "--reward-clip must be LOW:HIGH"),
    ({**REWARD, "reward_clip": "1:0"}, "--reward-clip: the lower bound must be below"),
    ({**REWARD, "max_decode_length": 0}, "--max-decode-length must be at least 1; got 0"),
    ({**REWARD, "max_decode_ratio": -1.0}, "--max-decode-ratio must be at least 0; got -1"),
    ({"ignore_prefix_size": -1}, "--ignore-prefix-size must be at least 0; got -1"),
    ({**REWARD, "max_order": 0}, "--max-order must be .*at least 1; got 0"),
]


@pytest.fixture(scope="module")
def built(corpus):
    return setup(corpus, name="stochastic_graph")


@pytest.mark.parametrize(("options", "one", "other"), REFUSED)
def test_flags_that_do_not_go_together_are_both_named(built, options, one, other):
    with pytest.raises(ValueError, match="does not go with") as caught:
        graph_criterion(built, **options)
    assert str(caught.value).startswith(one)
    assert f" does not go with {other}" in str(caught.value)


@pytest.mark.parametrize(("options", "message"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused(built, options, message):
    with pytest.raises(ValueError, match=message):
        graph_criterion(built, **options)


def test_a_state_of_another_size_is_refused_with_the_right_one(built):
    criterion = graph_criterion(built, objective="mixer", baseline_state_dim=9)
    with pytest.raises(ValueError, match=r"--baseline-state-dim must be 16, .* got 9"):
        criterion(built.model, built.batch(0, 1))


def test_a_state_whose_size_cannot_be_found_is_asked_for(built, monkeypatch):
    def fails(*arguments, **keywords):
        raise RuntimeError("one token is too few")

    monkeypatch.setattr(built.model.decoder, "forward", fails)
    with pytest.raises(ValueError, match=r"one token is too few.*give --baseline-state-dim"):
        graph_criterion(built, objective="mixer")
    assert graph_criterion(built, objective="mixer", baseline_state_dim=16)


def test_finding_the_size_of_the_state_draws_no_random_number(built):
    before = torch.get_rng_state()
    assert decoder_state_size(built.task, "stochastic_graph") == 16
    assert torch.get_rng_state().equal(before)
    assert built.model.training
