"""fairseq's commands with ``--criterion stochastic_graph``."""

import math
import re
import shutil

import pytest
import torch
from console_scripts import Started, console
from fairseq_setup import setup
from toy_corpus import SIZES
from training_flags import GRAPH_RESUMABLE, adam, resumable_graph, stochastic_graph

VOCABULARY = 32
BOUNDS = {
    "loss": (0, 10),
    "nll_loss": (0, 8),
    "ppl": (1, 256),
    "reward": (0, 1),
    "reward_greedy": (0, 1),
    "baseline": (-2, 2),
    "advantage": (-2, 2),
    "advantage_variance": (0, 2),
    "entropy": (0, math.log(VOCABULARY)),
    "log_prob": (-20, 0),
    "sample_length": (0, 30),
    "unique_samples": (1, 5),
    "effective_sample_size": (1, 5),
}
SCORED = {"baseline", "advantage", "advantage_variance", "entropy", "log_prob"}
REWARDED = {"loss", "reward", "sample_length"}
LIKELIHOOD = {"nll_loss", "ppl"}
GREEDY = {"loss", "reward_greedy", "sample_length", *LIKELIHOOD}

# Flags, what a line of training shows, what a line of validation shows.
RUNS = {
    "self_critical": ((), REWARDED | SCORED | {"reward_greedy"}, GREEDY),
    "leave_one_out": (
        ("--cross-entropy-weight", 0.3),
        REWARDED | SCORED | LIKELIHOOD | {"unique_samples"},
        GREEDY,
    ),
    "minimum_risk": ((), REWARDED | {"unique_samples", "effective_sample_size"}, GREEDY),
    "reinforce": (
        (
            *("--reward", "chrf", "--reward-level", "text", "--reward-workers", 1),
            *("--reward-normalization", "batch", "--reward-clip=-2:2"),
        ),
        REWARDED | SCORED,
        GREEDY,
    ),
    "scheduled_sampling": (
        ("--teacher-forcing", "linear:1:0:2"),
        {"loss"},
        {"loss", *LIKELIHOOD},
    ),
    "gumbel": (("--relaxation-temperature", "geometric:1:0.5:2"), {"loss"}, {"loss", *LIKELIHOOD}),
}


def load(checkpoint):
    """A checkpoint; ``weights_only`` stays on."""
    return torch.load(checkpoint, weights_only=True)


def train(corpus, save_dir, *flags):
    log = save_dir.with_suffix(".log")
    return Started("fairseq-train", *stochastic_graph(corpus, save_dir, *flags), log=log).output()


def lines_of(printed):
    """The metrics of each line of training, and of validation."""
    training = [line for line in printed.splitlines() if "| train_inner |" in line]
    validation = [line for line in printed.splitlines() if "valid on 'valid' subset" in line]
    patterns = {r"\b(\w+)=(\S+?)(?:,|$)": training, r"\| (\w+) (\S+)(?= \||$)": validation}
    return tuple(
        [dict(re.findall(pattern, line)) for line in lines] for pattern, lines in patterns.items()
    )


def assert_metrics(lines, names):
    for line in lines:
        shown = line.keys() & BOUNDS.keys()
        assert shown == names
        for name in shown:
            low, high = BOUNDS[name]
            assert low <= float(line[name]) <= high, f"{name} is {line[name]}"


@pytest.mark.parametrize("objective", RUNS)
def test_an_objective_fine_tunes_a_cross_entropy_checkpoint(
    corpus, cross_entropy_checkpoint, tmp_path, objective
):
    flags, in_training, in_validation = RUNS[objective]
    # Both of fairseq's ways to start from a checkpoint, which has no state of the criterion.
    start = ("--finetune-from-model", cross_entropy_checkpoint)
    if objective in ("reinforce", "gumbel"):
        start = ("--restore-file", cross_entropy_checkpoint, "--reset-optimizer")
        start += ("--reset-dataloader", "--reset-meters", "--reset-lr-scheduler")
    printed = train(
        corpus,
        tmp_path / "run",
        *("--objective", objective, *flags, *start, *adam(0.001)),
        *("--batch-size", 16, "--max-update", 2, "--no-epoch-checkpoints"),
    )
    training, validation = lines_of(printed)
    assert len(training) == 2
    assert len(validation) == 1
    assert_metrics(training, in_training)
    assert_metrics(validation, in_validation)
    before, after = load(cross_entropy_checkpoint), load(tmp_path / "run" / "checkpoint_last.pt")
    assert after["optimizer_history"][-1]["num_updates"] == 2
    for name, weight in before["model"].items():
        # Two steps of Adam lead no farther than twice the learning rate.
        assert float((after["model"][name] - weight).abs().max()) <= 0.0021
    moved = [
        name for name, weight in before["model"].items() if (after["model"][name] != weight).any()
    ]
    assert len(moved) > len(before["model"]) / 2


