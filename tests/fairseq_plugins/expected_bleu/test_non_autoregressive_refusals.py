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
        (
            "iterative_nonautoregressive_transformer",
            ("--dae-ratio", 0.25),
            "--dae-ratio 0.25 .* take --dae-ratio 0",
        ),
        (NAT, ("--noise", "random_delete"), "--noise random_delete.*take --noise full_mask"),
        (NAT, ("--noise", "random_mask"), "--noise random_mask.*take --noise full_mask"),
        ("cmlm_transformer", ("--noise", "random_delete"), "or random_mask \\(cmlm_transformer\\)"),
        ("levenshtein_transformer", ("--noise", "full_mask"), "take --noise random_delete"),
        ("levenshtein_transformer", ("--noise", "random_mask"), "take --noise random_delete"),
        (NAT, ("--noise", "no_noise"), "--noise no_noise.*take --noise full_mask"),
        ("cmlm_transformer", ("--noise", "no_noise"), "or random_mask \\(cmlm_transformer\\)"),
        ("levenshtein_transformer", ("--noise", "no_noise"), "take --noise random_delete"),
        ("insertion_transformer", (), "distribution for each position.*--criterion nat_loss"),
        ("nacrf_transformer", ("--noise", "full_mask"), "independent positions.*nacrf_transformer"),
    ],
)
def test_a_combination_that_cannot_work_is_refused(corpus, arch, flags, message):
    built = nat_setup(corpus, arch, flags=flags)
    with pytest.raises(ValueError, match=message):
        built.criterion(built.model, noisy(built, 0, 1))


def test_the_default_of_the_denoising_ratio_is_refused_where_a_second_pass_reads_it(corpus):
    arch = "iterative_nonautoregressive_transformer"
    flags = ("--arch", arch, "--task", "translation_lev", "--noise", "full_mask")
    built = setup(corpus, flags=flags)
    with pytest.raises(ValueError, match=r"--dae-ratio 0\.5 .* take --dae-ratio 0"):
        built.criterion(built.model, noisy(built, 0, 1))
    built = setup(corpus, flags=(*flags, "--train-step", 1))
    assert built.gradient(noisy(built, 0, 1))[0] > 0


def test_a_copy_of_padding_is_refused(corpus):
    built = nat_setup(corpus, NAT, flags=("--src-embedding-copy",))
    with pytest.raises(ValueError, match=r"--src-embedding-copy copies padding.*--left-pad-source"):
        built.criterion(built.model, noisy(built, 0, 1))
    built = nat_setup(corpus, NAT, flags=("--src-embedding-copy", "--left-pad-source"))
    assert built.gradient(noisy(built, 0, 1))[0] > 0


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


def without(head, key):
    return {name: value for name, value in head.items() if name != key}


@pytest.mark.parametrize(
    "heads",
    [
        lambda heads: heads["word_ins"]["out"],
        lambda heads: {"words": heads["word_ins"]},
        lambda heads: {"word_ins": heads["word_ins"] | {"out": heads["word_ins"]["out"][:, 1:]}},
        lambda heads: {"word_ins": {"loss": heads["word_ins"]["out"].sum()}},
        lambda heads: {"word_ins": without(heads["word_ins"], "mask")},
        lambda heads: {"word_ins": without(heads["word_ins"], "tgt")},
    ],
    ids=["no heads", "another name", "another length", "a loss alone", "no mask", "no target"],
)
def test_a_model_of_ones_own_without_a_distribution_for_each_position_is_refused(corpus, heads):
    built = nat_setup(corpus, NAT)
    forward = built.model.forward
    built.model.forward = lambda *inputs: heads(forward(*inputs))
    with pytest.raises(ValueError, match=r"the head 'word_ins' .* NATransformerDecoder is other"):
        built.criterion(built.model, noisy(built, 0, 1))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (lambda heads: {"length": heads["length"]}, "has none"),
        (lambda heads: {"word_ins": without(heads["word_ins"], "out")}, "has none"),
        (lambda heads: {"word_ins": {"out": heads["word_ins"]["out"][:, 1:]}}, r"has \(2, "),
    ],
    ids=["no words", "no distribution", "another length"],
)
def test_the_pass_at_the_models_own_length_needs_a_distribution_for_each_token(
    corpus, heads, message
):
    built = nat_setup(corpus, NAT, feed="greedy")
    forward, passes = built.model.forward, []

    def second_is_other(*inputs):
        passes.append(forward(*inputs))
        return passes[-1] if len(passes) == 1 else heads(passes[-1])

    built.model.forward = second_is_other
    with pytest.raises(ValueError, match=f"--feed greedy .*{message}.* take --feed teacher"):
        built.criterion(built.model, noisy(built, 0, 1))
