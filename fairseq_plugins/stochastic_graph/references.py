"""The reference, for layers that look at it: the decoder may be fed something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_GIVEN: ContextVar[Tensor | None] = ContextVar("reference_prefix", default=None)


def reference_prefix() -> Tensor | None:
    """``prev_output_tokens`` of the reference, ``[rows, tgt_len]``, in the pass with gradient.

    Also where it is what the decoder is fed.  None outside such a pass.
    """
    return _GIVEN.get()


@contextmanager
def given_reference(prev_output_tokens: Tensor) -> Iterator[None]:
    """For a while, let :func:`reference_prefix` be these tokens."""
    token = _GIVEN.set(prev_output_tokens)
    try:
        yield
    finally:
        _GIVEN.reset(token)
