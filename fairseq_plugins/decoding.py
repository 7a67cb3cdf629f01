"""Decoding inside a training step: batched, incremental, without gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
class Sampling:
    """How tokens are drawn from the model's distribution.

    ``temperature``: logits are divided by it.
    ``topk``: draw from the most probable ``topk`` tokens only; 0 means from all.
    ``topp``: draw from the fewest most probable tokens that together have this probability
    (nucleus sampling, Holtzman et al. 2020); 1 means from all.  After ``topk``, if both are given.

    Raises:
        ValueError: a value is out of its range.
    """

    temperature: float = 1.0
    topk: int = 0
    topp: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"--sampling-temperature must be above 0; got {self.temperature}")
        if self.topk < 0:
            raise ValueError(
                f"--sampling-topk must be at least 1, or 0 for all tokens; got {self.topk}"
            )
        if not 0 < self.topp <= 1:
            raise ValueError(
                f"--sampling-topp must be above 0, and 1 (all tokens) at most; got {self.topp}"
            )


@dataclass(frozen=True)
class ForcedTokens:
    """Tokens that are emitted, and fed, whatever the model says: a prefix, or teacher forcing.

    ``tokens``: ``[batch, forced_len]`` int64, or with a row per sample ``[batch * samples, ...]``.
    ``mask``: bool of the same shape, where a token is forced; elsewhere the model goes on.

    Padding is never forced, whatever the mask says.
    """

    tokens: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.tokens.shape != self.mask.shape:
            raise ValueError(
                f"forced tokens {tuple(self.tokens.shape)} and their mask "
                f"{tuple(self.mask.shape)} have to have one shape"
            )


@dataclass(frozen=True)
class DecodedTokens:
    """What a decoder emitted; ``rows`` is batch * samples, the samples of a source side by side.

    ``tokens``: ``[rows, length]`` int64; padding after the last token emitted.
    ``emitted``: ``[rows]``, tokens emitted, ``</s>`` included where it was reached.
    ``ended``: ``[rows]`` bool, ``</s>`` was emitted.
    ``lengths``: ``[rows]``, tokens before the first ``</s>``, or all where there is none.
    """

    tokens: Tensor
    emitted: Tensor
    ended: Tensor
    lengths: Tensor


@contextmanager
def evaluation_mode(model: nn.Module, *, keep_recurrent: bool = False) -> Iterator[None]:
    """Switch dropout off, and every module back to the mode it was in afterwards.

    Args:
        model: in any mode, also a different one for each module.
        keep_recurrent: for passes with gradient.  cuDNN has no backward pass for a recurrent
            network (``nn.RNNBase``) in evaluation mode, so these stay in training mode, with
            their own dropout set to 0.
    """
    modes = [(module, module.training) for module in model.modules()]
    recurrent = [
        (module, module.dropout)
        for module in model.modules()
        if keep_recurrent and isinstance(module, nn.RNNBase)
    ]
    model.eval()
    for module, _ in recurrent:
        module.training, module.dropout = True, 0.0
    try:
        yield
    finally:
        for module, dropout in recurrent:
            module.dropout = dropout
        for module, training in modes:
            module.training = training


def decode_limits(source_lengths: Tensor, ratio: float, longest: int) -> Tensor:
    """``[batch]``: most tokens a sentence may have, ``min(ratio * source + 10, longest)``.

    The constant lets a very short source have a translation longer than ``ratio`` allows.
    """
    return (source_lengths * ratio).long().add(10).clamp(max=longest)


def policy_logits(
    logits: Tensor, *, eos: int, pad: int, min_length: int = 1, temperature: float = 1.0
) -> Tensor:
    """Logits of the law that :func:`decode` samples from, of a whole pass over its samples.

    Their log-softmax at the sampled tokens gives the samples' log-probabilities.  Top-k and
    top-p, which leave probabilities of 0, are not part of it.

    Args:
        logits: ``[rows, tgt_len, vocab]``, of a pass that was fed the sentences from their start.
        eos: index of ``</s>``; excluded in the first ``min_length`` columns.
        pad: index of padding; excluded everywhere.
        min_length: tokens before which ``</s>`` is not allowed.
        temperature: logits are divided by it.

    Returns:
        ``[rows, tgt_len, vocab]`` float32, ``-inf`` where a token is excluded; differentiable.
    """
    # A copy in any case: what follows is in place.
    scaled = logits.float() / temperature if temperature != 1 else logits.float().clone()
    return _exclude(scaled, 0, eos=eos, pad=pad, min_length=min_length)


def _exclude(logits: Tensor, first_step: int, *, eos: int, pad: int, min_length: int) -> Tensor:
    """Exclude tokens in place; ``logits`` ``[rows, steps, vocab]`` begin at ``first_step``."""
    logits[:, :, pad] = -torch.inf
    if first_step < min_length:
        logits[:, : min_length - first_step, eos] = -torch.inf
    return logits


def _draw(logits: Tensor, sampling: Sampling) -> Tensor:
    """``[rows]``: a token for each row of ``logits`` ``[rows, vocab]``."""
    candidates = None
    if 0 < sampling.topk < logits.size(1):
        logits, candidates = logits.topk(sampling.topk, dim=1)
    elif sampling.topp < 1:
        logits, candidates = logits.sort(dim=1, descending=True)
    probabilities = logits.softmax(dim=1)
    if sampling.topp < 1:
        # A token stays while those before it do not have the mass yet; so the first always does.
        before = probabilities.cumsum(dim=1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.topp, 0)
    drawn = torch.multinomial(probabilities, 1)
    return (drawn if candidates is None else candidates.gather(1, drawn)).squeeze(1)


def _per_row(values: Tensor, batch: int, samples: int, name: str) -> Tensor:
    """``values`` for each row, repeated where there is one for each source."""
    if values.size(0) == batch * samples:
        return values
    if values.size(0) == batch:
        return values.repeat_interleave(samples, dim=0)
    raise ValueError(
        f"{name} must have {batch} rows (sources) or {batch * samples} (all their samples); "
        f"got {values.size(0)}"
    )


@torch.no_grad()
def decode(
    model: Any,
    net_input: dict[str, Tensor],
    limits: Tensor,
    *,
    eos: int,
    pad: int,
    sampling: Sampling | None = None,
    samples: int = 1,
    min_length: int = 1,
    forced: ForcedTokens | None = None,
    stop_at_eos: bool = True,
    dropout: bool = False,
) -> DecodedTokens:
    """Greedy decoding or ancestral sampling with a fairseq encoder-decoder model.

    The encoder runs once, whatever the number of samples.  Padding is never emitted.

    Args:
        model: fairseq encoder-decoder model, possibly wrapped for data parallelism.
        net_input: ``sample["net_input"]``; the first column of ``prev_output_tokens`` starts the
            sentences.
        limits: ``[batch]`` or ``[batch * samples]``, tokens after which a sentence is cut off.
        eos: index of ``</s>``.
        pad: index of padding.
        sampling: how to draw from the model's distribution; None takes the most probable token.
        samples: outputs for each source.
        min_length: tokens before which ``</s>`` is not allowed, unless it is forced; fairseq's
            generator has 1.
        forced: tokens to emit whatever the model says.
        stop_at_eos: False lets every sentence go on after ``</s>`` up to its limit, as scheduled
            sampling wants it; then ``emitted`` is the limit, ``ended`` and ``lengths`` tell of
            the first ``</s>``.
        dropout: decode in the mode that the model is in, so with dropout in training (the samples
            of a source share the encoder's).  By default in evaluation mode, as
            ``fairseq-generate`` does.

    Returns:
        the emitted tokens, forced ones included, ``batch * samples`` rows.

    Raises:
        ValueError: ``samples`` is below 1, or a tensor has neither a row for each source nor one
            for each sample.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    start = net_input["prev_output_tokens"][:, :1]
    batch = start.size(0)
    start = _per_row(start, batch, samples, "prev_output_tokens")
    limits = _per_row(limits, batch, samples, "limits")
    if forced is not None:
        forced = ForcedTokens(
            _per_row(forced.tokens, batch, samples, "forced tokens"),
            _per_row(forced.mask & forced.tokens.ne(pad), batch, samples, "forced tokens"),
        )
    longest = int(limits.max())
    # Rows that have ended go on until the last one has; what they emit is cut off in the end.
    fed = torch.cat([start, start.new_full((start.size(0), longest), pad)], dim=1)
    finished = limits <= 0
    interval = _STEPS_BETWEEN_CHECKS.get(fed.device.type, _STEPS_BETWEEN_CHECKS_ELSEWHERE)
    with nullcontext() if dropout else evaluation_mode(model):
        encoder_out = model.encoder.forward_torchscript(net_input)
        if samples > 1:
            order = torch.arange(batch, device=fed.device).repeat_interleave(samples)
            encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        state: dict[str, Any] = {}
        incremental = isinstance(model.decoder, FairseqIncrementalDecoder)
        extra = {"incremental_state": state} if incremental else {}
        steps = 0
        while steps < longest:
            logits = model.decoder(fed[:, : steps + 1], encoder_out=encoder_out, **extra)[0]
            logits = logits[:, -1:].float()
            logits = _exclude(logits, steps, eos=eos, pad=pad, min_length=min_length).squeeze(1)
            if sampling is None:
                token = logits.argmax(dim=1)
            else:
                if sampling.temperature != 1:
                    logits = logits / sampling.temperature
                token = _draw(logits, sampling)
            if forced is not None and steps < forced.tokens.size(1):
                token = torch.where(forced.mask[:, steps], forced.tokens[:, steps], token)
            steps += 1
            fed[:, steps] = token
            if stop_at_eos:
                finished = finished | token.eq(eos)
            finished = finished | (limits <= steps)
            if steps % interval == 0 and bool(finished.all()):
                break
    return _cut(fed[:, 1 : steps + 1], limits, eos, pad, stop_at_eos)


def _cut(tokens: Tensor, limits: Tensor, eos: int, pad: int, stop_at_eos: bool) -> DecodedTokens:
    """Replace by padding what follows a sentence's limit and, if it stops there, its ``</s>``."""
    columns = torch.arange(tokens.size(1), device=tokens.device)
    emitted = columns < limits.unsqueeze(1)
    is_end = tokens.eq(eos) & emitted
    words = emitted & is_end.cumsum(1).eq(0)
    ended, lengths = is_end.any(1), words.sum(1)
    if stop_at_eos:
        emitted = columns < (lengths + ended).unsqueeze(1)
    return DecodedTokens(tokens.masked_fill(~emitted, pad), emitted.sum(1), ended, lengths)
