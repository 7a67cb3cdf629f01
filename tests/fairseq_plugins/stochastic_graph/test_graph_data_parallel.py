"""``--criterion stochastic_graph`` on two workers, against one process that sees all sentences.

fairseq wraps models for the CPU with ``legacy_ddp`` alone; PyTorch's wrapper is tried by itself.
"""

import copy

import pytest
import torch
from fairseq.distributed import ModuleProxyWrapper
from fairseq.distributed import utils as distributed_utils
from fairseq_setup import epoch_batches, setup
from training_flags import QUIET, sgd, stochastic_graph
from two_workers import two_workers

RATE = 0.5
SEED = int(QUIET[QUIET.index("--seed") + 1])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def two_workers_on(subset, corpus, start, folder, options):
    """Two epochs of plain gradient descent, without dropout; returns the last checkpoint."""
    flags = [
        part
        for name, value in options.items()
        for part in ("--" + name.replace("_", "-"), *([] if value is True else [value]))
    ]
    arguments = stochastic_graph(
        corpus,
        folder / "two",
        *flags,
        *("--finetune-from-model", start, "--load-checkpoint-on-all-dp-ranks"),
        *("--dropout", 0, *sgd(RATE), "--train-subset", subset, "--batch-size", 8),
        *("--max-update", 2, "--disable-validation", "--no-epoch-checkpoints"),
        *("--required-batch-size-multiple", 1),
    )
    return two_workers(arguments, folder)


def in_process(corpus, start, options):
    weights = torch.load(start, weights_only=True)["model"]
    return setup(corpus, name="stochastic_graph", weights=weights, **options)


def trained(built):
    """Parameters of the model and of the criterion."""
    yield from built.model.named_parameters()
    yield from built.criterion.named_parameters()


def assert_same_state(checkpoint, built):
    for part, module in (("model", built.model), ("criterion", built.criterion)):
        expected = {name: value.detach() for name, value in module.state_dict().items()}
        names = expected.keys() & dict(trained(built)).keys() if part == "model" else expected
        torch.testing.assert_close(
            {name: checkpoint[part][name] for name in names},
            {name: expected[name] for name in names},
            **CLOSE,
        )


def descend_once(built, batches, update):
    """The batches' gradients added and divided by the sum of their sample sizes, as by fairseq."""
    sizes = 0
    for _, parameter in trained(built):
        parameter.grad = None
    for batch in batches:
        torch.manual_seed(SEED + update)  # as fairseq's trainer seeds every worker
        built.criterion.train_step.update = update
        loss, size, _ = built.criterion(built.model, batch)
        loss.backward()
        sizes += size
    with torch.no_grad():
        for _, parameter in trained(built):
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad / float(sizes)


# The model decides nothing by chance: one process takes all sentences as one batch.
CERTAIN = {
    "scheduled_sampling": {"objective": "scheduled_sampling", "teacher_forcing": "1"},
    "expected_bleu": {"objective": "expected_bleu", "feed": "greedy", "sentence_avg": True},
    "minimum_risk": {
        "objective": "minimum_risk",
        "sample_topk": 1,
        "candidate_reference": True,
        "candidate_sharpness": 1.0,
        "cross_entropy_weight": 0.5,
    },
}


@pytest.mark.parametrize("name", CERTAIN)
def test_two_workers_end_where_one_ends(corpus, cross_entropy_checkpoint, tmp_path, name):
    options = CERTAIN[name]
    two = two_workers_on("even", corpus, cross_entropy_checkpoint, tmp_path, options)
    built = in_process(corpus, cross_entropy_checkpoint, options)
    before = copy.deepcopy(built.model.state_dict())
    for update in (0, 1):
        descend_once(built, [built.batch(*range(16), subset="even")], update)
    moved = [
        float((value.detach() - before[key]).abs().max())
        for key, value in trained(built)
        if key in before
    ]
    assert max(moved) > 0.01
    assert_same_state(two, built)


