"""``fairseq-train`` on two workers of one machine, over gloo."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from console_scripts import Started


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_workers(arguments: Sequence[object], folder: Path, *flags: object) -> dict[str, Any]:
    """Run both workers to their end.

    Args:
        arguments: of ``fairseq-train``.
        folder: for ``--save-dir`` and the logs.
        flags: of how workers train together, in place of plain ``legacy_ddp``.

    Returns:
        the last checkpoint.

    Raises:
        AssertionError: with the end of both outputs, if a worker failed.
    """
    port = _free_port()
    workers = [
        Started(
            "fairseq-train",
            *arguments,
            *("--save-dir", folder / "two"),
            *("--distributed-world-size", 2, "--distributed-rank", rank),
            *("--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-no-spawn"),
            *("--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"),
            *flags,
            log=folder / f"worker{rank}.log",
        )
        for rank in (0, 1)
    ]
    failures = []
    for worker in workers:  # where one fails the other does as well, and says less
        try:
            worker.output()
        except AssertionError as failure:
            failures.append(str(failure))
    assert not failures, "\n\n".join(failures)
    return torch.load(folder / "two" / "checkpoint_last.pt", weights_only=True)
