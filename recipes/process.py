"""Running one command: complete log on disk, short progress lines on screen."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from recipes.errors import CommandError

_LAST_LINES = 20


def run_command(
    argv: list[str],
    log: Path,
    stage: str,
    on_line: Callable[[str], None] | None = None,
    append: bool = False,
    keep_open: tuple[int, ...] = (),
) -> None:
    """Run ``argv``; write all it prints to ``log`` and hand each line to ``on_line``.

    Args:
        append: continue an existing log (a training that resumes) instead of replacing it.
        keep_open: file descriptors the process inherits, such as a lock it keeps alive.

    Raises:
        CommandError: the process ended with an error; names stage and log, shows the last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered, because results (stdout) and log (stderr) share one file line by line.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with open(log, "a" if append else "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            pass_fds=keep_open,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                last.append(line)
                if on_line is not None:
                    on_line(line.rstrip("\n"))
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code != 0:
        reason = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        shown = "".join(f"    {line}" for line in last).rstrip()
        raise CommandError(f"stage {stage!r}: {argv[0]} {reason}\n  log: {log}\n{shown}")
