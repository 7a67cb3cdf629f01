"""Decoding inside a training step: batched, incremental, without gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models.fairseq_incremental_decoder import FairseqIncrementalDecoder
from torch import Tensor, nn

from criterions.stochastic_graph import StepwiseDraws
from criterions.token_categorical import TokenCategorical
from fairseq_plugins.batch import Batch
from fairseq_plugins.flags import above, at_least

# On an accelerator, asking whether all sentences have ended makes the host wait; asked once in
# this many steps, the few superfluous steps cost less.
_STEPS_BETWEEN_CHECKS = {"cpu": 1}
_STEPS_BETWEEN_CHECKS_ELSEWHERE = 8
# Rows that have ended are dropped when no more than this share is left, since dropping them copies
# the state of the others.
_LARGEST_SHARE_TO_SELECT = 0.85


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
        above("--sample-temperature", self.temperature, 0)
        at_least("--sample-topk", self.topk, 0)
        above("--sample-topp", self.topp, 0, at_most=1)


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
            their own dropout set to 0.  Nor has what fairseq's encoder layers do in evaluation
            where they were never trained since a checkpoint was loaded, so that they are told.
    """
    modes = [(module, module.training) for module in model.modules()]
    recurrent = [
        (module, module.dropout)
        for module in model.modules()
        if keep_recurrent and isinstance(module, nn.RNNBase)
    ]
    model.eval()
    for module, _ in modes:
        if keep_recurrent and hasattr(module, "ever_training"):
            module.ever_training = True
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
    forced: Tensor | None = None,
    stop_at_eos: bool = True,
    dropout: bool = False,
    layers: StepwiseDraws | None = None,
) -> DecodedTokens:
    """Greedy decoding or ancestral sampling with a fairseq encoder-decoder model.

    The encoder runs once, whatever the number of samples.  Padding is never emitted.

    Args:
        model: fairseq encoder-decoder model, possibly wrapped for data parallelism.
        net_input: ``sample["net_input"]``; the first column of ``prev_output_tokens`` starts the
            sentences.
        limits: ``[batch * samples]``, tokens after which a sentence is cut off.
        eos: index of ``</s>``.
        pad: index of padding.
        sampling: how to draw from the model's distribution; None takes the most probable token.
        samples: outputs for each source.
        min_length: tokens before which ``</s>`` is not allowed, unless it is forced; fairseq's
            generator has 1.
        forced: ``[batch * samples, forced_len]`` int64, tokens to emit, and feed, whatever the
            model says; padding where the model goes on.
        stop_at_eos: False lets every sentence go on after ``</s>`` up to its limit, as scheduled
            sampling wants it; then ``emitted`` is the limit, ``ended`` and ``lengths`` tell of
            the first ``</s>``.
        dropout: decode in the mode that the model is in, so with dropout in training (the samples
            of a source share the encoder's).  By default in evaluation mode, as
            ``fairseq-generate`` does.
        layers: lets the model's stochastic layers draw, for every sample and step, and keeps what
            they drew.  By default they take their deterministic value.  None may draw for the
            first time after the first step.

    Returns:
        the emitted tokens, forced ones included, ``batch * samples`` rows.

    Raises:
        ValueError: ``samples`` is below 1, or a tensor has not one row for each sample.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    start = net_input["prev_output_tokens"][:, :1]
    sources = torch.arange(start.size(0), device=start.device).repeat_interleave(samples)
    for name, given in (("limits", limits), ("forced tokens", forced)):
        if given is not None and given.size(0) != len(sources):
            raise ValueError(
                f"{name} must have {len(sources)} rows, {samples} for each of {start.size(0)} "
                f"sources; got {given.size(0)}"
            )
    longest = max(int(limits.max()), 0)
    tokens = start.new_full((len(sources), longest + 1), pad)
    tokens[:, :1] = start[sources]
    rows = torch.arange(len(sources), device=tokens.device)
    # At the first step the samples of a source are the same: one row does for all of them.
    shares_first = samples > 1 and not dropout and layers is None
    # Rows that have ended go on until enough have; what they emit is cut off in the end.
    going = limits > 0
    drawn = False
    interval = _STEPS_BETWEEN_CHECKS.get(tokens.device.type, _STEPS_BETWEEN_CHECKS_ELSEWHERE)
    steps = 0
    with nullcontext() if dropout else evaluation_mode(model), layers or nullcontext():
        decoder = _StepDecoder(model, net_input)
        if samples > 1 and not shares_first:
            decoder.select(sources)
        while steps < longest:
            if layers is not None:
                layers.at_step(steps, incremental=decoder.incremental)
            if shares_first and steps == 0:
                logits = decoder.logits(start)[sources]
                decoder.select(sources)
            else:
                logits = decoder.logits(tokens[rows, : steps + 1])
            if sampling is not None and sampling.temperature != 1:
                logits /= sampling.temperature
            logits[:, pad] = -torch.inf
            if steps < min_length:
                logits[:, eos] = -torch.inf
            token = logits.argmax(dim=1) if sampling is None else draw(logits, sampling)
            if forced is not None and steps < forced.size(1):
                given = forced[rows, steps]
                token = torch.where(given.ne(pad), given, token)
            if layers is not None and steps == 0:
                drawn = layers.may_draw = bool(layers.values)
            steps += 1
            tokens[rows, steps] = token
            going = going & (limits[rows] > steps)
            if stop_at_eos:
                going = going & token.ne(eos)
            if steps % interval == 0:
                kept = going.nonzero().squeeze(1)
                if kept.numel() == 0:
                    break
                few = kept.numel() <= _LARGEST_SHARE_TO_SELECT * len(rows)
                # What layers draw has a row for each sample, to the last step.
                if few and decoder.incremental and not drawn:
                    rows, going = rows[kept], going[kept]
                    decoder.select(kept)
    return _cut(tokens[:, 1 : steps + 1], limits, eos, pad, stop_at_eos)


def decode_batch(
    model: Any,
    batch: Batch,
    dictionary: Dictionary,
    settings: Any,
    forced: Tensor | None,
    limits: Tensor | None = None,
    **options: Any,
) -> DecodedTokens:
    """:func:`decode` the samples of a batch.

    Args:
        model: fairseq encoder-decoder model.
        batch: with a row for each sample.
        dictionary: of the target.
        settings: flags of the criterion, for ``--max-decode-ratio`` and ``--max-decode-length``.
        forced: ``[rows, tgt_len]`` bool, where the reference's token is emitted; None: nowhere.
        limits: as of :func:`decode`, in place of those of the flags.
        options: others of :func:`decode`.
    """
    if limits is None:
        # The start symbol, too, takes one of the decoder's positions.
        longest = min(settings.max_decode_length, model.max_decoder_positions() - 1)
        limits = decode_limits(batch.net_input["src_lengths"], settings.max_decode_ratio, longest)
        limits = limits.repeat_interleave(batch.samples)
    if forced is not None:
        forced = batch.reference.tokens.masked_fill(~forced, dictionary.pad())
    return decode(
        model,
        batch.net_input,
        limits,
        eos=dictionary.eos(),
        pad=dictionary.pad(),
        samples=batch.samples,
        forced=forced,
        **options,
    )


class _StepDecoder:
    """A fairseq decoder, one step at a time, with what it carries from step to step."""

    def __init__(self, model: Any, net_input: dict[str, Tensor]) -> None:
        self.encoder, self.decoder = model.encoder, model.decoder
        self.incremental = isinstance(self.decoder, FairseqIncrementalDecoder)
        self.encoder_out = self.encoder.forward_torchscript(net_input)
        self.state: dict[str, Any] = {}

    def logits(self, fed: Tensor) -> Tensor:
        """``[rows, vocab]`` float32, after the tokens ``fed`` ``[rows, step + 1]``."""
        extra = {"incremental_state": self.state} if self.incremental else {}
        return self.decoder(fed, encoder_out=self.encoder_out, **extra)[0][:, -1].float()

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, in this order; a row may be taken several times."""
        self.encoder_out = self.encoder.reorder_encoder_out(self.encoder_out, rows)
        if self.incremental:
            self.decoder.reorder_incremental_state_scripting(self.state, rows)


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


