"""Let ``torch.load(weights_only=True)`` read fairseq checkpoints.

torch >= 2.6 refuses every class it was not told about.  A fairseq checkpoint
holds an ``argparse.Namespace`` and, in its meters, numpy scalars and arrays.
One worker's ``torch.load`` then hands the state to the others through
``torch.save`` and ``torch.load`` again, by then with the configuration as an
OmegaConf container.  Only these are allow-listed here; ``weights_only`` stays on,
so a checkpoint that asks for anything else is still refused.

A ``--reward`` of the user's own is code that a checkpoint's settings name.  It is run only if it is
given on the command line that loads the checkpoint.
"""

from __future__ import annotations

import argparse
import collections
import functools
import typing

import numpy
import omegaconf
import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils

FROM_CHECKPOINT = "stored in the checkpoint: "
"""Before the name of a reward that a checkpoint names, and no command line: code not to run."""


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


def worker_types() -> list[typing.Any]:
    """What the state holds besides when fairseq sends it from one worker to the others."""
    return [
        omegaconf.DictConfig,
        omegaconf.ListConfig,
        omegaconf.nodes.AnyNode,
        omegaconf.base.Metadata,
        omegaconf.base.ContainerMetadata,
        distributed_utils._TensorPlaceholder,
        collections.defaultdict,
        typing.Any,
        dict,
        int,
        list,
    ]


def allow_fairseq_checkpoints() -> None:
    """Allow-list what fairseq loads; a no-op on torch < 2.4, which has no such list."""
    add_safe_globals = getattr(torch.serialization, "add_safe_globals", None)
    if add_safe_globals is not None:
        add_safe_globals([*checkpoint_types(), *worker_types()])


def _marking_stored_rewards(load: typing.Any) -> typing.Any:
    """Mark a ``--reward module:function`` that is in the checkpoint alone, as code not to run."""

    @functools.wraps(load)
    def loading(path: str, arg_overrides: typing.Any = None, **options: typing.Any) -> typing.Any:
        state = load(path, arg_overrides, **options)
        cfg = state.get("cfg")
        criterion = cfg["criterion"] if cfg and "criterion" in cfg else None
        ours = hasattr(criterion, "get") and criterion.get("_name", "") == "stochastic_graph"
        stored = str(criterion.get("reward", "")) if ours else ""
        if ":" in stored and (arg_overrides or {}).get("reward") != stored:
            criterion["reward"] = FROM_CHECKPOINT + stored
        return state

    return loading


checkpoint_utils.load_checkpoint_to_cpu = _marking_stored_rewards(
    checkpoint_utils.load_checkpoint_to_cpu
)
