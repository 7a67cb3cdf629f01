"""Numbers that a flag cannot have are refused before training."""

from __future__ import annotations

from criterions.stochastic_graph import Schedule, parse_schedule
from fairseq_plugins.flags import above, at_least, below_1
from fairseq_plugins.stochastic_graph.settings import Settings, flag

# Every schedule has come to its end by then.
_LATE = 1 << 62


def check_ranges(settings: Settings) -> None:
    """Raise ``ValueError``, naming the flag, for a number out of its range."""
    at_least("--cross-entropy-weight", settings.cross_entropy_weight, 0)
    below_1("--label-smoothing", settings.label_smoothing)
    at_least("--samples", settings.samples, 1)
    above("--raml-temperature", settings.raml_temperature, 0)
    above("--candidate-sharpness", settings.candidate_sharpness, 0)
    above("--sample-temperature", settings.sample_temperature, 0)
    at_least("--sample-topk", settings.sample_topk, 0)
    above("--sample-topp", settings.sample_topp, 0, at_most=1)


def schedule_of(settings: Settings, name: str) -> Schedule:
    """The schedule that a field of ``settings`` holds as text.

    Raises:
        ValueError: it is not understood, or goes out of the range of the field.
    """
    try:
        schedule = parse_schedule(getattr(settings, name))
    except ValueError as error:
        raise ValueError(f"{flag(name)}: {error}") from error
    # Schedules are monotonic: all values lie between the first and the last.
    for value in (schedule(0), schedule(_LATE)):
        if name == "relaxation_temperature":
            above(flag(name), value, 0)
        else:
            at_least(flag(name), value, 0)
        if name == "teacher_forcing" and value > 1:
            raise ValueError(f"{flag(name)} is a probability, 1 at most; got {value}")
    return schedule
