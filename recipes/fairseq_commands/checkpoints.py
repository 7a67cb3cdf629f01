"""Looking into fairseq checkpoints, and averaging them."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

from recipes.errors import RecipeError

_EPOCH = re.compile(r"checkpoint(\d+)\.pt\Z")
_UPDATE = re.compile(r"checkpoint_\d+_(\d+)\.pt\Z")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint that this recipe's own training wrote (full unpickling is safe there)."""
    import torch

    # torch < 1.13 has no such argument, and always unpickles in full.
    known = "weights_only" in inspect.signature(torch.load).parameters
    return torch.load(path, map_location="cpu", **({"weights_only": False} if known else {}))


def checkpoint_updates(path: Path) -> int:
    """Number of optimiser updates a checkpoint has seen since its run started."""
    return int(load_checkpoint(path)["optimizer_history"][-1]["num_updates"])


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
            sums[name] = sums.get(name, 0) + value.double()  # type: ignore[operator]
    for name, value in result["model"].items():
        if value.is_floating_point():
            result["model"][name] = (sums[name] / len(paths)).to(value.dtype)
    temporary = output.with_name(f".{output.name}.partial")
    torch.save(result, temporary)
    os.replace(temporary, output)
