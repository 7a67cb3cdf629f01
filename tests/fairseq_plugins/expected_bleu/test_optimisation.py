"""The gradient is the loss's, and descending the loss raises the metric that is logged."""

import pytest
import torch
from fairseq_setup import (
    FEEDS,
    FixedRows,
    descend,
    evaluating,
    logged_metrics,
    sample_of,
    setup,
)

from fairseq_plugins import decoding


@pytest.mark.parametrize(
    "options",
    [
        {"feed": "teacher"},
        {"feed": "teacher", "overlap": "paper", "smoothing": "add-k-all"},
        {"feed": "teacher", "overlap": "lower", "bleu_level": "sentence"},
        {"feed": "teacher", "overlap": "upper", "smoothing": "none"},
        {"feed": "teacher", "hypothesis_length": "fixed"},
        {"feed": "greedy"},
        {"feed": "greedy", "overlap": "lower", "bleu_level": "sentence"},
        {"feed": "sample"},
        {"feed": "sample", "overlap": "upper", "smoothing": "add-k-all"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_a_few_steps_raise_the_logged_expected_bleu(corpus, learnt, options):
    built = setup(corpus, weights=learnt("transformer"), cross_entropy_weight=0.0, **options)
    sample = built.batch(*range(10, 18))

    def score():
        with evaluating(built):
            return logged_metrics(built.criterion, built.log(sample))["expected_bleu"]

    before = score()
    descend(built, sample, steps=20, learning_rate=0.001)
    assert score() > before + 1


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("level", ["corpus", "sentence"])
@pytest.mark.parametrize("hypothesis_length", ["expected", "fixed"])
@pytest.mark.parametrize("sentence_end", ["ngram", "ignore"])
def test_the_gradient_is_the_slope_of_the_loss(
    corpus, feed, level, hypothesis_length, sentence_end, monkeypatch
):
    built = setup(
        corpus,
        feed=feed,
        bleu_level=level,
        hypothesis_length=hypothesis_length,
        sentence_end=sentence_end,
        sentence_avg=sentence_end == "ngram",
        label_smoothing=0.1,
    )
    dictionary = built.task.target_dictionary
    targets = [[4, 5, 4, 4, 6], [5, dictionary.unk(), 5], [7]]
    sample = sample_of(targets, dictionary.eos(), dictionary.pad())
    drawn = []

    def decode_once(*arguments, **keywords):
        if not drawn:
            drawn.append(decode(*arguments, **keywords))
        return drawn[0]

    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", decode_once)  # what is fed carries no gradient
    rows = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def loss(rows):
        return built.criterion(FixedRows(rows), sample)[0]

    assert loss(rows).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, rows.requires_grad_())
