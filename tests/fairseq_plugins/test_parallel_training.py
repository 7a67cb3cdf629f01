"""fairseq's kinds of data-parallel training: two workers on the CPU, or an error that names both.

With plain ``legacy_ddp`` two workers are compared with one process elsewhere.
"""

import functools

import pytest
import torch
from fairseq_setup import setup
from training_flags import adam, expected_bleu, stochastic_graph
from two_workers import two_workers

# fairseq gives PyTorch's wrapper the number of a GPU, which it does not take for a model on a CPU.
ON_CPU = """
import fairseq_plugins  # noqa: F401
from fairseq.models import distributed_fairseq_model
from torch.nn.parallel import DistributedDataParallel


def wrap(device_ids, output_device, **options):
    return DistributedDataParallel(**options)


distributed_fairseq_model.DistributedDataParallel = wrap
"""
RUNS = {
    "expected_bleu": (expected_bleu, ("--feed", "greedy"), 50),
    # In 16 bits another token may be the most probable one.
    "teacher": (expected_bleu, (), 50),
    # A learned baseline has parameters of its own, which are wrapped, too.
    "mixer": (
        stochastic_graph,
        ("--objective", "mixer", "--teacher-prefix", 2),
        1.0,
    ),
}


@pytest.fixture(scope="module")
def end_of(corpus, cross_entropy_checkpoint, tmp_path_factory):
    """The last checkpoint of two workers after three updates, by run and further flags."""

    @functools.cache
    def train(run, *flags):
        folder = tmp_path_factory.mktemp(run)
        user_dir = folder / "on_cpu"
        user_dir.mkdir()
        (user_dir / "__init__.py").write_text(ON_CPU)
        criterion, objective, rate = RUNS[run]
        arguments = criterion(
            corpus,
            folder / "two",
            *objective,
            # With so large an epsilon a step is proportional to the gradient, nearly.
            *("--user-dir", user_dir, "--dropout", 0, *adam(rate), "--adam-eps", 1.0),
            *("--finetune-from-model", cross_entropy_checkpoint, "--max-update", 3),
            *("--batch-size", 8, "--disable-validation", "--no-epoch-checkpoints"),
        )
        return two_workers(arguments, folder, *flags)

    return train


def parameters(checkpoint):
    return {
        f"{part}.{name}": value.float()
        for part in ("model", "criterion")
        for name, value in (checkpoint[part] or {}).items()
    }


@pytest.mark.parametrize(
    ("run", "flags", "tolerance"),
    [
        ("mixer", ("--ddp-backend", "pytorch_ddp"), 1e-5),
        ("mixer", ("--zero-sharding", "os"), 1e-5),
        ("mixer", ("--amp",), 1e-5),  # which computes in 16 bits on GPUs only
        ("mixer", ("--memory-efficient-fp16", "--fp16-init-scale", 4), 0.005),
        ("expected_bleu", ("--ddp-backend", "pytorch_ddp"), 1e-5),
        ("teacher", ("--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", 4), 0.005),
    ],
)
def test_two_workers_end_where_those_of_legacy_ddp_end(
    cross_entropy_checkpoint, end_of, run, flags, tolerance
):
    if "--zero-sharding" in flags:
        pytest.importorskip("fairscale", reason="fairseq shards optimisers with fairscale")
    start = torch.load(cross_entropy_checkpoint, weights_only=True)["model"]
    expected, found = parameters(end_of(run)), parameters(end_of(run, *flags))
    moved = max(
        float((expected[f"model.{name}"] - value).abs().max()) for name, value in start.items()
    )
    assert moved > 5 * tolerance
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("criterion", "options", "flags", "named"),
    [
        ("expected_bleu", {"feed": "greedy"}, ("--ddp-backend", "fully_sharded"), "fully_sharded"),
        ("expected_bleu", {}, ("--ddp-backend", "slowmo"), "--ddp-backend slowmo"),
        ("expected_bleu", {}, ("--use-bmuf",), "--use-bmuf"),
        ("stochastic_graph", {}, ("--ddp-backend", "fully_sharded"), "fully_sharded"),
        ("stochastic_graph", {}, ("--ddp-backend", "slowmo"), "--ddp-backend slowmo"),
        ("stochastic_graph", {}, ("--use-bmuf",), "--use-bmuf"),
    ],
)
def test_what_would_train_something_else_is_refused(corpus, criterion, options, flags, named):
    message = f"{named} does not go with --criterion {criterion}.*use --ddp-backend legacy_ddp"
    with pytest.raises(ValueError, match=message):
        setup(corpus, name=criterion, flags=flags, **options)


def test_sharded_parameters_go_with_a_criterion_that_only_calls_the_whole_model(corpus):
    setup(corpus, name="expected_bleu", flags=("--ddp-backend", "fully_sharded"), feed="teacher")