def descend_together(built, batches, update, monkeypatch):
    """Two workers in one process: first each tells its sums, then each is given those of both."""
    told = [[], []]
    state = copy.deepcopy([built.model.state_dict(), built.criterion.state_dict()])
    for exchange in (False, True):
        built.model.load_state_dict(state[0])
        for _, parameter in trained(built):
            parameter.grad = None
        sizes = 0
        for worker, batch in enumerate(batches):
            built.criterion.load_state_dict(state[1])
            calls = iter(range(1000))

            def all_reduce(tensor, group, worker=worker, exchange=exchange, calls=calls):
                call = next(calls)
                if exchange:
                    tensor.copy_(sum(sums[call] for sums in told))
                else:
                    told[worker].append(tensor.clone())

            with monkeypatch.context() as patch:
                patch.setattr(distributed_utils, "get_data_parallel_world_size", lambda: 2)
                patch.setattr(distributed_utils, "get_data_parallel_group", lambda: None)
                patch.setattr(distributed_utils, "all_reduce", all_reduce)
                torch.manual_seed(SEED + update)
                built.criterion.train_step.update = update
                loss, size, _ = built.criterion(built.model, batch)
                loss.backward()
            sizes += size
    assert len(told[0]) == len(told[1]) > 0
    with torch.no_grad():
        for _, parameter in trained(built):
            parameter -= RATE * parameter.grad / float(sizes)


# What is drawn is the same for the same seed: it is drawn again here, worker by worker.
SAMPLED = {
    # The average is of use from the second update on.
    "moving_average": {"objective": "reinforce", "baseline_decay": 0.5},
    "normalized": {
        "objective": "reinforce",
        "baseline": "none",
        "reward_normalization": "batch",
        "samples": 2,
    },
    "learned": {"objective": "mixer", "teacher_prefix": "2"},
}


@pytest.mark.parametrize("name", SAMPLED)
def test_two_workers_share_what_their_rewards_are_compared_with(
    corpus, cross_entropy_checkpoint, tmp_path, monkeypatch, name
):
    """24 sentences are three batches: the last update has a dummy batch on one worker."""
    options = SAMPLED[name]
    two = two_workers_on("uneven", corpus, cross_entropy_checkpoint, tmp_path, options)
    built = in_process(corpus, cross_entropy_checkpoint, options)
    first, second, third = (
        sample["id"].tolist() for sample in epoch_batches(built, "uneven", sentences=8)
    )
    batches = [built.batch(*ids, subset="uneven") for ids in (first, second, third)]
    descend_together(built, batches[:2], 0, monkeypatch)
    descend_once(built, batches[2:], 1)
    assert_same_state(two, built)
    if name == "learned":
        return
    # Workers that keep to themselves end elsewhere.
    apart = in_process(corpus, cross_entropy_checkpoint, options)
    descend_once(apart, batches[:2], 0)
    descend_once(apart, batches[2:], 1)
    with pytest.raises(AssertionError):
        assert_same_state(two, apart)


@pytest.mark.parametrize(
    "objective",
    [
        *("self_critical", "leave_one_out", "reinforce", "mixer", "minimum_risk"),
        *("gumbel", "scheduled_sampling", "expected_bleu"),
    ],
)
def test_pytorchs_wrapper_gets_the_same_gradient(corpus, learnt, lone_worker, objective):
    """Of the model, and of the criterion if that has parameters, as fairseq wraps them."""
    options = {"objective": objective}
    built, wrapped = (
        setup(corpus, name="stochastic_graph", weights=learnt("transformer"), **options)
        for _ in range(2)
    )
    wrapper = torch.nn.parallel.DistributedDataParallel
    model = ModuleProxyWrapper(wrapper(wrapped.model))
    criterion = ModuleProxyWrapper(wrapper(wrapped.criterion))
    sample = built.batch(*range(6))
    for update in range(2):
        for each, run in (
            (built, lambda: built.criterion(built.model, sample)),
            (wrapped, lambda: criterion(model, sample)),
        ):
            each.model.zero_grad()
            each.criterion.zero_grad()
            torch.manual_seed(update)
            run()[0].backward()
        expected, actual = (
            {name: parameter.grad for name, parameter in trained(each)} for each in (built, wrapped)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
