"""Small policies whose expected cost is known by other routes than sampling.

Two routes that share no code with the library: the expected cost of :class:`Chain` by recursion
from the last step, and probabilities of whole outcomes by products of table entries, both in
plain PyTorch scalars.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

EOS = 0
START = -1


def random(*shape: int, seed: int, grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return values.requires_grad_(grad)


class Chain:
    """Tokens drawn one after the other, each from a row chosen by the one before.

    ``EOS`` ends the output; it is itself drawn and paid for.  Token ``v`` after ``u`` at step t
    costs ``price[t, u, v] + extra[t, u] ** 2``, of which ``extra`` is a parameter: a cost with a
    gradient of its own.
    """

    def __init__(self, steps: int = 3, vocab: int = 3, seed: int = 0) -> None:
        self.steps, self.vocab = steps, vocab
        self.table = random(steps, vocab + 1, vocab, seed=seed)
        self.extra = random(steps, vocab + 1, seed=seed + 1)
        self.price = random(steps, vocab + 1, vocab, seed=seed + 2, grad=False)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.table, self.extra]

    def expected_cost(self, step: int = 0, before: int = START) -> Tensor:
        """From ``step`` on, by recursion; differentiable."""
        if step == self.steps:
            return torch.zeros((), dtype=torch.float64)
        scores = [self.table[step, before, v].exp() for v in range(self.vocab)]
        total = torch.zeros((), dtype=torch.float64)
        for v in range(self.vocab):
            cost = self.price[step, before, v] + self.extra[step, before] ** 2
            rest = 0.0 if v == EOS else self.expected_cost(step + 1, v)
            total = total + scores[v] / sum(scores) * (cost + rest)
        return total

    def true_gradient(self) -> list[Tensor]:
        return list(torch.autograd.grad(self.expected_cost(), self.parameters))

    # Tensors over given outcomes [rows, steps], as a model and a criterion would compute them.

    def outcomes(self) -> Tensor:
        """Every sequence of ``steps`` tokens, also those that go on after EOS."""
        return torch.tensor(list(itertools.product(range(self.vocab), repeat=self.steps)))

    def previous(self, tokens: Tensor) -> Tensor:
        start = torch.full_like(tokens[:, :1], START)
        return torch.cat([start, tokens[:, :-1]], dim=1)

    def logits(self, tokens: Tensor) -> Tensor:
        """``[rows, steps, vocab]``."""
        return self.table[torch.arange(self.steps), self.previous(tokens)]

    def costs(self, tokens: Tensor) -> Tensor:
        """``[rows, steps]``, also past the end."""
        steps, previous = torch.arange(self.steps), self.previous(tokens)
        return self.price[steps, previous, tokens] + self.extra[steps, previous] ** 2

    def exists(self, tokens: Tensor) -> Tensor:
        """``[rows, steps]``: True up to and including EOS."""
        rows = [
            [EOS not in row[:t] for t in range(len(row))]  # nothing before t ended it
            for row in tokens.tolist()
        ]
        return torch.tensor(rows)

    def probability(self, tokens: Tensor) -> Tensor:
        """``[rows]``: of all ``steps`` draws, the idle ones past the end included."""
        rows = []
        for row in tokens.tolist():
            p = 1.0
            for t, v in enumerate(row):
                scores = self.table[t, row[t - 1] if t else START].detach().exp().tolist()
                p *= scores[v] / math.fsum(scores)
            rows.append(p)
        return torch.tensor(rows, dtype=torch.float64)


def gradient(objective: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(objective, parameters))


def assert_equal(actual: list[Tensor], expected: list[Tensor], atol: float = 1e-10) -> None:
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=atol)
