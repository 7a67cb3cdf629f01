"""The loss and the negative log-likelihood as fairseq metrics, as its own criterions log them."""

from __future__ import annotations

import math
from typing import Any

from fairseq import utils
from fairseq.logging import metrics


def log_loss(logging_outputs: list[dict[str, Any]]) -> None:
    """Log ``loss`` (what is minimised) and, if there is one, ``nll_loss`` with its ``ppl``.

    Args:
        logging_outputs: sums ``loss`` and ``sample_size``; ``nll_loss`` in nats and ``ntokens``.
            The logged ``nll_loss`` is in bits per token.
    """

    def total(key: str) -> Any:
        return sum(log.get(key, 0) for log in logging_outputs)

    sample_size = total("sample_size")
    metrics.log_scalar("loss", total("loss") / sample_size, sample_size, round=4)
    if any("nll_loss" in log for log in logging_outputs):
        ntokens = total("ntokens")
        bits = total("nll_loss") / ntokens / math.log(2)
        metrics.log_scalar("nll_loss", bits, ntokens, round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))


def log_head_losses(logging_outputs: list[dict[str, Any]]) -> None:
    """Log the losses of a model's further heads, in bits as fairseq's ``nat_loss`` logs them.

    Args:
        logging_outputs: sums ``NAME_loss`` in nats, as many as there are heads, and ``ntokens``.
    """
    names = [key for key in logging_outputs[0] if key.endswith("_loss") and key != "nll_loss"]
    ntokens = sum(log.get("ntokens", 0) for log in logging_outputs)
    for name in names:
        total = sum(log.get(name, 0) for log in logging_outputs)
        metrics.log_scalar(name, total / ntokens / math.log(2), ntokens, round=3)
