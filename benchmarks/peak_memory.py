"""Peak memory of a function, over what was allocated before it."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def _resident_peak() -> int:
    """Largest resident set of this process since the peak was restarted, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    # Not on Linux, where ru_maxrss would begin with the size of the parent process.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _restart_resident_peak() -> None:
    """Let the peak count from now on, where the kernel can (Linux)."""
    # Without it the peak of the setup hides what stays below it.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _measure_in_child(
    connection: multiprocessing.connection.Connection,
    build: Callable[[], Callable[[], object]],
) -> None:
    torch.set_num_threads(1)
    function = build()
    _restart_resident_peak()
    before = _resident_peak()
    function()
    connection.send(_resident_peak() - before)


def on_cpu(build: Callable[[], Callable[[], object]]) -> int:
    """Bytes by which the resident set of a fresh process grows during one call.

    Args:
        build: makes the inputs and returns the function to measure; must be picklable.

    Raises:
        RuntimeError: the process died, for example for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure_in_child, args=(sender, build))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("the process that measures memory died before it was done") from None
    finally:
        child.join()


def on_cuda(function: Callable[[], object]) -> int:
    """Bytes that PyTorch's allocator held at most during one call, over what it held before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
