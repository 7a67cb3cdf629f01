"""Expected BLEU as fairseq metrics: sums in, scores out, whatever was summed in between."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor

from criterions import BleuStatistics, bleu_from_statistics


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
