"""What criterions ask of a fairseq model: a pass through the whole of it, and what it has to be.

Data-parallel wrappers prepare the reduction of the gradients in their ``forward``; so the pass is
always a call of the model that the trainer gave, whatever has to be changed inside it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from fairseq.models.nat import FairseqNATDecoder
from torch import Tensor, nn

# Where fairseq's decoders keep their output projection: transformer, lstm, fconv.
_OUTPUT_PROJECTIONS = ("output_projection", "fc_out", "fc3")
_REFERENCE: ContextVar[Tensor | None] = ContextVar("reference_prefix", default=None)


def model_pass(
    model: Any,
    net_input: dict[str, Any],
    prev_output_tokens: Tensor,
    samples: int = 1,
) -> Tensor:
    """Run the model once on the batch, with other decoder input than the batch's own.

    The encoder encodes each source once; its output is repeated for the samples, so that the
    gradients of all samples of a source meet there.

    Args:
        model: fairseq encoder-decoder model, possibly wrapped for data parallelism.
        net_input: ``sample["net_input"]``; its ``prev_output_tokens`` are ignored.
        prev_output_tokens: ``[batch * samples, tgt_len]`` int64, the samples of a source side by
            side.
        samples: of each source.

    Returns:
        logits, ``[batch * samples, tgt_len, vocab]``.

    Raises:
        ValueError: ``prev_output_tokens`` has other than ``batch * samples`` rows, or the encoder's
            output cannot be repeated.
    """
    batch = net_input["src_tokens"].size(0)
    if prev_output_tokens.size(0) != batch * samples:
        raise ValueError(
            f"prev_output_tokens has {prev_output_tokens.size(0)} rows; {samples} samples of each "
            f"of {batch} sources need {batch * samples}"
        )
    sources = torch.arange(batch, device=prev_output_tokens.device)
    order = sources.repeat_interleave(samples)
    with nullcontext() if samples == 1 else _reordered_encoder_output(model.encoder, order):
        return model(**{**net_input, "prev_output_tokens": prev_output_tokens})[0]


@contextmanager
def _reordered_encoder_output(encoder: Any, order: Tensor) -> Iterator[None]:
    """For a while, let the encoder's output be that of the sources ``order`` ``[rows]``."""
    calls = 0

    def reorder(module: Any, arguments: Any, encoder_out: Any) -> Any:
        nonlocal calls
        calls += 1
        return encoder.reorder_encoder_out(encoder_out, order)

    handle = encoder.register_forward_hook(reorder)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise ValueError(
            "several samples share one encoding of their source, but the model of this --arch does "
            "not call its encoder as a module: train with one sample"
        )


@contextmanager
def replaced_method(instance: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """For a while, let ``instance.name`` be ``replacement``; the class stays as it is."""
    absent = object()
    previous = vars(instance).get(name, absent)
    setattr(instance, name, replacement)
    try:
        yield
    finally:
        if previous is absent:
            delattr(instance, name)
        else:
            setattr(instance, name, previous)


@contextmanager
def recorded_states(decoder: Any) -> Iterator[list[Tensor]]:
    """A list to which, for a while, each pass adds what the output projection reads.

    ``[rows, length, channels]`` each, with gradient.

    Raises:
        ValueError: the decoder's state cannot be had (its attribute ``without_state`` may tell
            why); after a pass that added nothing, too.
    """
    if reason := getattr(decoder, "without_state", None):
        raise ValueError(
            "--baseline learned reads the one state that a step's output comes from, but "
            f"{reason}; choose another --baseline"
        )
    recorded: list[Tensor] = []
    projections = (getattr(decoder, name, None) for name in _OUTPUT_PROJECTIONS)
    projection = next((found for found in projections if isinstance(found, nn.Module)), None)
    extract_features = getattr(decoder, "extract_features", None)

    def recording(*arguments: Any, **keywords: Any) -> Any:
        output = extract_features(*arguments, **keywords)
        recorded.append(output[0])
        return output

    with ExitStack() as stack:
        if projection is not None:
            # Added last: after the hook with which weight normalisation computes the weight.
            handle = projection.register_forward_pre_hook(
                lambda module, arguments: recorded.append(arguments[0])
            )
            stack.callback(handle.remove)
        elif extract_features is not None:
            # Where the embeddings serve as the output layer, lstm has no module for it.
            stack.enter_context(replaced_method(decoder, "extract_features", recording))
        yield recorded
    if not recorded:
        raise ValueError(
            "--baseline learned reads the state of the decoder, but "
            f"{type(decoder).__name__} has none of {', '.join(_OUTPUT_PROJECTIONS)} and does "
            "not use extract_features in its forward; choose another --baseline"
        )


def reference_prefix() -> Tensor | None:
    """``prev_output_tokens`` of the reference, ``[batch, tgt_len]``, in a training forward pass.

    For layers that read the reference while the decoder is fed samples: it is given whatever the
    decoder is fed.  None outside such a pass.
    """
    return _REFERENCE.get()


@contextmanager
def given_reference(prev_output_tokens: Tensor) -> Iterator[None]:
    """Make :func:`reference_prefix` return these tokens within the ``with`` block."""
    token = _REFERENCE.set(prev_output_tokens)
    try:
        yield
    finally:
        _REFERENCE.reset(token)


def check_model(model: Any, criterion: str, *, autoregressive: bool = False) -> None:
    """Raise ``ValueError`` for a model that ``--criterion`` cannot train.

    It has logits of the whole vocabulary, and where ``autoregressive``, not of all tokens at once.
    """
    if not (hasattr(model, "encoder") and hasattr(model, "decoder")):
        raise ValueError(
            f"--criterion {criterion} needs an encoder-decoder --arch (transformer, lstm, fconv, "
            f"...); {type(model).__name__} is not one"
        )
    if getattr(model.decoder, "adaptive_softmax", None) is not None:
        raise ValueError(
            f"--criterion {criterion} needs the logits of the whole vocabulary; train without "
            "--adaptive-softmax-cutoff"
        )
    if autoregressive and is_non_autoregressive(model):
        raise ValueError(
            f"--criterion {criterion} needs an --arch that emits one token after the other; for "
            f"{type(model).__name__} take --criterion expected_bleu or nat_loss"
        )


def is_non_autoregressive(model: Any) -> bool:
    """Whether a model, possibly wrapped for data parallelism, is one of fairseq's ``models.nat``.

    A model of one's own counts if its decoder derives from fairseq's ``FairseqNATDecoder``.
    """
    return isinstance(getattr(model, "decoder", None), FairseqNATDecoder)
