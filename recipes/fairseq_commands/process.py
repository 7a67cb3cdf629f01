"""Running one command: complete log on disk, short progress lines on screen."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from recipes.errors import CommandError
from recipes.text import Say

_LAST_LINES = 20
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 0.25  # seconds between two looks at a log


class Processes:
    """The commands that run side by side, so that all can be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: list[subprocess.Popen[bytes]] = []
        self._stopped = False

    def start(self, argv: list[str], stage: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a process, unless :meth:`stop` was called."""
        with self._lock:
            if self._stopped:
                raise CommandError(f"stage {stage!r} was not started, as another one failed")
            process: subprocess.Popen[bytes] = subprocess.Popen(argv, **options)
            self._started.append(process)
            return process

    def stop(self) -> None:
        """End what runs; nothing is started any more."""
        with self._lock:
            self._stopped = True
            for process in self._started:
                process.terminate()  # does nothing to one that has ended


def run_command(
    argv: list[str],
    log: Path,
    stage: str,
    on_line: Say | None = None,
    append: bool = False,
    keep_open: tuple[int, ...] = (),
    environment: Mapping[str, str] | None = None,
    processes: Processes | None = None,
) -> None:
    """Run ``argv``; all it prints goes to ``log``, and each line to ``on_line``.

    The process writes the log itself, so that it is complete even if this program is killed.

    Args:
        append: continue an existing log (a training that resumes) instead of replacing it.
        keep_open: file descriptors the process inherits, such as a lock it keeps alive.
        environment: variables to set for it.
        processes: that it belongs to.

    Raises:
        CommandError: the process ended with an error; names stage and log, shows the last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered, because results (stdout) and log (stderr) share one file line by line.
    changes = {"PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1", **(environment or {})}
    processes = processes or Processes()
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with open(log, "ab" if append else "wb") as written, open(log, "rb") as read:
        _end_last_line(written, read)
        process = processes.start(
            argv,
            stage,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env={**os.environ, **changes},
            pass_fds=keep_open,
        )
        try:
            for line in _lines_while_running(process, read):
                last.append(line)
                if on_line is not None:
                    on_line(line)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code != 0:
        reason = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        shown = "\n".join(f"    {line}" for line in last)
        raise CommandError(f"stage {stage!r}: {argv[0]} {reason}\n  log: {log}\n{shown}")


def _end_last_line(written: BinaryIO, read: BinaryIO) -> None:
    """Leave ``read`` at the end; a line that was cut off gets an end."""
    size = read.seek(0, os.SEEK_END)
    if size:
        read.seek(-1, os.SEEK_END)
        if read.read(1) != b"\n":
            written.write(b"\n")
            written.flush()
            read.seek(0, os.SEEK_END)


def _lines_while_running(process: subprocess.Popen[bytes], read: BinaryIO) -> Iterator[str]:
    """Lines that appear in a file until the process that writes it has ended."""
    rest, wait, running = b"", _SHORTEST_WAIT, True
    while running:
        try:
            process.wait(timeout=wait)
            running = False
        except subprocess.TimeoutExpired:
            pass
        block = read.read()
        wait = _SHORTEST_WAIT if block else min(2 * wait, _LONGEST_WAIT)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", errors="replace")
    if rest:
        yield rest.decode("utf-8", errors="replace")
