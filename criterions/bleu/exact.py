"""The expected clipped count, exactly, by renewal recursion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from criterions.bleu.ngrams import HypothesisNgrams, ReferenceNgrams


def exact_overlap(ngrams: HypothesisNgrams) -> Tensor:
    """Expected clipped count ``E[sum_s min(C_s, r_s)]`` of independent positions.

    ``min(C_s, r_s) = sum_{k <= r_s} 1[C_s >= k]``, and the k-th occurrence of an n-gram starts at
    one position at most, so the expectation is the sum of ``f_k(i)``, the probability that it
    starts at position ``i``:

        ``f_1(i) = q_i - A_1(i)``,  ``f_k(i) = A_{k-1}(i) - A_k(i)``,
        ``A_k(i) = c_i P_k(i) + sum_d t_d(i) f_k(i - d)``,
        ``P_k(i) = (1 - e_{i-1}) P_k(i-1) + f_k(i - n)``,

    where ``c_i`` is the product of the n-gram's probabilities, ``t_d`` that of its last ``d``
    where ``d < n`` is a period of the n-gram, and ``P_k(i)`` the probability that the k-th
    occurrence has ended before position ``i`` and the hypothesis has not. Nothing is divided, so
    probabilities of 0 and 1 do no harm. A pair (n-gram, k) is an n-gram position of the reference:
    see ``criterions.bleu.ngrams``. Time O(B T R) and one step of the host for each of T positions;
    memory O(B T R), for each order and period.

    Returns:
        ``[orders, batch]``.
    """
    reference = ngrams.reference
    distances = range(1, len(ngrams.orders))
    if ngrams.p_ref.device.type == "cpu" and not bool(reference.periods.any()):
        distances = range(0)  # rare; looking costs nothing where no device has to be waited for
    tails = [ngrams.tail_products(distance) for distance in distances]
    occurs: Tensor = _Occurrences.apply(
        ngrams.products,
        ngrams.probability,
        torch.stack(tails) if tails else ngrams.products.new_zeros(0, *ngrams.products.shape),
        ngrams.continues,
        reference,
    )
    return occurs.masked_fill(~reference.valid, 0).sum(-1)


class _Occurrences(torch.autograd.Function):
    """Probability that occurrence ``rank + 1`` of each reference n-gram exists.

    One scan over the positions forward and one backward, vectorised over orders, sentences and
    reference n-grams: a buffer has ``[orders, batch * ref_len]`` for each position.
    """

    @staticmethod
    def forward(
        ctx: Any,
        products: Tensor,
        probability: Tensor,
        tails: Tensor,
        continues: Tensor | None,
        reference: ReferenceNgrams,
    ) -> Tensor:
        c, q = _positions_first(products), _positions_first(probability)
        t = tails.permute(0, 3, 1, 2, 4).flatten(3).contiguous()
        alive = None if continues is None else _per_ngram(continues, products.size(-1))
        is_first = (reference.rank == 0).flatten(1)
        previous = _flat_index(reference.previous)

        ended, f = _buffer_by_end(c)
        finished = torch.zeros_like(c)
        for i in range(c.size(0)):
            if i > 0:
                finished[i] = finished[i - 1] if alive is None else finished[i - 1] * alive[i - 1]
            again = c[i] * finished[i].add_(ended[i])
            for d in range(1, 1 + min(i, len(t))):
                again.addcmul_(t[d - 1, i], f[i - d])
            f[i] = torch.where(is_first, q[i], again.gather(1, previous)) - again
        ctx.save_for_backward(c, t, alive, f, finished, is_first, _flat_index(reference.next))
        ctx.shape = products.shape
        orders, batch, _, ref_len = products.shape
        return f.sum(0).view(orders, batch, ref_len)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        c, t, alive, f, finished, is_first, following = ctx.saved_tensors
        rows = c.size(0)
        grad = grad.flatten(1)
        has_next = following != torch.arange(following.size(1), device=following.device)
        # The adjoint of each line of the recursion, from the last row to the first.
        grad_finished, grad_finished_at_end = _buffer_by_end(c)
        grad_f, grad_again = torch.empty_like(c), torch.empty_like(c)
        for i in range(rows - 1, -1, -1):
            torch.add(grad, grad_finished_at_end[i], out=grad_f[i])
            for d in range(1, 1 + min(rows - 1 - i, len(t))):
                grad_f[i].addcmul_(t[d - 1, i + d], grad_again[i + d])
            torch.sub(grad_f[i].gather(1, following) * has_next, grad_f[i], out=grad_again[i])
            torch.mul(c[i], grad_again[i], out=grad_finished[i])
            if i + 1 < rows:
                carried = grad_finished[i + 1]
                grad_finished[i] += carried if alive is None else carried * alive[i]
        grad_products = _positions_third(grad_again * finished, ctx.shape)
        grad_probability = _positions_third(grad_f * is_first, ctx.shape)
        grad_tails = grad_continues = None
        if len(t):
            earlier = (torch.cat([torch.zeros_like(f[:d]), f[:-d]]) for d in range(1, 1 + len(t)))
            by_distance = [grad_again * before[:rows] for before in earlier]
            grad_tails = torch.stack([_positions_third(grad, ctx.shape) for grad in by_distance])
        if alive is not None:
            _, batch, _, ref_len = ctx.shape
            per_ngram = (grad_finished[1:rows] * finished[: rows - 1]).sum(1)
            per_row = per_ngram.view(rows - 1, batch, ref_len).sum(-1)
            grad_continues = torch.cat([per_row, per_row.new_zeros(1, batch)]).t()
        return grad_products, grad_probability, grad_tails, grad_continues, None


def _buffer_by_end(like: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros for the scan, and a view of them that is shifted by each order's length.

    Row ``i`` of the second, ``[rows, orders, ngrams]``, is for order ``n`` row ``i + n`` of the
    first: what is written at an n-gram's start is read at the position after its end.
    """
    rows, orders, ngrams = like.shape
    buffer = like.new_zeros(rows + orders, orders, ngrams)
    stride = orders * ngrams
    by_start = buffer.as_strided(like.shape, (stride, stride + ngrams, 1), storage_offset=stride)
    return buffer, by_start


def _positions_first(tensor: Tensor) -> Tensor:
    """``[orders, batch, tgt_len, ref_len]`` -> ``[rows, orders, batch * ref_len]``."""
    return tensor.permute(2, 0, 1, 3).flatten(2).contiguous()


def _positions_third(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Undo :func:`_positions_first`; ``shape`` is ``[orders, batch, tgt_len, ref_len]``."""
    orders, batch, rows, ref_len = shape
    return tensor.view(rows, orders, batch, ref_len).permute(1, 2, 0, 3)


def _per_ngram(per_row: Tensor, ref_len: int) -> Tensor:
    """``[batch, rows]`` -> ``[rows, batch * ref_len]``, each value repeated."""
    return per_row.t().repeat_interleave(ref_len, dim=1)


def _flat_index(ngrams: Tensor) -> Tensor:
    """``[orders, batch, ref_len]`` places within a sentence -> places within the flat batch."""
    batch, ref_len = ngrams.shape[1:]
    start = torch.arange(batch, device=ngrams.device) * ref_len
    return (ngrams + start.unsqueeze(1)).flatten(1)