def draw(logits: Tensor, sampling: Sampling) -> Tensor:
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
    drawn = _multinomial(probabilities)
    return (drawn if candidates is None else candidates.gather(1, drawn)).squeeze(1)


def _multinomial(weights: Tensor) -> Tensor:
    """``[rows, 1]``: an index into each row of ``weights`` ``[rows, size]``, not negative.

    On a CPU ``torch.multinomial`` draws a variate for every weight, which takes longer than all
    of a small decoder's step.  Here two for a row do: one chooses a block of the weights by the
    blocks' sums, the other a weight of the block.
    """
    if weights.device.type != "cpu":
        # torch.multinomial would wait for the device.
        return TokenCategorical(weights.log()).sample().unsqueeze(1)
    size = weights.size(1)
    width = math.isqrt(size)
    whole = size - size % width
    blocks = weights[:, :whole].reshape(weights.size(0), -1, width).sum(dim=2)
    blocks = torch.cat([blocks, weights[:, whole:].sum(dim=1, keepdim=True)], dim=1)
    within = _inverse_cumulative(blocks) * width + torch.arange(width)
    # The last block, of what is left over, may be narrower, or empty.
    block = weights.gather(1, within.clamp(max=size - 1)).masked_fill(within >= size, 0)
    return within.gather(1, _inverse_cumulative(block))


def _inverse_cumulative(weights: Tensor) -> Tensor:
    """``[rows, 1]``: an index drawn by the inverse of the cumulative distribution."""
    cumulative = weights.cumsum(dim=1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if not bool(total.isfinite().all()):
        raise FloatingPointError("cannot sample: the model's logits are not finite")
    # Above 0, so that no weight of 0 is the first to reach it.
    threshold = (1 - torch.rand_like(total)) * total
    return torch.searchsorted(cumulative, threshold)
