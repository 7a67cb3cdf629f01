"""What the log shows of a graph: means over sentences, never the surrogate's own value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairseq.logging import metrics
from torch import Tensor

from fairseq_plugins.loss_metrics import log_loss
from fairseq_plugins.stochastic_graph.estimators import EMITTED, FED

# A key of the logging output that is a sum over sentences.
_PER_SENTENCE = "per_sentence/"
_TOKEN_NODES = (EMITTED, FED)


def per_sentence(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mark sums over the sources of a batch, to be logged as means over all sources."""
    return {_PER_SENTENCE + name: value for name, value in sums.items()}


def graph_sums(statistics: Mapping[str, Tensor], sentences: int) -> dict[str, Tensor]:
    """A graph's statistics as sums over sentences.

    Of the tokens: ``entropy`` (nats), ``log_prob``, ``baseline``, ``advantage``,
    ``advantage_variance``.  Of a stochastic layer the same, with ``_NAME`` behind.  What a layer
    observed has its own name.

    Args:
        statistics: :meth:`StochasticGraph.statistics`, ``KIND/NAME``.
        sentences: of the batch.
    """
    sums = {}
    for key, value in statistics.items():
        kind, name = key.split("/", 1)
        if kind in ("cost", "downstream"):
            continue
        label = kind if name in _TOKEN_NODES else f"{kind}_{name}"
        if kind == "observed":
            label = name
        sums[label] = value.detach() * sentences
    return per_sentence(sums)


def observed_sums(statistics: Mapping[str, Tensor], sentences: int) -> dict[str, Tensor]:
    """The part of :func:`graph_sums` that layers observed."""
    observed = {key: value for key, value in statistics.items() if key.startswith("observed/")}
    return graph_sums(observed, sentences)


def log_graph_metrics(logging_outputs: list[dict[str, Any]]) -> None:
    """Log the sums of all workers: :func:`log_loss`, and the rest as means over sentences."""

    log_loss(logging_outputs)
    sentences = sum(log["nsentences"] for log in logging_outputs)
    names = {key for log in logging_outputs for key in log if key.startswith(_PER_SENTENCE)}
    for key in sorted(names):
        name = key.removeprefix(_PER_SENTENCE)
        total = sum(log.get(key, 0) for log in logging_outputs)
        metrics.log_scalar(name, total / sentences, sentences, round=4)
