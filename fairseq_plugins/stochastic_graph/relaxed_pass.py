"""The pass of a decoder that is fed relaxed tokens, which are nodes of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from criterions.stochastic_graph import Estimator, StochasticGraph, UncheckedOneHotCategorical
from fairseq_plugins.relaxed_feeding import two_pass_logits, unrolled_logits
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.node_estimators import FED
from fairseq_plugins.stochastic_graph.rollout import Rollout


def relaxed_logits(
    model: Any,
    rollout: Rollout,
    graph: StochasticGraph,
    settings: Settings,
    estimator: Estimator | None,
    temperature: float,
    pad: int,
) -> Tensor:
    """Run the decoder on relaxed tokens of its own.

    Args:
        model: in training mode.
        rollout: with the reference, and where its tokens are fed all the same.
        graph: that is open.
        settings: the objective.
        estimator: of the relaxed tokens.
        temperature: of soft feeding.
        pad: index of padding.

    Returns:
        ``[batch, tgt_len, vocab]``.

    Raises:
        ValueError: a layer of the decoder is recorded.
    """
    batch, forced = rollout.batch, rollout.forced
    assert forced is not None

    def feed(logits: Tensor, step: int | None) -> Tensor:
        check_layers()
        # Padding has no embedding, and decoding never emits it.
        padding = torch.full((1,), pad, dtype=torch.long, device=logits.device)
        allowed = logits.index_fill(-1, padding, -torch.inf)
        if settings.feed == "soft":
            allowed = allowed / temperature
        distribution = UncheckedOneHotCategorical(logits=allowed)
        return graph.sample(FED, distribution, estimator=estimator, step=step)

    unroll = unrolled_logits if settings.unroll == "step_by_step" else two_pass_logits
    with _no_layers_in_decoder(model, graph) as check_layers:
        return unroll(
            model,
            batch.net_input,
            batch.prev_output_tokens,
            feed=feed,
            teacher_mask=torch.cat([torch.ones_like(forced[:, :1]), forced[:, :-1]], dim=1),
        )


@contextmanager
def _no_layers_in_decoder(model: Any, graph: StochasticGraph) -> Iterator[Any]:
    """For a while, give a check that no layer of the decoder was recorded.

    Relaxed feeding runs the decoder several times over in one graph.  Layers of the encoder, which
    runs once, are let through.
    """
    before: set[Any] = set()
    handle = model.decoder.register_forward_pre_hook(lambda *_: before.update(graph.nodes))

    def check() -> None:
        for key, node in graph.nodes.items():
            if key not in before and node.name != FED:
                raise ValueError(
                    f"{node} is in the decoder, which relaxed feeding (--feed soft, gumbel, "
                    "gumbel_st, straight_through) runs once for every token: use --feed teacher, "
                    "greedy or sample"
                )

    try:
        yield check
    finally:
        handle.remove()
