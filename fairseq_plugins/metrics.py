"""Logged sums as fairseq metrics: the loss, the negative log-likelihood, expected BLEU."""

from __future__ import annotations

import math
from typing import Any

import torch
from fairseq import utils
from fairseq.logging import metrics
from torch import Tensor

from criterions import BleuStatistics, bleu_from_statistics


def log_loss(logging_outputs: list[dict[str, Any]]) -> None:
    """Log ``loss`` (what is minimised) and, if there is one, ``nll_loss`` with its ``ppl``.

    Args:
        logging_outputs: sums ``loss`` and ``sample_size``; ``nll_loss`` in nats and ``ntokens``.
            The logged ``nll_loss`` is in bits per token; of ``nll_loss_count`` tokens, if there
            is one.
    """

    def total(key: str) -> Any:
        return sum(log.get(key, 0) for log in logging_outputs)

    sample_size = total("sample_size")
    metrics.log_scalar("loss", total("loss") / sample_size, sample_size, round=4)
    if any("nll_loss_count" in log for log in logging_outputs):
        _log_bits("nll_loss", total("nll_loss"), total("nll_loss_count"))
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(_bits(meters, "nll_loss")))
    elif any("nll_loss" in log for log in logging_outputs):
        ntokens = total("ntokens")
        bits = total("nll_loss") / ntokens / math.log(2)
        metrics.log_scalar("nll_loss", bits, ntokens, round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))


def log_head_losses(logging_outputs: list[dict[str, Any]]) -> None:
    """Log the losses of a model's further heads, in bits as fairseq's ``nat_loss`` logs them.

    Args:
        logging_outputs: for each head the sums ``NAME_loss``, in nats, and ``NAME_loss_count``.
    """
    for name in logging_outputs[0]:
        if name.endswith("_loss") and name != "nll_loss":
            keys = (name, f"{name}_count")
            _log_bits(name, *(sum(log.get(key, 0) for log in logging_outputs) for key in keys))


def _log_bits(name: str, nats: Any, count: Any) -> None:
    """Log a mean over a count that is on the device: a meter's weight would have to be read."""
    metrics.log_scalar(f"_{name}", nats)
    metrics.log_scalar(f"_{name}_count", count)
    metrics.log_derived(name, lambda meters: round(_bits(meters, name), 3))


def _bits(meters: Any, name: str) -> float:
    """Mean in bits of what :func:`_log_bits` logged; 0 where there is nothing to average."""
    nats, count = (float(meters[key].sum) for key in (f"_{name}", f"_{name}_count"))
    return nats / max(count, 1) / math.log(2)


def logged_sums(corpus: BleuStatistics) -> dict[str, Tensor]:
    """What a criterion logs: scalars that are summed over batches and workers.

    Args:
        corpus: matches and totals ``[orders]``, lengths scalars.
    """
    sums = {
        "expected_length": corpus.hypothesis_length,
        "reference_length": corpus.reference_length,
    }
    for index in range(corpus.matches.size(0)):
        sums[f"expected_matches_{index + 1}"] = corpus.matches[index]
        sums[f"expected_totals_{index + 1}"] = corpus.totals[index]
    return sums


def log_expected_bleu(logging_outputs: list[dict[str, Any]]) -> None:
    """Log scores of the sums of :func:`logged_sums`.

    ``expected_bleu`` and ``precision_N`` run from 0 to 100, without smoothing, over all sentences
    since the last line of the log; ``length_ratio`` is expected tokens over reference tokens.
    """
    orders = sum(key.startswith("expected_matches_") for key in logging_outputs[0])
    names = [f"expected_matches_{order}" for order in range(1, orders + 1)]
    names += [f"expected_totals_{order}" for order in range(1, orders + 1)]
    for name in [*names, "expected_length", "reference_length"]:
        metrics.log_scalar(f"_{name}", sum(log.get(name, 0) for log in logging_outputs))

    def summed(meters: Any, name: str) -> Tensor:
        return torch.as_tensor(meters[f"_{name}"].sum, dtype=torch.float64).cpu()

    def expected_bleu(meters: Any) -> float:
        sums = torch.stack([summed(meters, name) for name in names])
        lengths = summed(meters, "expected_length"), summed(meters, "reference_length")
        score = bleu_from_statistics(*sums.split(orders), *lengths, smoothing="none")
        return round(100 * float(score), 2)

    def ratio(meters: Any, numerator: str, denominator: str, scale: float) -> float:
        below = float(summed(meters, denominator))
        return round(scale * float(summed(meters, numerator)) / below, 4) if below else 0.0

    metrics.log_derived("expected_bleu", expected_bleu)
    metrics.log_derived(
        "length_ratio", lambda meters: ratio(meters, "expected_length", "reference_length", 1)
    )
    for order in range(1, orders + 1):
        metrics.log_derived(
            f"precision_{order}",
            lambda meters, n=order: ratio(
                meters, f"expected_matches_{n}", f"expected_totals_{n}", 100
            ),
        )
