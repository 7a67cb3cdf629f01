"""Decoding inside a training step: batched, incremental, without gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models.fairseq_incremental_decoder import FairseqIncrementalDecoder
from torch import Tensor, nn

# On an accelerator, asking whether all sentences have ended makes the host wait; asked once in
# this many steps, the few superfluous steps cost less.
_STEPS_BETWEEN_CHECKS = {"cpu": 1}
_STEPS_BETWEEN_CHECKS_ELSEWHERE = 8


@dataclass(frozen=True)
class DecodedTokens:
    """What a decoder emitted.

    ``tokens``: ``[batch, length]`` int64; padding after ``</s>``.
    ``emitted``: ``[batch]``, tokens emitted, ``</s>`` included where it was reached.
    ``ended``: ``[batch]`` bool, ``</s>`` was reached before the length limit.
    """

    tokens: Tensor
    emitted: Tensor
    ended: Tensor

    @property
    def lengths(self) -> Tensor:
        """``[batch]``: tokens without ``</s>``."""
        return self.emitted - self.ended.long()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and every module back to the mode it was in afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def decode_limits(source_lengths: Tensor, ratio: float, longest: int) -> Tensor:
    """``[batch]``: most tokens a sentence may have, ``min(ratio * source + 10, longest)``.

    The constant lets a very short source have a translation longer than ``ratio`` allows.
    """
    return (source_lengths * ratio).long().add(10).clamp(max=longest)


@torch.no_grad()
def decode(
    model: Any,
    net_input: dict[str, Tensor],
    limits: Tensor,
    *,
    eos: int,
    pad: int,
    sample: bool = False,
    min_length: int = 1,
    prefix: Tensor | None = None,
) -> DecodedTokens:
    """Greedy decoding or ancestral sampling with a fairseq encoder-decoder model.

    The model decodes in evaluation mode (without dropout), as ``fairseq-generate`` does; the
    encoder runs once.  Padding is never emitted.

    Args:
        model: fairseq encoder-decoder model, possibly wrapped for data parallelism.
        net_input: ``sample["net_input"]``; the first column of ``prev_output_tokens`` starts the
            sentences.
        limits: ``[batch]``, tokens after which a sentence is cut off.
        eos: index of ``</s>``.
        pad: index of padding.
        sample: draw from the model's distribution instead of taking its most probable token.
        min_length: tokens before which ``</s>`` is not allowed; fairseq's generator has 1.
        prefix: ``[batch, prefix_len]``, tokens that every sentence has to begin with.

    Returns:
        the emitted tokens, prefix included.
    """
    with evaluation_mode(model):
        encoder_out = model.encoder.forward_torchscript(net_input)
        state: dict[str, Any] = {}
        incremental = isinstance(model.decoder, FairseqIncrementalDecoder)
        fed = net_input["prev_output_tokens"][:, :1]
        finished = torch.zeros(fed.size(0), dtype=torch.bool, device=fed.device)
        emitted = torch.zeros_like(fed[:, 0])
        ended = torch.zeros_like(finished)
        interval = _STEPS_BETWEEN_CHECKS.get(fed.device.type, _STEPS_BETWEEN_CHECKS_ELSEWHERE)
        prefix_len = 0 if prefix is None else prefix.size(1)
        for step in range(int(limits.max())):
            extra = {"incremental_state": state} if incremental else {}
            rows = model.decoder(fed, encoder_out=encoder_out, **extra)[0][:, -1].float()
            rows[:, pad] = -torch.inf
            if step < min_length:
                rows[:, eos] = -torch.inf
            if prefix is not None and step < prefix_len:
                token = prefix[:, step]
            elif sample:
                token = torch.multinomial(rows.softmax(-1), 1).squeeze(1)
            else:
                token = rows.argmax(-1)
            token = token.masked_fill(finished, pad)
            fed = torch.cat([fed, token.unsqueeze(1)], dim=1)
            emitted += ~finished
            ended |= token == eos
            finished = ended | (emitted >= limits)
            if (step + 1) % interval == 0 and bool(finished.all()):
                break
    return DecodedTokens(fed[:, 1:], emitted, ended)
