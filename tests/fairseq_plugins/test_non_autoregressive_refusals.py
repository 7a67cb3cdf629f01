"""Non-autoregressive models: what cannot work is refused with the name of the flag."""

import pytest
from fairseq_setup import setup
from non_autoregressive_models import nat_setup, noisy

NAT = "nonautoregressive_transformer"


@pytest.mark.parametrize(
    ("arch", "flags", "message"),
    [
        (NAT, ("--hypothesis-length", "expected"), "--hypothesis-length expected .* take fixed"),
        (NAT, ("--feed", "sample"), "--feed sample .* take teacher.* or greedy"),
        ("levenshtein_transformer", ("--feed", "greedy"), "--feed greedy .* take teacher"),
        (
            "iterative_nonautoregressive_transformer",
            ("--feed", "greedy"),
            "--feed greedy .* or --train-step 1",
        ),
        (NAT, ("--noise", "random_delete"), "--noise random_delete.*take --noise full_mask"),
        ("cmlm_transformer", ("--noise", "random_delete"), "or random_mask \\(cmlm_transformer\\)"),
        ("levenshtein_transformer", ("--noise", "full_mask"), "take --noise random_delete"),
        ("levenshtein_transformer", ("--noise", "random_mask"), "take --noise random_delete"),
        ("insertion_transformer", (), "distribution for each position.*--criterion nat_loss"),
        ("nacrf_transformer", ("--noise", "full_mask"), "independent positions.*nacrf_transformer"),
    ],
)
def test_a_combination_that_cannot_work_is_refused(corpus, arch, flags, message):
    built = nat_setup(corpus, arch, flags=flags)
    with pytest.raises(ValueError, match=message):
        built.criterion(built.model, noisy(built, 0, 1))


@pytest.mark.parametrize("arch", [NAT, "levenshtein_transformer"])
def test_another_task_is_refused(corpus, arch):
    built = nat_setup(corpus, arch)
    with pytest.raises(ValueError, match="--task translation_lev"):
        built.criterion(built.model, built.batch(0, 1))


def test_stochastic_graph_refuses_them(corpus):
    built = nat_setup(corpus, NAT, name="stochastic_graph")
    with pytest.raises(ValueError, match=r"one token after the other.* --criterion expected_bleu"):
        built.criterion(built.model, noisy(built, 0, 1))


def test_an_autoregressive_model_is_refused_for_the_task(corpus):
    built = setup(corpus, flags=("--task", "translation_lev"))
    with pytest.raises(ValueError, match="take --task translation"):
        built.criterion(built.model, noisy(built, 0, 1))


@pytest.mark.parametrize(
    "heads",
    [
        lambda heads: heads["word_ins"]["out"],
        lambda heads: {"words": heads["word_ins"]},
        lambda heads: {"word_ins": heads["word_ins"] | {"out": heads["word_ins"]["out"][:, 1:]}},
        lambda heads: {"word_ins": {"loss": heads["word_ins"]["out"].sum()}},
    ],
    ids=["no heads", "another name", "another length", "a loss alone"],
)
def test_a_model_of_ones_own_without_a_distribution_for_each_position_is_refused(corpus, heads):
    built = nat_setup(corpus, NAT)
    forward = built.model.forward
    built.model.forward = lambda *inputs: heads(forward(*inputs))
    with pytest.raises(ValueError, match=r"the head 'word_ins' .* NATransformerDecoder is other"):
        built.criterion(built.model, noisy(built, 0, 1))
