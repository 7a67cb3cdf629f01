"""Several arms at a time, each with its share of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import TypeVar

from recipes.fairseq_commands import commands
from recipes.running.run import Run

T = TypeVar("T")


def side_by_side(run: Run, tasks: Mapping[str, Callable[[Run], T]]) -> dict[str, T]:
    """Results of ``tasks``, each given a run; ``run.jobs`` of them at a time.

    Threads wait for the commands, which are processes of their own. Where one task fails, the
    commands of the others are ended, and its error is raised: the others continue next time.

    Args:
        tasks: by the name that their lines begin with.
    """
    jobs = min(run.jobs, len(tasks))
    if jobs <= 1:
        return {name: task(run) for name, task in tasks.items()}
    shares: SimpleQueue[dict[str, str]] = SimpleQueue()
    for share in [{}] * jobs if run.launcher else machine_shares(jobs):
        shares.put(share)
    branches = {name: run.branch(name) for name in tasks}

    def work(name: str) -> T:
        branch = branches[name]
        branch.environment = shares.get()
        try:
            result = tasks[name](branch)
            branch.say(f"[{branch.elapsed()}] {name}: done")
            return result
        finally:
            shares.put(branch.environment)

    with ThreadPoolExecutor(jobs) as pool:
        futures = {name: pool.submit(work, name) for name in tasks}
        try:
            for future in as_completed(futures.values()):
                future.result()
        except BaseException:
            for future in futures.values():
                future.cancel()
            run.processes.stop()
            raise
    for branch in branches.values():
        run.commands += branch.commands
    return {name: future.result() for name, future in futures.items()}


def machine_shares(jobs: int) -> list[dict[str, str]]:
    """What each of ``jobs`` fairseq commands may use, as environment variables.

    CPU threads are divided (those of ``OMP_NUM_THREADS`` where it is set). So are GPUs, as far as
    there are enough; otherwise all jobs see all of them.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdigit() else len(os.sched_getaffinity(0))
    shares = [{"OMP_NUM_THREADS": str(max(threads // jobs, 1))} for _ in range(jobs)]
    visible, gpus = os.environ.get("CUDA_VISIBLE_DEVICES"), []
    if commands.has_gpu():
        import torch

        gpus = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    if len(gpus) >= jobs:
        each = len(gpus) // jobs
        for number, share in enumerate(shares):
            part = gpus[number * each : (number + 1) * each]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(part)
    return shares
