"""fairseq's commands with an actor: from a trained model to translations."""

import re
import shutil

import pytest
import torch
from console_scripts import Started
from fairseq_setup import ARCHITECTURES
from training_flags import QUIET, adam, sgd, stochastic_graph
from two_workers import two_workers

EIGHT_SENTENCES = (
    *("--train-subset", "valid", "--batch-size", 8, "--dropout", 0),
    *("--disable-validation", "--no-epoch-checkpoints"),
)
TRANSFORMER = ("--arch", "actor_transformer", "--actor-hidden-size", 32)
TRAINABLE_GREEDY = ("--objective", "trainable_greedy", "--reward", "gleu")


def load(checkpoint):
    """A checkpoint; ``weights_only`` stays on."""
    return torch.load(checkpoint, weights_only=True)


def run(corpus, arch, save_dir, *flags):
    arguments = (corpus, "--user-dir", "fairseq_plugins", "--save-dir", save_dir, *QUIET)
    log = save_dir.with_suffix(".log")
    return Started("fairseq-train", *arguments, *ARCHITECTURES[arch], *flags, log=log).output()


def train(corpus, save_dir, *flags):
    """A transformer with ``--criterion stochastic_graph``."""
    return run(corpus, "transformer", save_dir, "--criterion", "stochastic_graph", *flags)


def translate(corpus, checkpoint, log, *flags):
    """Hypotheses of the sentences of ``valid``, and their BLEU, 0 to 100."""
    printed = Started(
        "fairseq-generate",
        *(corpus, "--path", checkpoint, "--user-dir", "fairseq_plugins", "--cpu"),
        *("--gen-subset", "valid", "--num-workers", 0, "--max-len-a", 0.5, "--max-len-b", 10),
        *flags,
        log=log,
    ).output()
    hypotheses = re.findall(r"^H-\d+\t\S+\t(.*)", printed, re.MULTILINE)
    assert len(hypotheses) == 8
    return hypotheses, float(re.search(r"BLEU4 = ([\d.]+)", printed)[1])


def rewards_of(printed):
    lines = [line for line in printed.splitlines() if "| train_inner |" in line]
    return [float(re.search(r"\breward=([\d.e-]+)", line)[1]) for line in lines]


def assert_the_actor_moved_alone(start, checkpoint, dtype=torch.float32):
    before, after = load(start)["model"], load(checkpoint)["model"]
    actors = {name for name in after if name.startswith("decoder.actor.")}
    assert after.keys() - actors == before.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight.to(dtype).to(after[name].dtype)), name
    assert after["decoder.actor.write.weight"].ne(0).any()


