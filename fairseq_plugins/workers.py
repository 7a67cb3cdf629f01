"""What a criterion has to know of data-parallel training and of the trainer's step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


class StepSums:
    """The sums over workers of one training step, in their order.

    Args:
        sizes: number of elements of each.
        is_dummy: this worker's batch will be thrown away, and adds nothing.
    """

    def __init__(self, sizes: Sequence[int], is_dummy: bool) -> None:
        self.left = list(sizes)
        self._is_dummy = is_dummy

    def __call__(self, local: Tensor) -> Tensor:
        """The next sum: :func:`sum_over_workers` of a vector of that size, or shorter."""
        size = self.left[0]
        if local.numel() > size:
            raise ValueError(f"{local.numel()} numbers for a sum of {size}")
        if self._is_dummy:  # zeros, also in place of NaN, that keep the graph
            local = local.masked_fill(torch.ones_like(local, dtype=torch.bool), 0)
        padded = torch.nn.functional.pad(local.double(), (0, size - local.numel()))
        total = sum_over_workers(padded)
        del self.left[0]
        return total[: local.numel()].to(local.dtype)


class TrainStepWatch:
    """What fairseq tells a task of the batch in training, but not a criterion.

    ``update``: number of the update, from 0; the right one after resuming, too.
    ``is_dummy``: the trainer will throw the batch away.  Where the batches do not come out even, it
    gives a worker a batch seen before so that it takes part in the update, and drops its gradient
    (``ignore_grad``); a statistic that is summed over workers must leave such a batch out.

    The task's ``train_step``, which is told, is listened to.
    """

    def __init__(self, task: Any) -> None:
        self._step_sums: Callable[[Tensor], Tensor] = _own
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
        step = StepSums(sizes, self.is_dummy)
        self._step_sums = step
        # Made beforehand: where memory ran out there may be none for these, either.
        zeros = [torch.zeros(size, dtype=torch.float64, device=device) for size in sizes]
        try:
            yield
        except Exception:
            for nothing in zeros[len(sizes) - len(step.left) :]:
                sum_over_workers(nothing)
            raise
        finally:
            self._step_sums = _own

    def sum_over_workers(self, local: Tensor) -> Tensor:
        """The next of the step's sums, or in validation this worker's own numbers."""
        return self._step_sums(local)


def _own(local: Tensor) -> Tensor:
    """What a sum over workers is outside of a training step."""
    return local


@dataclass(frozen=True)
class LossScale:
    """Factors with which this worker's sums add up to the whole batch's mean times sample size.

    fairseq adds the workers' gradients and divides by the sum of their sample sizes.

    ``sentences``: of sums over sentences.
    ``tokens``: of sums over tokens that are added to other terms.
    ``tokens_alone``: of a sum over tokens that is the whole loss, as in fairseq's own criterions.
    """

    sentences: Tensor
    tokens: Tensor | float
    tokens_alone: float = 1.0

    @classmethod
    def of(
        cls,
        sample_size: int,
        sentences: int,
        tokens: int,
        *,
        sentence_avg: bool,
        device: torch.device,
        sum_over_workers: Callable[[Tensor], Tensor],
    ) -> LossScale:
        """From the sizes of this worker's batch.

        Args:
            sample_size, sentences, tokens: of the batch.
            sentence_avg: whether the sample size counts sentences.
            device: of the model.
            sum_over_workers: for the sizes of the whole batch.
        """
        # Filled on the device: a tensor made of a list would be copied from the host.
        sizes = torch.empty(3, device=device)
        for position, size in enumerate((sample_size, sentences, tokens)):
            sizes[position].fill_(float(size))
        whole, all_sentences, all_tokens = sum_over_workers(sizes)
        return cls(
            sentences=whole / all_sentences.clamp(min=1),
            tokens=whole / all_tokens.clamp(min=1) if sentence_avg else 1.0,
        )
