"""What is printed, from the sums over batches and workers."""

import math

import pytest
import torch
from fairseq_setup import FEEDS, evaluating, logged_metrics, setup
from sacrebleu.metrics import BLEU

METRICS = {"loss", "nll_loss", "ppl", "expected_bleu", "length_ratio"}
METRICS |= {f"precision_{order}" for order in (1, 2, 3, 4)}


def logging_output(correct, total, length, reference_length, *, tensors):
    """A batch with counted statistics, its other sums made up."""
    values = {f"expected_matches_{order}": value for order, value in enumerate(correct, 1)}
    values |= {f"expected_totals_{order}": value for order, value in enumerate(total, 1)}
    values |= {"expected_length": length, "reference_length": reference_length}
    values |= {"loss": 7.5, "nll_loss": 30.0, "ntokens": 10, "nsentences": 2, "sample_size": 10}
    return {key: torch.tensor(float(value)) if tensors else value for key, value in values.items()}


BATCHES = [
    ([9, 5, 3, 1], [12, 10, 8, 6], 12, 14),
    ([4, 2, 1, 0], [9, 8, 7, 6], 9, 8),
    ([1, 0, 0, 0], [3, 1, 0, 0], 3, 6),
]


@pytest.mark.parametrize("tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_bleu_is_sacrebleus_of_the_summed_statistics(corpus, count, tensors):
    criterion = setup(corpus).criterion
    outputs = [logging_output(*batch, tensors=tensors) for batch in BATCHES[:count]]
    logged = logged_metrics(criterion, *outputs)
    correct, total = (
        [sum(column) for column in zip(*(batch[part] for batch in BATCHES[:count]), strict=True)]
        for part in (0, 1)
    )
    length, reference_length = (sum(batch[part] for batch in BATCHES[:count]) for part in (2, 3))
    score = BLEU.compute_bleu(correct, total, length, reference_length, smooth_method="none")
    assert logged["expected_bleu"] == pytest.approx(score.score, abs=0.0051)
    assert logged["length_ratio"] == pytest.approx(length / reference_length, abs=1e-4)
    for order, precision in enumerate(score.precisions, 1):
        assert logged[f"precision_{order}"] == pytest.approx(precision, abs=0.0051)
    assert logged["loss"] == pytest.approx(0.75)
    assert logged["nll_loss"] == pytest.approx(3 / math.log(2), abs=1e-3)
    assert logged["ppl"] == pytest.approx(math.exp(3), rel=2e-3)


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("mode", ["training", "validation"])
def test_all_metrics_are_there(corpus, feed, mode):
    built = setup(corpus, feed=feed)
    sample = built.batch(0, 1, 2)
    if mode == "training":
        logged = built.log(sample)
    else:
        with evaluating(built):
            logged = built.log(sample)
    assert {name for name in logged_metrics(built.criterion, logged) if name[0] != "_"} == METRICS
    assert built.criterion.__class__.logging_outputs_can_be_summed()


def test_without_cross_entropy_its_metrics_are_in_validation_alone(corpus):
    built = setup(corpus, feed="greedy", cross_entropy_weight=0.0)
    sample = built.batch(0, 1, 2)
    training = logged_metrics(built.criterion, built.log(sample))
    with evaluating(built):
        validation = logged_metrics(built.criterion, built.log(sample))
    assert {name for name in validation if name not in training} == {"nll_loss", "ppl"}


def test_validation_with_sampled_prefixes_is_deterministic(corpus, learnt):
    scores = {}
    for feed in ("sample", "greedy"):
        built = setup(corpus, weights=learnt("transformer"), feed=feed, flags=("--dropout", "0.3"))
        sample = built.batch(*range(6), subset="valid")
        with evaluating(built):
            scores[feed] = [logged_metrics(built.criterion, built.log(sample)) for _ in range(2)]
    assert scores["sample"] == scores["greedy"]
    assert scores["sample"][0] == scores["sample"][1]


def test_the_log_holds_no_graph(corpus):
    built = setup(corpus)
    logged = built.log(built.batch(0, 1))
    assert not any(
        value.requires_grad for value in logged.values() if isinstance(value, torch.Tensor)
    )
