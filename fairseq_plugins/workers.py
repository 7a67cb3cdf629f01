"""What a criterion has to know of data-parallel training and of the trainer's step."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from torch import Tensor


def sum_over_workers(local: Tensor) -> Tensor:
    """Sum a tensor over all data-parallel workers, with gradient into the worker's own part.

    A function of the sum then has, on each worker, the gradient of its own contribution; adding
    the workers' gradients, as data-parallel training does, gives the gradient of the whole.

    Args:
        local: any shape; the same on every worker.
    """
    if distributed_utils.get_data_parallel_world_size() == 1:
        return local
    total = local.detach().clone()
    distributed_utils.all_reduce(total, group=distributed_utils.get_data_parallel_group())
    return total + (local - local.detach())


class TrainStepWatch:
    """What fairseq tells a task of the batch in training, but not a criterion.

    ``update``: number of the update, from 0; the right one after resuming, too.
    ``is_dummy``: the trainer will throw the batch away.  Where the batches do not come out even, it
    gives a worker a batch seen before so that it takes part in the update, and drops its gradient
    (``ignore_grad``); a statistic that is summed over workers must leave such a batch out.

    The task's ``train_step``, which is told, is listened to.
    """

    def __init__(self, task: Any) -> None:
        self._sizes_left: list[int] | None = None
        self.is_dummy = False
        self.update = 0
        train_step = task.train_step

        @functools.wraps(train_step)
        def listening_train_step(*args: Any, **kwargs: Any) -> Any:
            # (sample, model, criterion, optimizer, update_num, ignore_grad=False)
            self.update = args[4] if len(args) > 4 else kwargs["update_num"]
            ignore_grad = args[5] if len(args) > 5 else kwargs.get("ignore_grad", False)
            self.is_dummy = bool(ignore_grad)
            try:
                return train_step(*args, **kwargs)
            finally:
                self.is_dummy = False

        task.train_step = listening_train_step

    @contextmanager
    def sums(self, sizes: Sequence[int], device: torch.device, training: bool) -> Iterator[None]:
        """Let :meth:`sum_over_workers` sum vectors over workers, as often as there are ``sizes``.

        A step makes the same sums on every worker, also on one that raises an exception: it takes
        part in those that are left, with zeros, before the exception goes on.  fairseq leaves a
        batch out for which one worker ran out of memory, while the other workers wait for its part
        of a sum.

        Args:
            sizes: the most numbers that each sum may have.
            device: of the model.
            training: in validation workers are not in step, so each has its own numbers only.
        """
        if not training:
            yield
            return
        self._sizes_left = list(sizes)
        # Made beforehand: where memory ran out there may be none for these, either.
        zeros = [torch.zeros(size, dtype=torch.float64, device=device) for size in sizes]
        try:
            yield
        except Exception:
            for nothing in zeros[len(sizes) - len(self._sizes_left) :]:
                sum_over_workers(nothing)
            raise
        finally:
            self._sizes_left = None

    def sum_over_workers(self, local: Tensor) -> Tensor:
        """The next of the step's sums, of a vector; outside of a step the same numbers.

        Raises:
            ValueError: there are more numbers than were announced.
        """
        if self._sizes_left is None:
            return local
        size = self._sizes_left[0]
        if local.numel() > size:
            raise ValueError(f"{local.numel()} numbers for a sum of {size}")
        if self.is_dummy:  # zeros, also in place of NaN, that keep the graph
            local = local.masked_fill(torch.ones_like(local, dtype=torch.bool), 0)
        padded = torch.nn.functional.pad(local.double(), (0, size - local.numel()))
        total = sum_over_workers(padded)
        del self._sizes_left[0]
        return total[: local.numel()].to(local.dtype)
