"""What a training log should show of a graph; the surrogate's own value means nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from criterions.stochastic_graph.nodes import StochasticNode, canonical
from criterions.stochastic_graph.samples import SampleLayout
from criterions.stochastic_graph.surrogate import ScoreTerm


def _entropy(node: StochasticNode, layout: SampleLayout) -> Tensor | None:
    try:
        entropy = node.law.entropy()
    except NotImplementedError:
        return None
    return canonical(
        f"entropy of {node}", entropy, layout, node.depth, node.has_time, node.part_mask
    )


@torch.no_grad()
def score_statistics(terms: Iterable[ScoreTerm], layout: SampleLayout) -> dict[str, Tensor]:
    """Means over the positions that exist, all steps of a name together.

    Args:
        terms: the score terms of a graph.
        layout: of its samples.

    Returns:
        scalars, 0 where no position exists: ``log_prob/NAME``, ``entropy/NAME`` (where the law has
        one), ``downstream/NAME`` (``Q``), ``baseline/NAME``, ``advantage/NAME`` and
        ``advantage_variance/NAME``.
    """
    by_name: dict[str, list[ScoreTerm]] = {}
    for term in terms:
        by_name.setdefault(term.node.name, []).append(term)

    statistics = {}
    for name, group in by_name.items():
        weight = torch.cat(
            [t.downstream.weight.expand_as(t.downstream.cost).flatten() for t in group]
        )
        total = weight.sum()

        def mean(
            values: Iterable[Tensor],
            group: list[ScoreTerm] = group,
            weight: Tensor = weight,
            total: Tensor = total,
        ) -> Tensor:
            pairs = zip(values, group, strict=True)
            flat = torch.cat([v.expand_as(t.downstream.cost).flatten() for v, t in pairs])
            # What lies past the end may be anything, NaN too.
            counted = torch.where(weight > 0, weight * flat, torch.zeros_like(flat)).sum()
            return counted / total.clamp(min=torch.finfo(total.dtype).tiny)

        log_probs = [t.node.log_prob for t in group if t.node.log_prob is not None]
        advantage = mean(t.advantage for t in group)
        statistics[f"log_prob/{name}"] = mean(log_probs)
        entropies = [_entropy(t.node, layout) for t in group]
        known = [entropy for entropy in entropies if entropy is not None]
        if len(known) == len(group):
            statistics[f"entropy/{name}"] = mean(known)
        statistics[f"downstream/{name}"] = mean(t.downstream.cost for t in group)
        statistics[f"baseline/{name}"] = mean(t.baseline.detach() for t in group)
        statistics[f"advantage/{name}"] = advantage
        statistics[f"advantage_variance/{name}"] = mean(
            (t.advantage - advantage).square() for t in group
        )
    return statistics
