"""Decoding as the tests call it, and the distributions that its outputs should have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from fairseq_setup import FixedRows
from torch import Tensor

from fairseq_plugins.decoding import DecodedTokens, decode

Output = tuple[int, ...]


class Stub:
    """A ``FixedRows`` model where ``decoded`` looks for one."""

    def __init__(self, task: Any, rows: Tensor) -> None:
        self.task, self.model = task, FixedRows(rows)


def decoded(built: Any, batch: dict, limit: int | Tensor, **keywords: Any) -> DecodedTokens:
    """``decode`` with the dictionary's symbols; one limit for all, or a tensor."""
    dictionary = built.task.target_dictionary
    size = batch["target"].size(0)
    rows = size * keywords.get("samples", 1)
    limits = torch.full((rows,), limit) if isinstance(limit, int) else limit
    eos, pad = dictionary.eos(), dictionary.pad()
    return decode(built.model, batch["net_input"], limits, eos=eos, pad=pad, **keywords)


def policy_logits(
    logits: Tensor, *, eos: int, pad: int, min_length: int = 1, temperature: float = 1.0
) -> Tensor:
    """Logits of what ``decode`` draws from, of a pass that was fed the sentences from their start.

    ``-inf`` for padding, and for ``</s>`` in the first ``min_length`` columns.
    """
    divided = logits.float() / temperature
    excluded = torch.zeros_like(divided, dtype=torch.bool)
    excluded[:, :, pad] = True
    excluded[:, :min_length, eos] = True
    return divided.masked_fill(excluded, -torch.inf)


def outputs_of(result: DecodedTokens) -> list[Output]:
    """The emitted tokens of each row, without padding."""
    pairs = zip(result.tokens.tolist(), result.emitted.tolist(), strict=True)
    return [tuple(row[:length]) for row, length in pairs]


def fed_by(result: DecodedTokens, eos: int) -> Tensor:
    """``prev_output_tokens`` of a pass over what was emitted."""
    return torch.cat([torch.full_like(result.tokens[:, :1], eos), result.tokens[:, :-1]], dim=1)


def exact_distribution(
    model: Any, source: dict[str, Tensor], limit: int, eos: int, pad: int
) -> dict[Output, float]:
    """Probability of every output of at most ``limit`` tokens: the chain rule, by full passes."""
    complete: dict[Output, float] = {}
    open_prefixes: dict[Output, float] = {(): 1.0}
    for step in range(limit):
        following: dict[Output, float] = {}
        for prefix, probability in open_prefixes.items():
            fed = torch.tensor([[eos, *prefix]])
            output = model(**source, prev_output_tokens=fed)
            row = model.get_normalized_probs(output, log_probs=False)[0, -1].tolist()
            allowed = [v for v in range(len(row)) if v != pad and (v != eos or step > 0)]
            mass = sum(row[v] for v in allowed)
            for v in allowed:
                target = complete if v == eos or step + 1 == limit else following
                target[(*prefix, v)] = probability * row[v] / mass
        open_prefixes = following
    return complete


def p_value(drawn: Iterable[Hashable], expected: Mapping[Any, float]) -> float:
    """Of Pearson's chi-square test; what is expected fewer than 5 times is one class."""
    counts = Counter(drawn)
    total = sum(counts.values())
    assert abs(sum(expected.values()) - 1) < 1e-5
    assert set(counts) <= {value for value, p in expected.items() if p > 0}
    frequent = {value for value, p in expected.items() if p * total >= 5}
    classes = [(counts[value], expected[value] * total) for value in frequent]
    seen = sum(got for got, _ in classes)
    wanted = sum(mean for _, mean in classes)
    if total - wanted >= 5:
        classes.append((total - seen, total - wanted))
    freedom = len(classes) - 1
    assert freedom >= 1, "too few classes to tell anything"
    statistic = sum((got - mean) ** 2 / mean for got, mean in classes)
    halves = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(*halves))
