"""Let ``torch.load(weights_only=True)`` read fairseq checkpoints.

torch >= 2.6 refuses every class it was not told about.  A fairseq checkpoint
holds an ``argparse.Namespace`` and, in its meters, numpy scalars and arrays.
Exactly those are allow-listed here; ``weights_only`` stays on, so a checkpoint
that asks for anything else is still refused.
"""

import argparse

import numpy
import torch


def checkpoint_types() -> list[type]:
    """The classes and constructors, beyond tensors, that fairseq checkpoints hold."""
    scalar_constructor = numpy.float64(0.0).__reduce__()[0]
    array_constructor = numpy.zeros(1).__reduce__()[0]
    dtype_classes = {
        type(numpy.dtype(name))
        for name in ("float16", "float32", "float64", "int32", "int64", "bool")
    }
    return [
        argparse.Namespace,
        scalar_constructor,
        array_constructor,
        numpy.dtype,
        numpy.ndarray,
        *sorted(dtype_classes, key=lambda cls: cls.__name__),
    ]


def allow_fairseq_checkpoints() -> None:
    """Allow-list :func:`checkpoint_types`; a no-op on torch < 2.4, which has no such list."""
    add_safe_globals = getattr(torch.serialization, "add_safe_globals", None)
    if add_safe_globals is not None:
        add_safe_globals(checkpoint_types())
