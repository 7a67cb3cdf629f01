"""fairseq's commands, as a user starts them or without the seconds that their imports take."""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
ENVIRONMENT = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TIMEOUT = 1800
"""Seconds, against a command that hangs; a busy machine needs minutes."""
_SHOWN_LINES = 30
_IMPORTED = ("train", "generate", "interactive", "hydra_train")


def tail(text: str) -> str:
    """The last lines of an output, where the error is."""
    return "\n".join(text.splitlines()[-_SHOWN_LINES:])


def console(script: str, *arguments: object, stdin: str = "") -> str:
    """Run ``script`` of the environment under test from the repository's root.

    Returns:
        what it printed, stdout and stderr.

    Raises:
        AssertionError: with the end of the output, if the script failed.
    """
    done = subprocess.run(
        [str(SCRIPTS / script), *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **ENVIRONMENT},
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, (
        f"{script} returned {done.returncode}; its output ends with\n{tail(done.stdout)}"
    )
    return done.stdout


class Started:
    """A ``fairseq-*`` command in a process forked from one that has imported fairseq.

    The process it is forked from has not seen the plugin: ``--user-dir`` loads it.
    """

    def __init__(self, script: str, *arguments: object, log: Path, stdin: str = "") -> None:
        self._script, self._log = script, log
        module = f"fairseq_cli.{script.removeprefix('fairseq-').replace('-', '_')}"
        argv = [script, *map(str, arguments)]
        context = multiprocessing.get_context("forkserver")
        programs = (f"fairseq_cli.{name}" for name in _IMPORTED)
        # torch imports the latter, in seconds, with the first optimiser that is made.
        context.set_forkserver_preload([*programs, "torch._dynamo"])
        self._process = context.Process(
            target=_call_entry_point, args=(module, argv, str(log), stdin)
        )
        # The fork server is started with the first process, and keeps the environment of then.
        with _environment(ENVIRONMENT):
            self._process.start()

    def output(self) -> str:
        """Wait for the end; returns what was printed.

        Raises:
            AssertionError: with the end of the output, if the command failed.
        """
        self._process.join(TIMEOUT)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        printed = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
        assert self._process.exitcode == 0, (
            f"{self._script} returned {self._process.exitcode}; its output ends with\n"
            f"{tail(printed)}"
        )
        return printed


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _call_entry_point(module: str, argv: list[str], log: str, stdin: str) -> None:
    """What the console script does, with the output in a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdin = io.StringIO(stdin)
    os.chdir(REPOSITORY)
    sys.argv = argv
    importlib.import_module(module).cli_main()
