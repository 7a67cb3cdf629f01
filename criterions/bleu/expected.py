"""Expected BLEU of a decoder's output distribution, with gradient (arXiv 1712.04708).

The expected clipped counts are exact, by renewal recursion (:func:`exact_overlap`), or one of the
formulas in ``criterions.bleu.bounds``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from criterions.bleu.bounds import lower_overlap, paper_overlap, upper_overlap
from criterions.bleu.ngrams import HypothesisNgrams, hypothesis_ngrams, length_mask
from criterions.bleu.statistics import BleuStatistics, bleu_of
from criterions.checks import check_choice, check_order, check_positions, check_shape
from criterions.second_derivatives import differentiable_gradients


def expected_overlap(
    p_ref: Tensor,
    references: Tensor,
    order: int,
    *,
    value: str = "exact",
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    count_eos: bool | Tensor = False,
) -> Tensor:
    """Expected clipped count of the reference's n-grams in the hypothesis, ``E[O_n]``.

    The hypothesis' tokens are independent, ``x_i ~ p[i]``; ``O_n = sum_s min(C_s, r_s)`` over the
    distinct n-grams ``s`` of the reference is the numerator of BLEU's precision. Time and memory
    O(B (T + R) R) for each order; ``exact`` has T steps of the host.

    Args:
        p_ref: ``[batch, tgt_len, ref_len]``; ``p_ref[b, i, j]`` is the probability of token
            ``references[b, j]`` at position ``i``. float32 or float64 (16-bit probabilities are
            computed in float32).
        references: ``[batch, ref_len]``, integer token ids without ``</s>``.
        order: the length of the n-grams, at least 1.
        value: ``exact`` (the expectation), ``paper`` (the published formula, which is not always a
            bound), ``lower`` and ``upper`` (bounds, always).
        lengths: ``[batch]``, positions that exist (default: ``tgt_len``).
        reference_lengths: ``[batch]``, tokens of each reference (default: ``ref_len``).
        eos_probabilities: ``[batch, tgt_len]``, probability of ``</s>`` at each position. With it,
            the tokens after the first ``</s>`` do not count.
        count_eos: ``</s>`` is a token of hypothesis and reference, so that n-grams that end in it
            count; or ``[batch]`` bool, False for references that have none, such as those that
            were cut off. Needs ``eos_probabilities``.

    Returns:
        ``[batch]``, between 0 and the number of n-grams in the reference.

    Raises:
        ValueError: a shape, the order or the value's name does not fit.
    """
    check_order("order", order)
    return expected_statistics(
        p_ref,
        references,
        value=value,
        max_order=order,
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities,
        count_eos=count_eos,
    ).matches[:, -1]


def expected_statistics(
    p_ref: Tensor,
    references: Tensor,
    *,
    value: str = "exact",
    max_order: int = 4,
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    count_eos: bool | Tensor = False,
) -> BleuStatistics:
    """Expected clipped counts, n-gram totals and lengths of each sentence, with gradient.

    Arguments, errors and complexity as of :func:`criterions.expected_overlap`, for the orders 1 to
    ``max_order``. Returns matches and totals ``[batch, max_order]``, hypothesis and reference
    length ``[batch]``, in tokens, ``</s>`` among them with ``count_eos``. Sum them over sentences,
    and over data-parallel workers, before taking the score.
    """
    check_order("max_order", max_order)
    check_choice("value", value, list(OVERLAPS))
    check_positions(p_ref, references, lengths, reference_lengths, eos_probabilities)
    ngrams = hypothesis_ngrams(
        p_ref, references, max_order, lengths, reference_lengths, eos_probabilities
    )
    matches = OVERLAPS[value](ngrams).t()
    words = length_mask(reference_lengths, references.size(1), like=references).sum(1)
    is_token = ngrams.survival * ngrams.exists
    if count_eos is False:
        if ngrams.continues is not None:
            is_token = is_token * ngrams.continues
    elif eos_probabilities is None:
        raise ValueError("count_eos needs eos_probabilities")
    else:
        has_eos = count_eos if isinstance(count_eos, Tensor) else torch.ones_like(words).bool()
        check_shape("count_eos", has_eos, words.shape)
        final = ngrams.final_ngrams(eos_probabilities, words)
        matches = matches + final.masked_fill(~has_eos.unsqueeze(1), 0)
        words = words + has_eos
    return BleuStatistics(
        matches=matches,
        totals=torch.stack([is_token[:, order - 1 :].sum(1) for order in ngrams.orders], dim=1),
        hypothesis_length=is_token.sum(1),
        reference_length=words.to(matches.dtype),
    )


def expected_bleu(
    p_ref: Tensor,
    references: Tensor,
    *,
    value: str = "exact",
    max_order: int = 4,
    level: str = "corpus",
    smoothing: str = "add-k",
    lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    eos_probabilities: Tensor | None = None,
    count_eos: bool | Tensor = False,
) -> Tensor:
    """BLEU of the expected clipped counts, totals and lengths (arXiv 1712.04708).

    BLEU of expected statistics is not the expected BLEU: with exact counts and a fixed length it
    is an upper bound of one sentence's expected BLEU (the geometric mean is concave; with a random
    length the brevity penalty is not). The more sentences the statistics are summed over, the
    nearer it is to the expected corpus BLEU. With ``eos_probabilities`` length and brevity penalty
    are expected values and carry gradient.

    Args:
        p_ref, references, value, lengths, reference_lengths, eos_probabilities, count_eos: as in
            :func:`criterions.expected_overlap`.
        max_order: highest n-gram order.
        level: ``corpus``, one score of the whole batch, or ``sentence``.
        smoothing: as in :func:`criterions.bleu_from_statistics`.

    Returns:
        Scalar (``corpus``) or ``[batch]`` (``sentence``), 0 to 1.

    Raises:
        ValueError: a shape, an order or a name does not fit.
    """
    statistics = expected_statistics(
        p_ref,
        references,
        value=value,
        max_order=max_order,
        lengths=lengths,
        reference_lengths=reference_lengths,
        eos_probabilities=eos_probabilities,
        count_eos=count_eos,
    )
    return bleu_of(statistics, level, smoothing)


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
    see ``criterions.bleu.ngrams``. Time and memory O(B T R) for each order and period, in T steps
    of the host. Returns ``[orders, batch]``.
    """
    reference, ref_len = ngrams.reference, ngrams.products.size(-1)
    c = _by_position(ngrams.products)
    q, alive = c, None
    if ngrams.continues is not None:
        alive, survival = (
            values.t().unsqueeze(2).expand(-1, -1, ref_len).flatten(1)
            for values in (ngrams.continues, ngrams.survival)
        )
        q = c * survival.unsqueeze(1)
    distances = range(1, len(ngrams.orders))
    if c.device.type == "cpu" and not bool(reference.periods.any()):
        distances = range(0)  # rare; looking costs nothing where no device has to be waited for
    tails = [_by_position(ngrams.tail_products(distance)) for distance in distances]
    t = torch.stack(tails) if tails else c.new_zeros(0, *c.shape)
    is_first = (reference.rank == 0).flatten(1)
    neighbours = _flat_index(reference.previous), _flat_index(reference.next)
    occurs: Tensor = _Occurrences.apply(c, q, t, alive, is_first, *neighbours)
    return occurs.view(reference.valid.shape).masked_fill(~reference.valid, 0).sum(-1)


