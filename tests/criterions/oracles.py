"""Slow and obvious definitions that the objectives are tested against.

Everything here is plain Python over one sentence at a time. A candidate is described by ``rows``,
an array ``[tgt_len, vocab]`` whose row ``i`` is the distribution of token ``i``; rows are drawn
independently, and the first ``eos`` ends the sentence (``eos=None``: always ``tgt_len`` tokens).
Three unrelated routes lead to an expected clipped count: summing over every output
(:func:`enumerate_outputs`), a Knuth-Morris-Pratt automaton that counts occurrences
(:func:`automaton_overlap`), and sacrebleu itself on rows that leave nothing to chance.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Tokens = Sequence[int]


def ngrams(tokens: Tokens, order: int) -> list[tuple[int, ...]]:
    """All n-grams of ``tokens`` in order of appearance, repeats included."""
    return [tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)]


def clipped_count(hypothesis: Tokens, reference: Tokens, order: int) -> int:
    """BLEU's numerator: every n-gram counts at most as often as the reference has it."""
    hypothesis_counts = Counter(ngrams(hypothesis, order))
    reference_counts = Counter(ngrams(reference, order))
    return sum(min(hypothesis_counts[s], r) for s, r in reference_counts.items())


def enumerate_outputs(rows: np.ndarray, eos: int | None) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield every output of positive probability (without ``eos``) and that probability."""

    def extend(prefix: tuple[int, ...], probability: float) -> Iterator:
        if len(prefix) == len(rows):
            yield prefix, probability
            return
        for token, p in enumerate(rows[len(prefix)].tolist()):
            if p == 0.0:
                continue
            if token == eos:
                yield prefix, probability * p
            else:
                yield from extend((*prefix, token), probability * p)

    return extend((), 1.0)


def expectation(
    statistic: Callable[[tuple[int, ...]], float], rows: np.ndarray, eos: int | None
) -> float:
    """``E[statistic(output)]`` by summing over every output."""
    return math.fsum(p * statistic(output) for output, p in enumerate_outputs(rows, eos))


def standard_deviation(
    statistic: Callable[[tuple[int, ...]], float], rows: np.ndarray, eos: int | None
) -> float:
    mean = expectation(statistic, rows, eos)
    return math.sqrt(expectation(lambda output: (statistic(output) - mean) ** 2, rows, eos))


def logit_gradient(
    statistic: Callable[[tuple[int, ...]], float], rows: np.ndarray, eos: int | None
) -> np.ndarray:
    """Gradient of ``E[statistic]`` to the logits of ``rows = softmax(logits)``, by enumeration.

    An expectation over independent rows is linear in each row, so its derivative to logit
    ``[i, v]`` is ``rows[i, v] * (E[statistic | x_i = v] - E[statistic])``.
    """
    mean = expectation(statistic, rows, eos)
    gradient = np.zeros_like(rows)
    for i, v in np.ndindex(*rows.shape):
        fixed = rows.copy()
        fixed[i] = 0.0
        fixed[i, v] = 1.0
        gradient[i, v] = rows[i, v] * (expectation(statistic, fixed, eos) - mean)
    return gradient


def expected_overlap(rows: np.ndarray, eos: int | None, reference: Tokens, order: int) -> float:
    return expectation(lambda output: clipped_count(output, reference, order), rows, eos)


def expected_total(rows: np.ndarray, eos: int | None, order: int) -> float:
    """Expected number of n-gram windows, BLEU's denominator."""
    return expectation(lambda output: max(len(output) - order + 1, 0), rows, eos)


def expected_length(rows: np.ndarray, eos: int | None) -> float:
    return expectation(len, rows, eos)


def _prefix_function_step(pattern: Tokens, matched: int, token: int) -> int:
    """Length of the longest prefix of ``pattern`` that ends the text after reading ``token``."""
    text = (*pattern[:matched], token)
    for size in range(min(len(pattern), len(text)), 0, -1):
        if text[len(text) - size :] == tuple(pattern[:size]):
            return size
    return 0


