"""Two workers on the CPU against one, and against the objective of the whole batch.

fairseq wraps models for the CPU with ``legacy_ddp`` alone; PyTorch's wrapper is tried by itself.
"""

import pytest
import torch
from console_scripts import Started
from fairseq.distributed import ModuleProxyWrapper
from fairseq_setup import FEEDS, epoch_batches, setup
from training_flags import expected_bleu, sgd
from two_workers import two_workers

RATE = 0.5
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def flags(subset, start, *extra):
    """Three epochs of plain gradient descent on a set, from a checkpoint, without dropout."""
    return (
        *("--finetune-from-model", start, "--dropout", 0, *sgd(RATE)),
        *("--train-subset", subset, "--max-epoch", 3, "--disable-validation"),
        *("--required-batch-size-multiple", 1, "--no-epoch-checkpoints", *extra),
    )


def parameters(save_dir):
    return torch.load(save_dir / "checkpoint_last.pt", weights_only=True)["model"]


@pytest.mark.parametrize(
    "options",
    [
        # The first worker reads the checkpoint and sends it to the second.
        ("--bleu-level", "corpus"),
        # Each worker reads it.
        (
            *("--bleu-level", "sentence", "--feed", "greedy", "--sentence-avg"),
            "--load-checkpoint-on-all-dp-ranks",
        ),
    ],
    ids=["corpus", "sentence"],
)
def test_two_workers_end_where_one_ends(corpus, cross_entropy_checkpoint, tmp_path, options):
    halves = flags("even", cross_entropy_checkpoint, "--batch-size", 8, *options)
    whole = flags("even", cross_entropy_checkpoint, "--batch-size", 16, *options)
    log = tmp_path / "one.log"
    one = Started("fairseq-train", *expected_bleu(corpus, tmp_path / "one", *whole), log=log)
    two = two_workers(expected_bleu(corpus, tmp_path / "two", *halves), tmp_path)["model"]
    one.output()
    one = parameters(tmp_path / "one")
    start = parameters(cross_entropy_checkpoint.parent)
    assert max(float((one[name] - start[name]).abs().max()) for name in one) > 0.01
    torch.testing.assert_close(two, one, **CLOSE)


@pytest.mark.parametrize("level", ["corpus", "sentence"])
def test_a_worker_without_a_batch_left_does_not_count(
    corpus, cross_entropy_checkpoint, tmp_path, level
):
    """24 sentences are three batches: the last update has a dummy batch on one worker."""
    start = parameters(cross_entropy_checkpoint.parent)
    built = setup(corpus, weights=start, bleu_level=level)
    optimiser = torch.optim.SGD(built.model.parameters(), lr=RATE)
    first, second, third = (
        sample["id"].tolist() for sample in epoch_batches(built, "uneven", sentences=8)
    )
    for indices in ([*first, *second], third):
        gradients = built.gradient(built.batch(*indices, subset="uneven"))[1]
        for name, parameter in built.model.named_parameters():
            parameter.grad = gradients[name]
        optimiser.step()
    arguments = flags("uneven", cross_entropy_checkpoint, "--batch-size", 8)
    arguments += ("--bleu-level", level, "--max-epoch", 1, "--load-checkpoint-on-all-dp-ranks")
    two = two_workers(expected_bleu(corpus, tmp_path / "two", *arguments), tmp_path)["model"]
    expected = {name: value.detach() for name, value in built.model.named_parameters()}
    torch.testing.assert_close({name: two[name] for name in expected}, expected, **CLOSE)


@pytest.mark.parametrize("feed", FEEDS)
def test_pytorchs_wrapper_gets_the_same_gradient(corpus, learnt, feed, lone_worker):
    """With a free-running prefix the wrapped model runs twice before it is differentiated."""
    built, wrapped = (setup(corpus, weights=learnt("transformer"), feed=feed) for _ in range(2))
    sample = built.batch(*range(6))
    wrapped_model = torch.nn.parallel.DistributedDataParallel(wrapped.model)
    proxy = ModuleProxyWrapper(wrapped_model)
    for _ in range(2):
        built.model.zero_grad()
        wrapped.model.zero_grad()
        torch.manual_seed(4)
        built.criterion(built.model, sample)[0].backward()
        torch.manual_seed(4)
        wrapped.criterion(proxy, sample)[0].backward()
        expected, actual = (
            {name: parameter.grad for name, parameter in each.model.named_parameters()}
            for each in (built, wrapped)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert all(module.training for module in proxy.modules())
