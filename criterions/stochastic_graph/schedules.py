"""Schedules of a temperature or of a teacher-forcing probability.

A schedule is a pure function of the update number.  It holds no state, so that training resumed
from a checkpoint sees the values that uninterrupted training would have seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from criterions.stochastic_graph.registry import Registry


class Schedule(ABC):
    """A number for every update: ``schedule(update)``."""

    def __call__(self, update: int) -> float:
        """The value at ``update``, counted from 0 (fairseq's ``num_updates``).

        Raises:
            ValueError: ``update`` is negative.
        """
        if update < 0:
            raise ValueError(f"update must be at least 0; got {update}")
        return self._value(update)

    @abstractmethod
    def _value(self, update: int) -> float: ...


SCHEDULES: Registry[Schedule] = Registry("schedule", Schedule)  # type: ignore[type-abstract]


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """``value`` at every update."""

    value: float

    def _value(self, update: int) -> float:
        return self.value


@dataclass(frozen=True)
class _FromTo(Schedule):
    """From ``start`` at update 0 to ``end`` at update ``updates``, and ``end`` ever after."""

    start: float
    end: float
    updates: int

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise ValueError(f"updates must be at least 1; got {self.updates}")

    def _value(self, update: int) -> float:
        # The ends are given back as they were written, without rounding.
        if update == 0:
            return self.start
        return self.end if update >= self.updates else self._between(update / self.updates)

    @abstractmethod
    def _between(self, fraction: float) -> float: ...


@SCHEDULES.register("linear")
@dataclass(frozen=True)
class Linear(_FromTo):
    """``start + (end - start) * update / updates``, then ``end`` (Bengio et al. 2015, linear)."""

    def _between(self, fraction: float) -> float:
        return self.start + (self.end - self.start) * fraction


@SCHEDULES.register("geometric")
@dataclass(frozen=True)
class Geometric(_FromTo):
    """``start * (end / start) ** (update / updates)``, then ``end``: a constant ratio per update.

    Raises:
        ValueError: ``start`` or ``end`` is not above 0, or ``updates`` is below 1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start <= 0 or self.end <= 0:
            raise ValueError(
                "start and end of a geometric schedule must be above 0; "
                f"got {self.start} and {self.end}: use a linear schedule to reach 0"
            )

    def _between(self, fraction: float) -> float:
        return float(self.start * (self.end / self.start) ** fraction)


def value_at(schedule: float | Schedule, update: int) -> float:
    """The schedule's value at ``update``; a number stands for itself at every update."""
    return schedule(update) if isinstance(schedule, Schedule) else schedule
