"""Feed the decoder weights over the vocabulary instead of tokens, with gradient through them.

A step's input embedding is then the mean of the tokens' embeddings under the weights: a relaxed
sample (Jang, Gu, Poole 2017, arXiv 1611.01144; Maddison, Mnih, Teh 2017, arXiv 1611.00712), the
softmax of the previous step (soft feeding), or a straight-through one-hot vector (Bengio, Léonard,
Courville 2013, arXiv 1308.3432); see Golikov, Zhukov, Kretov, arXiv 1711.07724, for the decoder
as a stochastic computation graph.

Only the output of ``decoder.embed_tokens`` is replaced: scale, positions, layer norm and dropout
stay the model's own.  The model runs through its own ``forward``, once and with one encoding, so
that data-parallel wrappers work; inside it the decoder runs as often as it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.models import FairseqIncrementalDecoder
from fairseq.modules import LinearizedConvolution
from torch import Tensor, nn

from fairseq_plugins.model_pass import replaced_method

Feed = Callable[[Tensor, "int | None"], Tensor]
"""From logits to the weights that are fed in the next step, with gradient.

``(logits [batch, vocab] of one step, step) -> weights [batch, vocab]``; in the two-pass form
``(logits [batch, tgt_len, vocab], None) -> weights [batch, tgt_len, vocab]``.  The logits are
float32 (float64 if the model is).  A weight of padding counts like any other: give it the logit
``-inf``.
"""


def unrolled_logits(
    model: Any,
    net_input: dict[str, Any],
    teacher: Tensor,
    *,
    feed: Feed,
    teacher_mask: Tensor | None = None,
) -> Tensor:
    """Logits of a decoder that is fed, step by step, what ``feed`` makes of its own last logits.

    The gradient flows through all that was fed.  Decoders with an incremental state compute every
    step once.  Where that state keeps no gradient (fconv, ``--checkpoint-activations``) or there
    is none, every step runs the decoder on the whole prefix, each time with new dropout.

    Args:
        model: fairseq encoder-decoder model, possibly wrapped for data parallelism.
        net_input: ``sample["net_input"]``; its ``prev_output_tokens`` are ignored.
        teacher: ``[batch, tgt_len]`` int64, padded on the right: ``prev_output_tokens`` of the
            reference.  Its first column starts the sentences and is always fed.  Its padding is
            fed as padding; rows of padding mean nothing.
        feed: see :data:`Feed`; not called after the last step.
        teacher_mask: ``[batch, tgt_len]`` bool, True where the teacher's token is fed in place of
            the weights; default nowhere but in the first column.

    Returns:
        ``[batch, tgt_len, vocab]``, in the model's dtype.

    Raises:
        ValueError: the decoder's input embeddings cannot be replaced by others, or it does not
            have so many positions.
    """
    steps, decoder = teacher.size(1), model.decoder
    embed_tokens = _checked_embedding(decoder)
    if steps > decoder.max_positions():
        raise ValueError(
            f"the decoder has {decoder.max_positions()} positions, too few for {steps} steps; "
            "raise --max-target-positions or set a lower length limit"
        )
    tokens, is_token = _tokens_to_feed(model, teacher, teacher_mask)
    incremental = _incremental_state_keeps_gradient(decoder)
    decode = decoder.forward

    def unroll(_: Tensor, *arguments: Any, **keywords: Any) -> tuple[Tensor, Any]:
        if incremental:
            keywords["incremental_state"] = {}
        rows: list[Tensor] = []
        fed: list[Tensor] = []
        extra = None
        for step in range(steps):
            prefix = tokens[:, : step + 1]
            if step > 0:
                weights = feed(_at_least_float32(rows[-1]), step - 1)
                fed = [weights.unsqueeze(1)] if incremental else [*fed, weights.unsqueeze(1)]
            with _fed_weights(embed_tokens, fed, is_token[:, : step + 1]):
                logits, extra = decode(prefix, *arguments, **keywords)[:2]
            rows.append(logits[:, -1])
        return torch.stack(rows, dim=1), extra

    with replaced_method(decoder, "forward", unroll):
        return model(**{**net_input, "prev_output_tokens": tokens})[0]


def two_pass_logits(
    model: Any,
    net_input: dict[str, Any],
    teacher: Tensor,
    *,
    feed: Feed,
    teacher_mask: Tensor | None = None,
) -> Tensor:
    """An approximation of :func:`unrolled_logits` by two parallel passes of the decoder.

    The first is teacher-forced; ``feed`` makes weights of its logits, all steps at once; the
    second is fed these, shifted by one.  So the weights of a step are those that the model has
    after the teacher's prefix, not after what it was fed itself.  Both passes have gradient, and
    share one encoding.

    Args:
        model, net_input, teacher, teacher_mask: as for :func:`unrolled_logits`.
        feed: see :data:`Feed`; called once.

    Returns:
        ``[batch, tgt_len, vocab]``, the second pass's logits, in the model's dtype.

    Raises:
        ValueError: the decoder's input embeddings cannot be replaced by others.
    """
    decoder = model.decoder
    embed_tokens = _checked_embedding(decoder)
    tokens, is_token = _tokens_to_feed(model, teacher, teacher_mask)
    decode = decoder.forward

    def decode_twice(_: Tensor, *arguments: Any, **keywords: Any) -> tuple[Tensor, Any]:
        first = decode(teacher, *arguments, **keywords)[0]
        fed = [feed(_at_least_float32(first), None)[:, :-1]]
        with _fed_weights(embed_tokens, fed, is_token):
            return decode(tokens, *arguments, **keywords)[:2]

    with replaced_method(decoder, "forward", decode_twice):
        return model(**{**net_input, "prev_output_tokens": tokens})[0]


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _tokens_to_feed(
    model: Any, teacher: Tensor, teacher_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Token ids, and where they are fed: ``[batch, tgt_len]`` both.

    Where weights are fed the id stands for nothing; it must not be padding, which decoders mask.
    So it is the token that starts the sentence.
    """
    padding = model.decoder.embed_tokens.padding_idx
    is_token = torch.zeros_like(teacher, dtype=torch.bool) if teacher_mask is None else teacher_mask
    if padding is not None:
        is_token = is_token | teacher.eq(padding)
    start = teacher[:, :1]
    is_token = torch.cat([torch.ones_like(start, dtype=torch.bool), is_token[:, 1:]], dim=1)
    return torch.where(is_token, teacher, start.expand_as(teacher)), is_token


