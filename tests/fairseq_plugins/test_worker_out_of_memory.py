"""One of two workers runs out of memory in a batch: fairseq leaves the batch out and goes on."""

from types import SimpleNamespace

import pytest
import torch
from training_flags import expected_bleu, sgd, stochastic_graph
from two_workers import two_workers

from fairseq_plugins.workers import TrainStepWatch

PLUGIN = """
import fairseq_plugins  # noqa: F401
from fairseq.distributed import utils
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.tasks import FairseqTask

batches = 0
train_step, encode = FairseqTask.train_step, TransformerEncoderBase.forward


def count(*args, **kwargs):
    global batches
    batches += 1
    return train_step(*args, **kwargs)


def fail(*args, **kwargs):
    if batches == 2 and utils.get_global_rank() == 1:
        raise RuntimeError("CUDA out of memory")
    return encode(*args, **kwargs)


FairseqTask.train_step, TransformerEncoderBase.forward = count, fail
"""


@pytest.mark.parametrize(
    ("criterion", "flags"),
    [
        (expected_bleu, ()),
        (
            stochastic_graph,
            ("--objective", "group_normalized", "--reward-normalization", "batch"),
        ),
    ],
    ids=["expected_bleu", "rewards"],
)
def test_both_workers_go_on(corpus, tmp_path, criterion, flags):
    """Sums over workers are as many on the worker that failed: neither waits for ever."""
    user_dir = tmp_path / "out_of_memory"
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(PLUGIN)
    arguments = criterion(
        corpus,
        tmp_path / "two",
        *flags,
        *("--user-dir", user_dir, *sgd(0.1), "--batch-size", 8, "--update-freq", 2),
        *("--max-update", 3, "--disable-validation", "--no-epoch-checkpoints"),
    )
    checkpoint = two_workers(arguments, tmp_path)
    assert checkpoint["optimizer_history"][-1]["num_updates"] == 3
    logs = [(tmp_path / f"worker{rank}.log").read_text() for rank in (0, 1)]
    assert ["attempting to recover from OOM" in log for log in logs] == [False, True]


def test_a_dummy_batch_adds_nothing_and_keeps_its_graph():
    """Its loss is multiplied by 0 and goes backward, also where the sums are all that it is of."""
    local = torch.tensor([1.0, float("nan")], requires_grad=True)
    watch = TrainStepWatch(SimpleNamespace(train_step=lambda: None))
    watch.is_dummy = True
    with watch.sums([3], local.device, training=True):
        total = watch.sum_over_workers(local)
    assert total.tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(total.sum(), local)
    assert gradient.tolist() == [0, 0]
