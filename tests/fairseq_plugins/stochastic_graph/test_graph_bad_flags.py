"""Flags of ``--criterion stochastic_graph`` that cannot work, as they are written in a shell."""

import pytest
from console_scripts import Started
from fairseq_setup import setup
from training_flags import stochastic_graph

REWARD = ("--objective", "reinforce")

REFUSED = [
    (
        ("--objective", "leave_one_out", "--samples", "1"),
        r"--baseline leave_one_out does not go with --samples 1",
    ),
    (
        ("--objective", "minimum_risk", "--credit", "reward_to_go"),
        r"--credit reward_to_go does not go with --estimator candidate_set",
    ),
    ((*REWARD, "--reward", "bertscore"), r"--reward must be one of .*chrf.*'bertscore'"),
    ((*REWARD, "--reward", "chrf"), r"--reward chrf .*--reward-level text"),
    (
        (*REWARD, "--reward", "nowhere.to_be_found:reward", "--reward-level", "text"),
        r"--reward nowhere\.to_be_found:reward",
    ),
    (
        (*REWARD, "--reward", "sacrebleu:no_such_function", "--reward-level", "text"),
        r"--reward sacrebleu:no_such_function",
    ),
    (
        (*REWARD, "--teacher-forcing", "linear:1:0"),
        r"--teacher-forcing.*linear:1:0.*linear:START:END:UPDATES",
    ),
    (
        ("--objective", "mixer", "--teacher-prefix", "cosine:30:0:5", "--baseline-state-dim", "16"),
        r"--teacher-prefix.*cosine:30:0:5.*geometric:START:END:UPDATES",
    ),
    (
        ("--objective", "gumbel", "--relaxation-temperature", "geometric:1:0:9"),
        r"--relaxation-temperature.*geometric:1:0:9",
    ),
    (
        (*REWARD, "--baseline", "expected", "--credit", "reward_to_go"),
        r"--baseline expected does not go with --credit reward_to_go",
    ),
    (
        (*REWARD, "--baseline", "expected", "--reward-level", "text"),
        r"--baseline expected does not go with --reward sentence_bleu: it does not tell",
    ),
    ((*REWARD, "--reward-clip", "1:0"), r"--reward-clip.*1:0"),
    ((*REWARD, "--reward-clip", "nan:"), r"--reward-clip must have finite bounds; got 'nan:'"),
    ((*REWARD, "--max-order", "5000"), r"--max-order must be at most 16; got 5000"),
    ((*REWARD, "--cross-entropy-weight", "inf"), r"--cross-entropy-weight must be finite"),
    ((*REWARD, "--baseline-decay", "1"), r"--baseline-decay must be below 1"),
    ((*REWARD, "--reward-workers", "-1"), r"--reward-workers"),
]


@pytest.mark.parametrize(
    ("flags", "message"), REFUSED, ids=[" ".join(flags[2:4]) for flags, _ in REFUSED]
)
def test_what_cannot_work_is_refused(corpus, flags, message):
    with pytest.raises(ValueError, match=message):
        setup(corpus, name="stochastic_graph", flags=flags)


@pytest.mark.parametrize(
    "flag",
    [
        *("--feed", "--unroll", "--target", "--emit", "--estimator"),
        *("--baseline", "--credit", "--candidate-loss", "--reward-level", "--layer-estimator"),
    ],
)
def test_an_unknown_choice_is_refused(corpus, capsys, flag):
    with pytest.raises(SystemExit):
        setup(corpus, name="stochastic_graph", flags=(flag, "nonsense"))
    assert f"argument {flag}: invalid choice: 'nonsense'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--objective", "--cost"])
def test_a_name_that_is_not_registered_is_refused(corpus, flag):
    with pytest.raises(ValueError, match=f"{flag} must be one of .*expected_bleu.*'nonsense'"):
        setup(corpus, name="stochastic_graph", flags=(flag, "nonsense"))


@pytest.mark.parametrize("flag", ["--samples", "--sample-topk", "--reward-workers"])
def test_a_word_for_a_number_is_refused(corpus, capsys, flag):
    with pytest.raises(SystemExit):
        setup(corpus, name="stochastic_graph", flags=(flag, "many"))
    assert f"argument {flag}: invalid" in capsys.readouterr().err


@pytest.mark.parametrize("objective", ["cross_entropy", "self_critical", "gumbel"])
def test_an_adaptive_softmax_is_refused(corpus, objective):
    flags = ("--adaptive-softmax-cutoff", "8,12")
    built = setup(corpus, name="stochastic_graph", flags=flags, objective=objective)
    with pytest.raises(ValueError, match="--adaptive-softmax-cutoff"):
        built.criterion(built.model, built.batch(0, 1))


def test_training_ends_with_the_message(corpus, tmp_path):
    """Before the first update, and with both flags in the last lines."""
    flags = ("--objective", "self_critical", "--feed", "teacher", "--sample-topk", 5)
    run = Started(
        "fairseq-train",
        *stochastic_graph(corpus, tmp_path / "run", *flags, "--batch-size", 8),
        *("--optimizer", "sgd", "--lr", 0.1),
        log=tmp_path / "run.log",
    )
    with pytest.raises(AssertionError, match=r"returned 1") as failure:
        run.output()
    last = str(failure.value).splitlines()[-1]
    assert last.startswith(
        "ValueError: --sample-topk 5 does not go with --estimator score_function:"
    )
    assert not list((tmp_path / "run").glob("*.pt"))
