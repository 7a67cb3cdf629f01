"""The flags of models with stochastic attention, and what they say."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

from criterions.checks import check_choice
from criterions.stochastic_graph import Schedule, parse_schedule
from fairseq_plugins.flags import above

KINDS = ("soft", "hard", "gumbel", "gumbel_st", "greedy", "exact")
"""How a model attends while it is trained."""

EVALUATIONS = ("mode", "soft", "sample", "exact")
"""How it attends in validation and generation."""

_DEFAULT_EVALUATIONS = {
    "soft": "soft",
    "hard": "mode",
    "gumbel": "soft",
    "gumbel_st": "mode",
    "greedy": "mode",
    "exact": "exact",
}
# Every schedule has come to its end by then.
_LATE = 1 << 62


@dataclass(frozen=True)
class AttentionSettings:
    """How a model attends to its source.

    ``kind``: of ``KINDS``, in training.
    ``evaluation``: of ``EVALUATIONS``, in validation and generation.
    ``temperature``: of ``gumbel`` and ``gumbel_st``, by update.
    """

    kind: str
    evaluation: str
    temperature: Schedule

    @property
    def is_soft(self) -> bool:
        """Whether the model is fairseq's own, in training and in evaluation."""
        return self.kind == self.evaluation == "soft"

    @property
    def marginalises(self) -> bool:
        """Whether the sum over alignments is asked for, in training or in evaluation."""
        return "exact" in (self.kind, self.evaluation)

    @property
    def without_state(self) -> str | None:
        """Why, in training, a step's output comes from no one state; None where it does."""
        return "--attention exact mixes those of all positions" if self.kind == "exact" else None

    @classmethod
    def of(cls, args: Any) -> AttentionSettings:
        """From a model's arguments; those of a checkpoint of before have the defaults.

        Raises:
            ValueError: a value is none of the choices, or out of its range.
        """
        set_defaults(args)
        kind, evaluation = args.attention, args.attention_in_evaluation
        check_choice("--attention", kind, KINDS)
        if evaluation is None:
            evaluation = _DEFAULT_EVALUATIONS[kind]
        check_choice("--attention-in-evaluation", evaluation, EVALUATIONS)
        try:
            temperature = parse_schedule(args.attention_temperature)
        except ValueError as error:
            raise ValueError(f"--attention-temperature: {error}") from error
        for value in (temperature(0), temperature(_LATE)):  # schedules are monotonic
            above("--attention-temperature", value, 0)
        return cls(kind, evaluation, temperature)


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that all models with stochastic attention have."""
    parser.add_argument(
        "--attention",
        choices=KINDS,
        help="how the decoder attends to the source in training: soft (the expectation; fairseq's "
        "own attention), hard (one position, drawn; --layer-estimator of --criterion "
        "stochastic_graph estimates the gradient), gumbel (a Gumbel-softmax sample), gumbel_st "
        "(one position, with the gradient of gumbel), greedy (the likeliest position), exact (the "
        "emitted token's distribution is the mixture over all positions) (default: soft)",
    )
    parser.add_argument(
        "--attention-temperature",
        metavar="SCHEDULE",
        help="temperature of gumbel and gumbel_st: a number, linear:START:END:UPDATES or "
        "geometric:START:END:UPDATES (default: 1)",
    )
    parser.add_argument(
        "--attention-in-evaluation",
        choices=EVALUATIONS,
        help="how it attends in validation and generation: mode (the likeliest position), soft "
        "(the expectation), sample (a drawn position), exact (the mixture) (default: mode for "
        "hard, gumbel_st and greedy, soft for soft and gumbel, exact for exact)",
    )


def set_defaults(args: Any) -> None:
    """Give what is missing in a model's arguments its default."""
    args.attention = getattr(args, "attention", "soft")
    args.attention_temperature = getattr(args, "attention_temperature", "1")
    args.attention_in_evaluation = getattr(args, "attention_in_evaluation", None)


def indices_of(flag: str, text: str | None, size: int) -> list[int]:
    """What ``0,2`` stands for, in ascending order; all of ``size`` if there is no text.

    Raises:
        ValueError: not a list of different numbers from 0 to ``size - 1``.
    """
    if text is None:
        return list(range(size))
    try:
        indices = sorted(int(index) for index in str(text).split(","))
    except ValueError:
        raise ValueError(
            f"{flag} must be numbers with commas between, as 0,2; got {text!r}"
        ) from None
    if len(set(indices)) < len(indices) or indices[0] < 0 or indices[-1] >= size:
        raise ValueError(
            f"{flag} must be different numbers from 0 to {size - 1} for this model; got {text}"
        )
    return indices