@pytest.mark.parametrize("baseline", GRAPH_RESUMABLE)
def test_a_resumed_run_ends_like_the_unbroken_one(corpus, graph_run, tmp_path, baseline):
    """Parameters, the baseline's state and the optimiser's, the schedule's position."""
    save_dir, _ = graph_run(baseline)
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(save_dir / "checkpoint_1_3.pt", resumed / "checkpoint_last.pt")
    train(corpus, resumed, *resumable_graph(baseline))
    ours, theirs = (load(folder / "checkpoint_last.pt") for folder in (resumed, save_dir))
    stopped = load(save_dir / "checkpoint_1_3.pt")
    assert stopped["optimizer_history"][-1]["num_updates"] == 3
    assert ours["optimizer_history"][-1]["num_updates"] == 6
    name = {
        "moving_average": "estimators.token.baseline.total",
        "learned": "estimators.token.baseline.head.weight",
    }[baseline]
    assert (stopped["criterion"][name] != theirs["criterion"][name]).all()
    for part in ("model", "criterion"):
        assert ours[part].keys() == theirs[part].keys()
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    states = (each["last_optimizer_state"]["state"] for each in (ours, theirs))
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_resumed_run_goes_on_with_the_average_of_the_checkpoint(corpus, graph_run, tmp_path):
    """An average that no reward between 0 and 1 would give is seen in the next update."""
    save_dir, printed = graph_run("moving_average")
    assert all(0 <= float(line["baseline"]) <= 1 for line in lines_of(printed)[0])
    stopped = torch.load(save_dir / "checkpoint_1_3.pt", weights_only=True)
    state = stopped["criterion"]
    assert 0 < float(state["estimators.token.baseline.weight"]) < 1
    state["estimators.token.baseline.total"] = 9 * state["estimators.token.baseline.weight"]
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    torch.save(stopped, resumed / "checkpoint_last.pt")
    flags = (*resumable_graph("moving_average"), "--max-update", 4, "--disable-validation")
    (line,) = lines_of(train(corpus, resumed, *flags))[0]
    assert 7 < float(line["baseline"]) <= 9


def test_the_best_checkpoint_is_that_of_the_highest_reward(graph_run):
    save_dir, printed = graph_run("learned")
    rewards = [float(line["reward_greedy"]) for line in lines_of(printed)[1]]
    assert len(set(rewards)) > 1
    best = load(save_dir / "checkpoint_best.pt")["extra_state"]["best"]
    assert best == pytest.approx(max(rewards), abs=0.000051)


def test_what_another_objective_lacks_starts_anew(corpus, graph_run, tmp_path):
    """A run with a learned baseline from the checkpoint of one with a moving average."""
    save_dir, _ = graph_run("moving_average")
    flags = ("--objective", "mixer", *adam(0.001))
    flags += ("--finetune-from-model", save_dir / "checkpoint_last.pt", "--max-update", 1)
    printed = train(corpus, tmp_path / "run", *flags, "--batch-size", 16, "--disable-validation")
    assert "estimators.token.baseline.head.weight start anew" in printed
    state = load(tmp_path / "run" / "checkpoint_last.pt")["criterion"]
    assert not any(name.startswith("estimators.token.baseline.total") for name in state)


