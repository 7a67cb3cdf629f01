"""Looking into fairseq checkpoints, averaging them, and mending what a killed training left."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from recipes.errors import RecipeError
from recipes.text import Say, replaced

LAST = "checkpoint_last.pt"  # what fairseq-train continues from
_EPOCH = re.compile(r"checkpoint(\d+)\.pt\Z")
_UPDATE = re.compile(r"checkpoint_\d+_(\d+)\.pt\Z")


class BrokenCheckpointError(RecipeError):
    """A part of a file, or no checkpoint at all."""


def load_checkpoint(path: Path) -> Any:
    """A checkpoint of fairseq, loaded without running code that is stored in it.

    torch before 2.4 knows no list of what may be loaded, and unpickles everything.

    Raises:
        BrokenCheckpointError: it is cut off, or no checkpoint.
        RecipeError: it does not exist, or holds what fairseq's checkpoints do not.
    """
    import torch

    # When it is imported, fairseq makes the root logger print what any library says for debugging.
    level, handlers = logging.root.level, logging.root.handlers[:]
    from fairseq_plugins.checkpoint_safety import allow_fairseq_checkpoints

    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers

    allow_fairseq_checkpoints()
    listed = hasattr(torch.serialization, "add_safe_globals")
    try:
        return torch.load(path, map_location="cpu", **({"weights_only": True} if listed else {}))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # whatever a part of a file makes torch.load raise
        refused = re.search(r"(?i)unsupported (global|class)[: ]+(global )?\S+", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise RecipeError(
                f"{path} was not loaded: it holds what no checkpoint of fairseq does "
                f"({refused[0]}), which could run any code"
            ) from error
        raise BrokenCheckpointError(f"{path} is cut off, or no checkpoint") from error


def checkpoint_updates(path: Path) -> int:
    """Number of optimiser updates a checkpoint has seen since its run started."""
    try:
        return int(load_checkpoint(path)["optimizer_history"][-1]["num_updates"])
    except (KeyError, IndexError, TypeError):
        raise BrokenCheckpointError(f"{path} is no checkpoint of fairseq-train") from None


def mend_last_checkpoint(save_dir: Path, say: Say) -> None:
    """Replace a ``checkpoint_last.pt`` that is cut off by the newest whole checkpoint.

    fairseq-train writes one checkpoint under a temporary name, renames it, and then copies it to
    its other names, ``checkpoint_last.pt`` among them; a process that is killed meanwhile leaves
    a part of a copy. Where no checkpoint is whole, it is renamed, and training begins anew.

    Raises:
        RecipeError: a checkpoint holds what fairseq's do not; nothing was changed.
    """
    last = save_dir / LAST
    try:
        if last.is_file():
            checkpoint_updates(last)
        return
    except BrokenCheckpointError:
        pass
    others = [path for path in save_dir.glob("checkpoint*.pt") if path.name != LAST]
    for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(RecipeError):
            checkpoint_updates(other)
            say(f"  {last} was cut off when the training was killed; continues from {other.name}")
            with replaced([last]) as (temporary,):
                shutil.copyfile(other, temporary)
            return
    say(f"  {last} was cut off when the training was killed; no other checkpoint: begins anew")
    last.rename(last.with_name(f"{LAST}.cut-off"))


def last_checkpoints(save_dir: Path, count: int) -> list[Path]:
    """The last ``count`` epoch checkpoints of a run, or, without those, update checkpoints."""
    for pattern in (_EPOCH, _UPDATE):
        found = [(int(m[1]), p) for p in save_dir.iterdir() if (m := pattern.match(p.name))]
        if len(found) >= count:
            return [path for _, path in sorted(found)[-count:]]
    raise RecipeError(
        f"{save_dir} has fewer than {count} checkpoints to average; keep more of them "
        "(--keep-last-epochs, --keep-interval-updates) or lower 'average'"
    )


def average_checkpoints(paths: list[Path], output: Path) -> None:
    """Write a checkpoint whose floating-point parameters are the mean of those in ``paths``."""
    import torch

    result = load_checkpoint(paths[-1])
    sums: dict[str, torch.Tensor] = {}
    for path in paths:
        parameters = load_checkpoint(path)["model"]
        if sums and parameters.keys() != sums.keys():
            raise RecipeError(f"{path}: its parameters are not those of {paths[0]}")
        for name, value in parameters.items():
            # float64: the mean of equal parameters must be that parameter again.
            sums[name] = sums.get(name, 0) + value.double()
    for name, value in result["model"].items():
        if value.is_floating_point():
            result["model"][name] = (sums[name] / len(paths)).to(value.dtype)
    with replaced([output]) as (temporary,):
        torch.save(result, temporary)
