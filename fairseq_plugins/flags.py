"""What declarations and checks of flags share; every message names the flag."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

from criterions.stochastic_graph import Schedule, parse_schedule

SENTENCE_ENDS = ("ngram", "ignore")
"""``--sentence-end``: whether ``</s>`` is a token of BLEU's n-grams."""

SCHEDULE = "a number, linear:START:END:UPDATES or geometric:START:END:UPDATES"
"""What a flag that is a schedule takes, for its help text."""

HIGHEST_ORDER = 16
"""Of ``--max-order``: time and memory grow with the square of the order."""


def option(default: Any, text: str) -> Any:
    """A field of a dataclass of flags: its default value and its help text."""
    return field(default=default, metadata={"help": text})


def as_flag(name: str) -> str:
    """``reward_level`` as it is written on the command line."""
    return "--" + name.replace("_", "-")


def at_least(flag: str, value: Any, smallest: float, *, at_most: float = math.inf) -> Any:
    """``value``, or ``ValueError`` if it is out of ``smallest .. at_most``, or not finite."""
    if not value >= smallest:
        raise ValueError(f"{flag} must be at least {smallest}; got {value}")
    if value == math.inf:
        raise ValueError(f"{flag} must be finite; got {value}")
    if value > at_most:
        raise ValueError(f"{flag} must be at most {at_most}; got {value}")
    return value


def above(flag: str, value: Any, bound: float, *, at_most: float = math.inf) -> Any:
    """``value``, or ``ValueError`` if it is not above ``bound``, is above ``at_most``, or NaN."""
    if not (bound < value <= at_most and math.isfinite(value)):
        also = "" if at_most == math.inf else f", and {at_most} at most"
        raise ValueError(f"{flag} must be above {bound}{also}; got {value}")
    return value


def below_1(flag: str, value: float) -> float:
    """``value``, or ``ValueError`` if it is no probability below 1."""
    if at_least(flag, value, 0) >= 1:
        raise ValueError(f"{flag} must be below 1; got {value}")
    return value


def schedule_of(
    flag: str, text: str, check: Callable[..., Any], bound: float, **limits: float
) -> Schedule:
    """The schedule that a flag's text describes, its values checked.

    Args:
        check: :func:`above` or :func:`at_least`, called for the first and the last value.
        bound: that it compares them with.
        limits: its ``at_most``.

    Raises:
        ValueError: the text is not understood, or a value is out of range.
    """
    try:
        schedule = parse_schedule(text)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error
    for update in (0, getattr(schedule, "updates", 0)):  # schedules are monotonic
        check(flag, schedule(update), bound, **limits)
    return schedule
