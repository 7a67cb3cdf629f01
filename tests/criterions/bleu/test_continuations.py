"""Expected statistics of continued outputs, by enumeration, and the estimator made of them."""

import itertools

import pytest
import torch
from host_reads import HostReads

from criterions import bleu_from_statistics, counted_statistics
from criterions.bleu.continuations import continuations
from criterions.bleu.statistics import BleuStatistics

REPLACED = 90  # a token that no reference has


def enumerated(prefix, column, reference, right):
    """Mean statistics of the prefix continued with the reference, each token right or replaced."""
    rest = reference[column + 1 :]
    matches = torch.zeros(4, dtype=torch.float64)
    for kept in itertools.product((False, True), repeat=len(rest)):
        weight = 1.0
        for keeps, p in zip(kept, right[column + 1 :], strict=True):
            weight *= float(p) if keeps else 1 - float(p)
        tail = [token if keeps else REPLACED for token, keeps in zip(rest, kept, strict=True)]
        output = torch.tensor([prefix + tail])
        found = counted_statistics(output, torch.tensor([reference]))
        matches += weight * found.matches[0]
    return matches, len(prefix) + len(rest)


@pytest.mark.parametrize(
    "hypothesis", [[11, 12, 13, 14, 15], [11, 50, 13, 14], [50, 11, 12], [14, 15], [50, 51, 13, 50]]
)
def test_statistics_are_those_of_all_outcomes(hypothesis):
    reference = [11, 12, 13, 14, 15]
    right = torch.tensor([0.9, 0.3, 0.6, 1.0, 0.2], dtype=torch.float64)
    found = continuations(torch.tensor([hypothesis]), torch.tensor([reference]), right.unsqueeze(0))
    for t in range(len(hypothesis)):
        for column, token in enumerate(reference):
            if set(hypothesis[:t]) & set(reference[column:]):
                continue  # what is right a second time is counted again, up to the order's total
            matches, length = enumerated([*hypothesis[:t], token], column, reference, right)
            got = BleuStatistics(*(item[0, t, column] for item in found.reference))
            torch.testing.assert_close(got.matches, matches)
            assert got.hypothesis_length == length
            assert got.totals.tolist() == [max(length - n, 0) for n in range(4)]
        stopped = BleuStatistics(*(item[0, t] for item in found.stopped))
        before = counted_statistics(
            torch.tensor([hypothesis[:t]]).long(), torch.tensor([reference])
        )
        assert stopped.matches.tolist() == before.matches[0].tolist()
        assert stopped.hypothesis_length == t


def test_another_token_takes_the_place_of_the_next_one_of_the_reference():
    reference = [11, 12, 13, 14, 15]
    right = torch.tensor([0.9, 0.3, 0.6, 1.0, 0.2], dtype=torch.float64)
    hypothesis = torch.tensor([[50, 12, 13, 50]])
    other = continuations(hypothesis, torch.tensor([reference]), right.unsqueeze(0)).other
    for t, column in enumerate((0, 1, 2, 3)):
        prefix = [*hypothesis[0, :t].tolist(), REPLACED]
        matches, length = enumerated(prefix, column, reference, right)
        torch.testing.assert_close(other.matches[0, t], matches)
        assert other.hypothesis_length[0, t] == length


def test_the_occurrence_that_continues_the_longest_ngram_counts():
    #                          0  1  2  3  4
    reference = torch.tensor([[7, 5, 8, 5, 9]])
    hypothesis = torch.tensor([[50, 50, 50, 8, 5]])
    right = torch.ones(1, 5)
    found = continuations(hypothesis, reference, right)
    assert found.distinct.tolist() == [[True, True, True, False, True]]
    assert found.emitted.tolist() == [[5, 5, 5, 2, 1]]  # 5: in no place of the reference
    after = BleuStatistics(*(item[0, 4, 1] for item in found.reference))
    # 8 5 9 with what was before: the second 5 of the reference, one token before its end.
    assert after.hypothesis_length == 6
    assert after.matches.tolist() == [3, 2, 1, 0]