class _Occurrences(torch.autograd.Function):
    """Probability that occurrence ``rank + 1`` of each reference n-gram exists.

    ``c``, ``q`` and each of ``t`` are ``[positions, orders, batch * ref_len]``, ``alive``
    ``[positions, batch * ref_len]``. One scan over the positions forward and one backward, each
    vectorised over the rest.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        f, finished = _scan(*inputs)
        ctx.save_for_backward(*inputs, f, finished)
        return f.sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, f, finished = ctx.saved_tensors
        if torch.is_grad_enabled():  # under create_graph
            return differentiable_gradients(lambda *x: _scan(*x)[0].sum(0), inputs, grad)
        c, _, t, alive, is_first, _, following = inputs
        positions, orders, width = c.shape
        has_next = following != torch.arange(width, device=c.device)
        grad_t = torch.zeros_like(t)
        grad_alive = None if alive is None else torch.zeros_like(alive)
        # What is written at an n-gram's start is read, by its order, at the position after its end.
        buffer = c.new_zeros(positions + orders, orders, width)
        stride = orders * width
        grad_finished_at_end = buffer.as_strided(c.shape, (stride, stride + width, 1), stride)
        grad_finished = buffer[:positions]
        grad_f, grad_again = torch.empty_like(c), torch.empty_like(c)
        # The adjoint of each line of the recursion, from the last position to the first.
        for i in range(positions - 1, -1, -1):
            torch.add(grad, grad_finished_at_end[i], out=grad_f[i])
            for d in range(1, 1 + min(positions - 1 - i, len(t))):
                grad_f[i].addcmul_(t[d - 1, i + d], grad_again[i + d])
            torch.sub(grad_f[i].gather(1, following) * has_next, grad_f[i], out=grad_again[i])
            torch.mul(c[i], grad_again[i], out=grad_finished[i])
            if i + 1 < positions:
                carried = grad_finished[i + 1]
                grad_finished[i] += carried if alive is None else carried * alive[i]
        for d in range(1, 1 + min(positions - 1, len(t))):
            torch.mul(grad_again[d:], f[:-d], out=grad_t[d - 1, d:])
        if grad_alive is not None:
            grad_alive[:-1] = (grad_finished[1:] * finished[:-1]).sum(1)
        return grad_again * finished, grad_f * is_first, grad_t, grad_alive, None, None, None


def _scan(
    c: Tensor,
    q: Tensor,
    t: Tensor,
    alive: Tensor | None,
    is_first: Tensor,
    previous: Tensor,
    following: Tensor,
) -> tuple[Tensor, Tensor]:
    """``f`` and ``P`` of :func:`exact_overlap`, ``[positions, orders, batch * ref_len]``."""
    f: list[Tensor] = []
    finished: list[Tensor] = []
    orders, width = c.shape[1:]
    nothing = c.new_zeros(width)
    for i in range(c.size(0)):
        ended = torch.stack([f[i - n][n - 1] if i >= n else nothing for n in range(1, 1 + orders)])
        if i > 0:
            carried = finished[-1]
            ended = ended + (carried if alive is None else carried * alive[i - 1])
        again = c[i] * ended
        for d in range(1, 1 + min(i, len(t))):
            again = torch.addcmul(again, t[d - 1, i], f[i - d])
        finished.append(ended)
        f.append(torch.where(is_first, q[i], again.gather(1, previous)) - again)
    return (torch.stack(f), torch.stack(finished)) if f else (c, c)


def _by_position(ngrams: Tensor) -> Tensor:
    """``[orders, batch, tgt_len, ref_len]`` -> ``[tgt_len, orders, batch * ref_len]``."""
    return ngrams.permute(2, 0, 1, 3).flatten(2).contiguous()


def _flat_index(ngrams: Tensor) -> Tensor:
    """``[orders, batch, ref_len]`` places within a sentence -> places within the flat batch."""
    batch, ref_len = ngrams.shape[1:]
    start = torch.arange(batch, device=ngrams.device) * ref_len
    return (ngrams + start.unsqueeze(1)).flatten(1)


OVERLAPS: dict[str, Callable[[HypothesisNgrams], Tensor]] = {
    "exact": exact_overlap,
    "paper": paper_overlap,
    "lower": lower_overlap,
    "upper": upper_overlap,
}
"""How the expected clipped counts are computed: name -> function to ``[orders, batch]``."""
