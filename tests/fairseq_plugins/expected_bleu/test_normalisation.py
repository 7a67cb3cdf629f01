"""What the trainer divides by ``sample_size`` does not depend on how a batch is put together."""

import pytest
import torch
from fairseq_setup import setup

from fairseq_plugins import workers as module

SENTENCES = range(20, 26)
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


# Smoothing adds to the sums of the batch, so a corpus twice as long has another score with it.
@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize(("level", "smoothing"), [("corpus", "none"), ("sentence", "add-k")])
def test_repeating_the_batch_changes_no_gradient(corpus, learnt, level, smoothing, sentence_avg):
    built = setup(
        corpus,
        weights=learnt("transformer"),
        bleu_level=level,
        smoothing=smoothing,
        sentence_avg=sentence_avg,
    )
    loss, gradients, _ = built.gradient(built.batch(*SENTENCES))
    twice, gradients_of_twice, _ = built.gradient(built.batch(*SENTENCES, *SENTENCES))
    assert twice == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(gradients_of_twice, gradients, **CLOSE)


@pytest.mark.parametrize("level", ["corpus", "sentence"])
def test_sentence_avg_changes_the_sample_size_alone(corpus, learnt, level):
    values = []
    for sentence_avg in (False, True):
        built = setup(
            corpus, weights=learnt("transformer"), bleu_level=level, sentence_avg=sentence_avg
        )
        sample = built.batch(*SENTENCES)
        loss, gradients, logged = built.gradient(sample)
        values.append((loss, gradients))
        size = len(SENTENCES) if sentence_avg else sample["ntokens"]
        assert logged["sample_size"] == size
        assert float(logged["loss"]) / size == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(*values, **CLOSE)


class Backward:
    """The one method of an optimiser that ``task.train_step`` calls."""

    @staticmethod
    def backward(loss):
        loss.backward()


@pytest.mark.parametrize("level", ["corpus", "sentence"])
def test_a_dummy_batch_adds_nothing_to_the_sums_over_workers(corpus, learnt, level, monkeypatch):
    built = setup(corpus, weights=learnt("transformer"), bleu_level=level)
    sample = built.batch(*SENTENCES)
    expected = built.gradient(sample)[1]
    contributed = []

    def record(local):
        contributed.append(local.detach())
        return local

    monkeypatch.setattr(module, "sum_over_workers", record)

    def train_step(ignore_grad):
        contributed.clear()
        built.model.zero_grad()
        arguments = (sample, built.model, built.criterion, Backward, 0)
        _, sample_size, _ = built.task.train_step(*arguments, ignore_grad=ignore_grad)
        return {
            name: parameter.grad / sample_size for name, parameter in built.model.named_parameters()
        }

    for gradient in train_step(ignore_grad=True).values():
        assert gradient.isfinite().all()
        assert gradient.count_nonzero() == 0
    assert contributed
    assert all(sums.count_nonzero() == 0 for sums in contributed)
    torch.testing.assert_close(train_step(ignore_grad=False), expected, **CLOSE)
    assert all(sums.count_nonzero() > 0 for sums in contributed)


def test_an_error_in_a_dummy_batch_is_not_remembered(corpus, learnt):
    built = setup(corpus, weights=learnt("transformer"))
    sample = built.batch(*SENTENCES)
    expected = built.gradient(sample)[1]
    with pytest.raises(TypeError):
        built.task.train_step(None, built.model, built.criterion, Backward, 0, ignore_grad=True)
    torch.testing.assert_close(built.gradient(sample)[1], expected, **CLOSE)