def test_rows_do_not_depend_on_what_is_past_their_ends():
    hypotheses = torch.tensor([[11, 50, 13, 14, 11, 12], [11, 12, 13, 13, 14, 50]])
    references = torch.tensor([[11, 12, 13, 14], [12, 13, 11, 12]])
    right = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    sizes = {"lengths": torch.tensor([4, 6]), "reference_lengths": torch.tensor([3, 4])}
    together = continuations(hypotheses, references, right, **sizes)
    for row, (length, words) in enumerate([(4, 3), (6, 4)]):
        alone = continuations(
            hypotheses[row : row + 1, :length],
            references[row : row + 1, :words],
            right[row : row + 1, :words],
        )
        for own, of_all in zip(alone.reference, together.reference, strict=True):
            torch.testing.assert_close(own[0], of_all[row, :length, :words])
        for kind in ("other", "stopped"):
            for own, of_all in zip(getattr(alone, kind), getattr(together, kind), strict=True):
                torch.testing.assert_close(own[0], of_all[row, :length])


def test_nothing_is_read_back_from_the_device():
    tokens = torch.arange(20).view(2, 10) % 6
    with HostReads() as reads:
        continuations(tokens, tokens, torch.rand(2, 10), lengths=torch.tensor([10, 7]))
    assert reads.operations == []


@pytest.mark.parametrize("shape", [(1, 0, 3), (2, 3, 0), (0, 2, 2), (2, 1, 1)])
@pytest.mark.parametrize("order", [1, 4])
def test_empty_texts(shape, order):
    batch, length, ref_len = shape
    tokens = torch.zeros(batch, length, dtype=torch.long)
    references = torch.zeros(batch, ref_len, dtype=torch.long)
    found = continuations(tokens, references, torch.rand(batch, ref_len), max_order=order)
    assert found.reference.matches.shape == (batch, length, ref_len, order)
    assert found.other.totals.shape == (batch, length, order)
    assert found.emitted.shape == (batch, length)


def test_bad_shapes_are_refused():
    tokens = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="probabilities must have shape"):
        continuations(tokens, tokens, torch.rand(2, 4))


END = 3  # of a language of three words


def outputs(longest):
    """All outputs of at most so many tokens, ``</s>`` among them, as lists."""
    for length in range(1, longest + 1):
        for words in itertools.product(range(3), repeat=length - 1):
            yield [*words, END]
    yield from map(list, itertools.product(range(3), repeat=longest))


@pytest.mark.parametrize("reference", [[0, 1, END], [1, 1, 2, END]])
def test_estimate_is_unbiased_and_varies_less(reference):
    """A model of free logits for each prefix; the mean over all outputs is the exact gradient."""
    longest = 4
    prefixes = [p for n in range(longest) for p in itertools.product(range(3), repeat=n)]
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(prefixes), 4, generator=generator, dtype=torch.float64)
    for n, token in enumerate(reference):  # a model that has learned something
        if tuple(reference[:n]) in prefixes:
            logits[prefixes.index(tuple(reference[:n])), token] += 2
    logits.requires_grad_()
    row_of = {prefix: logits[number].log_softmax(0) for number, prefix in enumerate(prefixes)}
    wanted = torch.tensor([reference])
    right = torch.stack(
        [row_of[tuple(reference[:n])][token].exp() for n, token in enumerate(reference)]
    ).unsqueeze(0)

    expected, exact = 0.0, []
    means = {"none": 0.0, "expected": 0.0}
    squares = dict(means)
    for output in outputs(longest):
        rows = [row_of[tuple(output[:t])] for t in range(len(output))]
        log_probs = torch.stack([row[token] for row, token in zip(rows, output, strict=True)])
        probability = log_probs.sum().exp()
        tokens = torch.tensor([output])
        reward = bleu_from_statistics(*counted_statistics(tokens, wanted)).double()[0]
        expected = expected + probability * reward
        found = continuations(tokens, wanted, right)
        known, other = (bleu_from_statistics(*found[n])[0] for n in (0, 1))
        distinct = found.distinct[0]
        emitted = torch.cat([known, other.unsqueeze(1)], dim=1)
        emitted = emitted.gather(1, found.emitted[0].unsqueeze(1)).squeeze(1)
        p_known = torch.stack([row.exp() for row in rows])[:, reference] * distinct
        surrogates = {
            "none": (log_probs * reward).sum(),
            "expected": (log_probs * (reward - emitted)).sum()
            + (p_known * (known - other.unsqueeze(1))).sum(),
        }
        for name, surrogate in surrogates.items():
            (gradient,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
            means[name] = means[name] + probability.detach() * gradient
            squares[name] = squares[name] + probability.detach() * gradient.square().sum()
    (exact,) = torch.autograd.grad(expected, logits)
    for mean in means.values():
        torch.testing.assert_close(mean, exact, rtol=0, atol=1e-7)
    variances = {name: float(squares[name] - exact.square().sum()) for name in means}
    assert variances["expected"] < 0.2 * variances["none"], variances