def test_generate_reads_the_checkpoint_with_and_without_the_plugin(
    corpus, graph_run, tmp_path, monkeypatch
):
    save_dir, _ = graph_run("learned")
    flags = (corpus, "--path", save_dir / "checkpoint_best.pt", "--cpu", "--beam", 2)
    # With its default of 8 fairseq leaves the last sentences out.
    flags += ("--gen-subset", "test", "--required-batch-size-multiple", 1, "--num-workers", 0)
    log = tmp_path / "generate.log"
    with_plugin = Started("fairseq-generate", *flags, "--user-dir", "fairseq_plugins", log=log)
    # fairseq 0.12 by itself reads no checkpoint, whoever wrote it, where weights_only is on.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    without = console("fairseq-generate", *flags)
    hypotheses = [
        re.findall(r"^H-\d+.*", printed, re.MULTILINE)
        for printed in (with_plugin.output(), without)
    ]
    assert len(hypotheses[0]) == SIZES["test"]
    assert hypotheses[0] == hypotheses[1]


EIGHT_SENTENCES = (
    *("--train-subset", "valid", "--batch-size", 8, "--dropout", 0),
    *("--disable-validation", "--no-epoch-checkpoints"),
)


def greedy_bleu(corpus, checkpoint, log):
    """Of fairseq-generate, of the sentences that were trained on; 0 to 100."""
    printed = Started(
        "fairseq-generate",
        *(corpus, "--path", checkpoint, "--user-dir", "fairseq_plugins", "--cpu"),
        *("--gen-subset", "valid", "--beam", 1, "--num-workers", 0),
        *("--max-len-a", 0.5, "--max-len-b", 10),
        log=log,
    ).output()
    return float(re.search(r"BLEU4 = ([\d.]+)", printed)[1])


@pytest.fixture(scope="module")
def half_learnt(corpus, cross_entropy_checkpoint, tmp_path_factory):
    """A checkpoint that knows some of eight sentences, and the BLEU of its greedy output."""
    folder = tmp_path_factory.mktemp("half_learnt")
    flags = ("--objective", "cross_entropy", "--finetune-from-model", cross_entropy_checkpoint)
    train(corpus, folder / "run", *flags, *EIGHT_SENTENCES, *adam(0.01), "--max-update", 15)
    checkpoint = folder / "run" / "checkpoint_last.pt"
    return checkpoint, greedy_bleu(corpus, checkpoint, folder / "generate.log")


@pytest.mark.parametrize("objective", ["self_critical", "leave_one_out"])
def test_rewarded_samples_improve_the_greedy_output(corpus, half_learnt, tmp_path, objective):
    start, before = half_learnt
    flags = ("--objective", objective, "--reward", "gleu", "--max-decode-ratio", 0.5)
    # Of few samples, or of samples far from the greedy output, the gradient is mostly noise.
    flags += ("--samples", 30, "--sample-temperature", 0.6)
    flags += ("--finetune-from-model", start, "--max-update", 40)
    printed = train(corpus, tmp_path / "run", *flags, *EIGHT_SENTENCES, *adam(0.004))
    rewards = [float(line["reward"]) for line in lines_of(printed)[0]]
    assert sum(rewards[-10:]) > 1.4 * sum(rewards[:10])
    after = greedy_bleu(corpus, tmp_path / "run" / "checkpoint_last.pt", tmp_path / "generate.log")
    assert after > before + 6, f"{before} before, {after} after"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("moving_average", ("--objective", "mixer")),
        ("learned", ("--objective", "reinforce")),
        ("learned", ("--objective", "cross_entropy", "--layer-estimator", "none")),
    ],
    ids=["a learned baseline comes", "it goes", "no parameter is left"],
)
def test_another_objective_goes_on_with_the_optimiser_of_the_model(
    corpus, graph_run, tmp_path, before, after
):
    """Though its criterion has other parameters, of which the optimiser keeps a state, too."""
    save_dir, _ = graph_run(before)
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(save_dir / "checkpoint_1_3.pt", run / "checkpoint_last.pt")
    flags = ("--batch-size", 8, *adam(0.001), "--max-update", 4, "--disable-validation")
    printed = train(corpus, run, *after, *flags, "--required-batch-size-multiple", 1)
    assert "the optimiser starts anew for the criterion's parameters" in printed
    stopped, ended = load(save_dir / "checkpoint_1_3.pt"), load(run / "checkpoint_last.pt")
    assert ended["optimizer_history"][-1]["num_updates"] == 4
    of_model = range(len(list(setup(corpus).model.parameters())))
    steps = [
        [each["last_optimizer_state"]["state"][index]["step"] for index in of_model]
        for each in (stopped, ended)
    ]
    assert steps == [[3] * len(of_model), [4] * len(of_model)]
