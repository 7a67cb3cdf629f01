"""The reference translation, for model layers that read it while the decoder is fed samples.

The criterion provides it for the duration of a forward pass; a model only reads it, and so needs
to know nothing of the criterion.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_REFERENCE: ContextVar[Tensor | None] = ContextVar("reference_prefix", default=None)


def reference_prefix() -> Tensor | None:
    """``prev_output_tokens`` of the reference, ``[batch, tgt_len]``, in a training forward pass.

    It is given whether or not the decoder is fed the reference.  None outside such a pass.
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
