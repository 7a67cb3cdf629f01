"""Schedules of a temperature or of a teacher-forcing probability.

A schedule is a pure function of the update number.  It holds no state, so that training resumed
from a checkpoint sees the values that uninterrupted training would have seen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

from criterions.registry import Registry


@dataclass(frozen=True)
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


@SCHEDULES.register("linear")
@dataclass(frozen=True)
class Linear(Schedule):
    """``start + (end - start) * update / updates``, then ``end`` (Bengio et al. 2015, linear)."""

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

    def _between(self, fraction: float) -> float:
        return self.start + (self.end - self.start) * fraction


@SCHEDULES.register("geometric")
@dataclass(frozen=True)
class Geometric(Linear):
    """``start * (end / start) ** (update / updates)``, then ``end``; both ends above 0."""

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


def parse_schedule(text: str | float) -> Schedule:
    """A schedule from what a command line or a configuration file holds.

    A number stands for itself at every update; otherwise ``NAME:FIELD:...`` with the name and the
    fields of a registered schedule: ``linear:START:END:UPDATES``, ``geometric:START:END:UPDATES``.

    Raises:
        ValueError: the text has none of these forms, or the schedule refuses the numbers.
    """
    name, *values = str(text).split(":")
    try:
        if not values:
            return Constant(_finite(name))
        if name not in SCHEDULES.names:
            raise ValueError(f"no schedule is called {name!r}")
        kind = SCHEDULES.get(name)
        types: list[Any] = [field.type for field in fields(kind)]
        if len(values) != len(types):
            raise ValueError(f"{name} takes {len(types)} values, got {len(values)}")
        numbers = [
            int(value) if type_ in (int, "int") else _finite(value)
            for value, type_ in zip(values, types, strict=True)
        ]
        return kind(*numbers)
    except ValueError as error:
        raise ValueError(
            f"schedule {str(text)!r} is not understood ({error}): give a number, "
            "linear:START:END:UPDATES or geometric:START:END:UPDATES"
        ) from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number
