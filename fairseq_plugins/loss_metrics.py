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