def automaton_overlap(rows: np.ndarray, eos: int | None, reference: Tokens, order: int) -> float:
    """``E[sum_s min(C_s, r_s)]`` by one automaton per n-gram, its count truncated at ``r_s``."""
    total = 0.0
    for pattern, r in Counter(ngrams(reference, order)).items():
        states = {(0, 0): 1.0}  # (matched prefix of the pattern, occurrences so far) -> probability
        for row in rows.tolist():
            following: Counter = Counter()
            for (matched, count), probability in states.items():
                for token, p in enumerate(row):
                    if token == eos:
                        total += probability * p * count
                        continue
                    size = _prefix_function_step(pattern, matched, token)
                    hits = min(count + (size == order), r)
                    following[size, hits] += probability * p
            states = following
        total += sum(probability * count for (_, count), probability in states.items())
    return total


def window_probabilities(rows: np.ndarray, eos: int | None, ngram: Tokens) -> list[float]:
    """``q_i``: the sentence is still running at ``i`` and the next tokens are ``ngram``."""
    probabilities = []
    for i in range(len(rows) - len(ngram) + 1):
        q = 1.0
        if eos is not None:
            for j in range(i):
                q *= 1.0 - rows[j, eos]
        for k, token in enumerate(ngram):
            q *= rows[i + k, token]
        probabilities.append(q)
    return probabilities


def paper_overlap(rows: np.ndarray, eos: int | None, reference: Tokens, order: int) -> float:
    """The bound as published (arXiv 1712.04708), written out in loops."""
    total = 0.0
    for ngram, r in Counter(ngrams(reference, order)).items():
        q = window_probabilities(rows, eos, ngram)
        for i in range(len(q)):
            others = sum(q[j] for j in range(len(q)) if j != i)
            total += q[i] * min(1.0, r / (1.0 + others))
    return total


def concave_overlap(rows: np.ndarray, eos: int | None, reference: Tokens, order: int) -> float:
    """``sum_s min(E[C_s], r_s)``, which Jensen's inequality puts above the expectation."""
    return sum(
        min(sum(window_probabilities(rows, eos, ngram)), r)
        for ngram, r in Counter(ngrams(reference, order)).items()
    )


def can_overlap_itself(ngram: Tokens) -> bool:
    return any(tuple(ngram[d:]) == tuple(ngram[:-d]) for d in range(1, len(ngram)))


def published_theorem_holds(reference: Tokens, order: int) -> bool:
    """Every n-gram occurs once in the reference and cannot overlap itself."""
    counts = Counter(ngrams(reference, order))
    return all(r == 1 and not can_overlap_itself(s) for s, r in counts.items())


def probability_of_at_most(count: int, success: Sequence[float]) -> float:
    """``P(sum_i Bernoulli(success[i]) <= count)``, Poisson-binomial, by convolution."""
    distribution = [1.0]
    for p in success:
        longer = [0.0] * (len(distribution) + 1)
        for k, mass in enumerate(distribution):
            longer[k] += mass * (1.0 - p)
            longer[k + 1] += mass * p
        distribution = longer
    return math.fsum(distribution[: count + 1])


def bleu_score(
    matches: Sequence[float],
    totals: Sequence[float],
    hypothesis_length: float,
    reference_length: float,
    smoothing: str,
) -> float:
    """BLEU in [0, 1] from counted or expected statistics; 0 as soon as a factor is 0."""
    if hypothesis_length == 0:
        return 0.0
    log_precisions = []
    for order, (match, total) in enumerate(zip(matches, totals, strict=True), start=1):
        add = {"none": 0, "add-k": int(order >= 2), "add-k-all": 1}[smoothing]
        if match + add == 0 or total + add == 0:
            return 0.0
        log_precisions.append(math.log((match + add) / (total + add)))
    brevity_penalty = math.exp(min(0.0, 1.0 - reference_length / hypothesis_length))
    return brevity_penalty * math.exp(sum(log_precisions) / len(log_precisions))


def sentence_bleu(hypothesis: Tokens, reference: Tokens, max_order: int, smoothing: str) -> float:
    return corpus_bleu([hypothesis], [reference], max_order, smoothing)


def corpus_bleu(
    hypotheses: Sequence[Tokens], references: Sequence[Tokens], max_order: int, smoothing: str
) -> float:
    orders = range(1, max_order + 1)
    pairs = list(zip(hypotheses, references, strict=True))
    return bleu_score(
        [sum(clipped_count(h, y, n) for h, y in pairs) for n in orders],
        [sum(max(len(h) - n + 1, 0) for h in hypotheses) for n in orders],
        sum(map(len, hypotheses)),
        sum(map(len, references)),
        smoothing,
    )
