"""Measures pairs of sentences in worker processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.util import Finalize
from typing import Any

Pair = tuple[str, str]
"""Hypothesis and reference."""

Measure = Callable[[str, str], Sequence[float]]
"""Numbers of a hypothesis and its reference; picklable."""

_CHUNKS_PER_WORKER = 4  # so that one slow chunk does not keep all others waiting


class WorkerPool:
    """Calls ``measure`` for each pair of sentences, once for equal pairs, in worker processes.

    The processes are started by ``spawn`` (a fork would copy the threads' locks and the
    accelerator's state) at the first call, and end with this object or with the parent process,
    even if that is killed.

    Args:
        measure: picklable; returns equally many numbers for all pairs.
        workers: number of processes; 0 measures in this one.
        name: what is measured, for error messages (``--reward chrf``).
    """

    def __init__(self, measure: Measure, workers: int, name: str) -> None:
        self._measure = measure
        self._workers = workers
        self._name = name
        self._executor: ProcessPoolExecutor | None = None

    def __call__(
        self, hypotheses: Sequence[str], references: Sequence[str]
    ) -> list[Sequence[float]]:
        """What ``measure`` gives for each pair.

        Raises:
            RuntimeError: ``measure`` failed, or a worker died; the message has the sentence.
        """
        pairs = list(zip(hypotheses, references, strict=True))
        distinct = list(dict.fromkeys(pairs))
        if self._workers == 0:
            measured = _measure_chunk(self._measure, self._name, distinct)
        else:
            measured = self._in_workers(distinct)
        by_pair = dict(zip(distinct, measured, strict=True))
        return [by_pair[pair] for pair in pairs]

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(cancel_futures=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_executor": None}  # a copy starts its own processes

    def _in_workers(self, pairs: list[Pair]) -> list[Sequence[float]]:
        size = max(1, math.ceil(len(pairs) / (self._workers * _CHUNKS_PER_WORKER)))
        chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        executor = self._started()
        futures: list[Future[list[Sequence[float]]]] = []
        try:
            for chunk in chunks:
                futures.append(executor.submit(_measure_chunk, self._measure, self._name, chunk))
            return [measured for future in futures for measured in future.result()]
        except BrokenProcessPool as error:
            self.close()
            done = {index for index, future in enumerate(futures) if _succeeded(future)}
            unfinished = [
                pair for index, chunk in enumerate(chunks) if index not in done for pair in chunk
            ]
            raise RuntimeError(
                f"{self._name}: a worker process died (killed for want of memory?) at one of "
                f"{len(unfinished)} sentence pairs, the first of which is "
                f"{_shown(unfinished[0])}; --reward-workers 0 scores in this process"
            ) from error
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def _started(self) -> ProcessPoolExecutor:
        if threading.current_thread() is threading.main_thread():
            # As Python has it.  sacrebleu, when imported, lets a write to the pipe of a worker that
            # died end this process.
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
            # A process started by multiprocessing, such as fairseq's data-parallel ones, waits for
            # its children at exit, after it has closed the executor's queues (priority 10).
            Finalize(self, self._executor.shutdown, exitpriority=100)
        return self._executor


def _succeeded(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _shown(pair: Pair) -> str:
    def cut(text: str) -> str:
        return repr(text if len(text) <= 200 else text[:200] + "...")

    return f"hypothesis {cut(pair[0])}, reference {cut(pair[1])}"


def _measure_chunk(measure: Measure, name: str, pairs: list[Pair]) -> list[Sequence[float]]:
    measured = []
    for pair in pairs:
        try:
            measured.append(measure(*pair))
        except Exception as error:
            raise RuntimeError(
                f"{name} failed: {type(error).__name__}: {error}; at {_shown(pair)}"
            ) from error
    return measured


def _start_worker() -> None:
    # Ctrl-C is for the training process, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