def _checked_embedding(decoder: Any) -> nn.Embedding:
    """``decoder.embed_tokens``, or ``ValueError`` where it cannot be fed weights."""
    embed_tokens = getattr(decoder, "embed_tokens", None)
    if not isinstance(embed_tokens, nn.Embedding):
        raise ValueError(
            "this --feed gives the decoder means of embeddings, but the decoder of this --arch, "
            f"{type(decoder).__name__}, has no nn.Embedding named embed_tokens (with "
            "--adaptive-input there is none): choose --feed teacher, greedy or sample, or --arch "
            "transformer, lstm or fconv"
        )
    if getattr(decoder, "adaptive_softmax", None) is not None:
        raise ValueError(
            "this --feed needs the logits of the whole vocabulary; train without "
            "--adaptive-softmax-cutoff"
        )
    return embed_tokens


def _incremental_state_keeps_gradient(decoder: nn.Module) -> bool:
    """Whether the decoder can be run step by step with gradient into earlier steps."""
    if not isinstance(decoder, FairseqIncrementalDecoder):
        return False
    # LinearizedConvolution computes a single step without gradient.  A checkpointed layer is run
    # a second time in the backward pass, and would then find its own state of later steps.
    return not any(
        isinstance(module, LinearizedConvolution) or hasattr(module, "precheckpoint_forward")
        for module in decoder.modules()
    )


@contextmanager
def _fed_weights(
    embed_tokens: nn.Embedding, weights: list[Tensor], is_token: Tensor
) -> Iterator[None]:
    """For a while, let the last columns be embedded by their weights.

    Args:
        embed_tokens: the decoder's; it may be the encoder's as well, which must not run meanwhile.
        weights: tensors ``[batch, columns, vocab]``, joined along the columns; none: tokens only.
        is_token: ``[batch, tgt_len]``, True where the token's embedding stays.

    Raises:
        ValueError: ``embed_tokens`` was not used.
    """
    if not weights:
        yield
        return
    calls = 0

    def mix(module: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        fed = weights[0] if len(weights) == 1 else torch.cat(weights, dim=1)
        columns = fed.size(1)
        # An autocast product would be rounded to 16 bits; an embedding looked up is not.
        with torch.autocast(fed.device.type, enabled=False):
            mixed = torch.matmul(fed.to(embed_tokens.weight.dtype), embed_tokens.weight)
        kept = embedded.size(1) - columns
        stays = is_token[:, is_token.size(1) - columns :].unsqueeze(2)
        mixed = torch.where(stays, embedded[:, kept:], mixed.to(embedded.dtype))
        return torch.cat([embedded[:, :kept], mixed], dim=1) if kept else mixed

    handle = embed_tokens.register_forward_hook(mix)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise ValueError(
            "this --feed gives the decoder means of embeddings, but the decoder of this --arch "
            "does not call its embed_tokens: choose --feed teacher, greedy or sample"
        )