@pytest.fixture(scope="module")
def half_learnt(corpus, cross_entropy_checkpoint, tmp_path_factory):
    """A checkpoint of a plain transformer that knows some of eight sentences."""
    folder = tmp_path_factory.mktemp("half_learnt")
    flags = ("--objective", "cross_entropy", "--finetune-from-model", cross_entropy_checkpoint)
    train(corpus, folder / "run", *flags, *EIGHT_SENTENCES, *adam(0.01), "--max-update", 15)
    return folder / "run" / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def lstm_checkpoint(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lstm")
    flags = ("--criterion", "cross_entropy", *EIGHT_SENTENCES, *adam(0.03), "--max-update", 20)
    run(corpus, "lstm", folder / "run", *flags)
    return folder / "run" / "checkpoint_last.pt"


def test_the_actor_makes_the_greedy_output_better_and_the_model_stays(
    corpus, half_learnt, tmp_path
):
    """With weight decay: it would move what the optimiser knows of."""
    flags = (*TRANSFORMER, *TRAINABLE_GREEDY, "--max-decode-ratio", 0.5, "--actor-std", 0.3)
    flags += ("--samples", 20, "--layer-baseline", "leave_one_out", "--weight-decay", 0.01)
    flags += ("--finetune-from-model", half_learnt, "--max-update", 40, *adam(0.01))
    printed = train(corpus, tmp_path / "run", *flags, *EIGHT_SENTENCES)
    rewards = rewards_of(printed)
    assert len(rewards) == 40
    assert sum(rewards[-10:]) > 1.15 * sum(rewards[:10])
    for name in ("entropy", "log_prob", "baseline", "advantage", "advantage_variance"):
        assert printed.count(f" {name}_actor=") == 40
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    assert_the_actor_moved_alone(half_learnt, checkpoint)
    _, before = translate(corpus, half_learnt, tmp_path / "before.log", "--beam", 1)
    _, after = translate(corpus, checkpoint, tmp_path / "after.log", "--beam", 1)
    assert after > before + 6, f"{before} before, {after} after"


VARIANTS = {
    "lstm, gaussian": (
        "lstm",
        *("--criterion", "stochastic_graph", *TRAINABLE_GREEDY, "--layer-baseline", "greedy"),
        *("--actor", "gaussian", "--actor-learn-std", "--samples", 2),
    ),
    "lstm, deterministic": ("lstm", "--criterion", "cross_entropy", "--actor", "deterministic"),
    "transformer, deterministic": (
        *("transformer", "--criterion", "stochastic_graph", "--objective", "expected_bleu"),
        *("--actor", "deterministic"),
    ),
    "transformer, gaussian": (
        *("transformer", "--criterion", "stochastic_graph", "--actor", "gaussian"),
        *("--layer-estimator", "reparameterized", "--actor-learn-std"),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_trained_and_translates(
    corpus, half_learnt, lstm_checkpoint, tmp_path, variant
):
    base, *flags = VARIANTS[variant]
    start = lstm_checkpoint if base == "lstm" else half_learnt
    flags += ["--arch", f"actor_{base}", "--actor-hidden-size", 8, *adam(0.1)]
    flags += ["--finetune-from-model", start, "--max-update", 3, "--weight-decay", 0.1]
    run(corpus, base, tmp_path / "run", *flags, *EIGHT_SENTENCES)
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    assert_the_actor_moved_alone(start, checkpoint)
    translate(corpus, checkpoint, tmp_path / "generate.log", "--beam", 2)


def resumable(start):
    return (
        *(*TRANSFORMER, *TRAINABLE_GREEDY, "--max-decode-ratio", 0.5, *adam(0.01)),
        *("--actor-std", "linear:0.5:0.1:6", "--baseline-decay", 0.9, "--samples", 2),
        *("--finetune-from-model", start, "--max-update", 6, "--save-interval-updates", 3),
        *("--batch-size", 8, "--required-batch-size-multiple", 1, "--disable-validation"),
    )


def test_a_resumed_run_ends_like_the_unbroken_one(corpus, half_learnt, tmp_path):
    """Actor, average and optimiser, and where the schedule of the noise stands."""
    train(corpus, tmp_path / "whole", *resumable(half_learnt))
    (tmp_path / "resumed").mkdir()
    stopped = next((tmp_path / "whole").glob("checkpoint_*_3.pt"))
    shutil.copy(stopped, tmp_path / "resumed" / "checkpoint_last.pt")
    # fairseq goes on with what lies there, and does not start from another model again.
    train(corpus, tmp_path / "resumed", *resumable(half_learnt))
    ours, theirs = (load(tmp_path / name / "checkpoint_last.pt") for name in ("resumed", "whole"))
    assert load(stopped)["optimizer_history"][-1]["num_updates"] == 3
    assert ours["optimizer_history"][-1]["num_updates"] == 6
    assert "estimators.layers.cost.baseline.total" in ours["criterion"]
    for part in ("model", "criterion"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    states = (each["last_optimizer_state"]["state"] for each in (ours, theirs))
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_float16_leaves_the_model_alone(corpus, half_learnt, tmp_path):
    flags = ("--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", 4, *adam(0.01))
    flags += (*TRANSFORMER, *TRAINABLE_GREEDY, "--finetune-from-model", half_learnt)
    train(corpus, tmp_path / "run", *flags, *EIGHT_SENTENCES, "--max-update", 3)
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    assert_the_actor_moved_alone(half_learnt, checkpoint, torch.float16)


def test_two_workers_leave_the_model_alone(corpus, half_learnt, tmp_path):
    flags = (*TRANSFORMER, *TRAINABLE_GREEDY, "--finetune-from-model", half_learnt, *sgd(0.5))
    flags += ("--train-subset", "uneven", "--batch-size", 8, "--max-update", 4)
    flags += ("--disable-validation", "--no-epoch-checkpoints")
    two_workers(stochastic_graph(corpus, tmp_path / "two", *flags), tmp_path)
    assert_the_actor_moved_alone(half_learnt, tmp_path / "two" / "checkpoint_last.pt")
