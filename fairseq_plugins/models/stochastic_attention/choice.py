"""What stands for "where to look" at one moment: weights over the source's positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from criterions.stochastic_graph import (
    Enumeration,
    Estimator,
    GumbelSoftmax,
    OneHotLaw,
    StraightThroughGumbel,
    estimator_of,
    one_hot_argmax,
    sample,
)
from fairseq_plugins.models.stochastic_attention.flags import AttentionSettings

DRAWN = ("hard", "gumbel", "gumbel_st")
"""Kinds that draw in training: a graph records them as stochastic nodes."""


class PositionChoice(nn.Module):
    """How one attention of the decoder comes from scores to weights.

    Without parameters.  Which way it takes depends on the moment: see :meth:`way`.

    Args:
        name: of the node in the graph; no two attentions of a model may share it.
        settings: from the flags.
    """

    def __init__(self, name: str, settings: AttentionSettings) -> None:
        super().__init__()
        self.name = name
        self.settings = settings
        self.estimator: Estimator | None = {
            "gumbel": GumbelSoftmax,
            "gumbel_st": StraightThroughGumbel,
        }.get(settings.kind, _nothing)(settings.temperature)
        self._update = 0

    def set_num_updates(self, num_updates: int) -> None:
        """The number of the update, which fairseq's trainer tells all modules."""
        self._update = num_updates

    def way(self) -> str:
        """``soft``, ``mode``, ``sample``, ``draw`` or ``exact``: what the next weights are.

        Within a graph, or while outputs are decoded for one, it is the kind of training,
        whatever mode the modules are in: the pass with gradient may be one without dropout.
        Elsewhere it is that of evaluation, unless there is training without a graph.

        Raises:
            ValueError: ``hard`` in training without a graph, or ``enumeration``, which it does
                not bear.
        """
        kind = self.settings.kind
        estimator = estimator_of(self.name, self.estimator)
        if estimator is None and not (self.training and torch.is_grad_enabled()):
            return self.settings.evaluation
        if kind in DRAWN and isinstance(estimator, Enumeration):
            raise ValueError(
                f"--layer-estimator enumeration does not go with --attention {kind}: use "
                "--attention exact, which sums over the positions in the model itself"
            )
        if kind == "hard" and estimator is None:
            raise ValueError(
                "--attention hard needs the gradient estimator of --criterion stochastic_graph; "
                "with other criterions use --attention gumbel, gumbel_st, exact or soft"
            )
        return {"greedy": "mode", "soft": "soft", "exact": "exact"}.get(kind, "draw")

    def weights(
        self, way: str, scores: Tensor, *, mask: Tensor | None = None, step: int | None = None
    ) -> Tensor:
        """Weights by which the source's positions are summed.

        Args:
            way: of :meth:`way`, but not ``exact``.
            scores: ``[batch, ..., src_len]`` before the softmax, ``-inf`` at padding.
            mask: ``[batch, ...]`` bool, which choices exist.
            step: decoder step, of an attention that is called once for each.

        Returns:
            of the shape of ``scores``, float32 (float64 for float64 scores); they sum to 1.
        """
        scores = at_least_float32(scores)
        if way == "soft":
            return scores.softmax(-1)
        if way == "mode":
            return one_hot_argmax(scores)
        law = OneHotLaw(logits=scores)
        if way == "sample":
            return law.sample()
        if estimator_of(self.name) is None:
            # A criterion without a graph: the estimator gives the gradient by itself.
            assert self.estimator is not None
            return self.estimator.draw(law, update=self._update).value
        return sample(self.name, law, estimator=self.estimator, mask=mask, step=step)


def at_least_float32(tensor: Tensor) -> Tensor:
    """In float32, or in float64 if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _nothing(temperature: object) -> None:
    """No estimator of the layer's own."""
