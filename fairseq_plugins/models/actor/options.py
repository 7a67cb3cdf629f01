"""Flags of the actor, which every architecture with one shares."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

from criterions.stochastic_graph import Schedule, parse_schedule
from fairseq_plugins.flags import above, at_least

ACTORS = ("deterministic", "gaussian")
_STD = "0.1"
_DEFAULTS: dict[str, Any] = {
    "actor": "gaussian",
    "actor_hidden_size": 128,
    "actor_std": None,
    "actor_learn_std": False,
    "actor_train_all": False,
    "actor_keep_dropout": False,
}
# Every schedule has come to its end by then.
_LATE = 1 << 62


def add_actor_flags(parser: ArgumentParser) -> None:
    """Add the flags; their defaults are set by :func:`set_actor_defaults`, as fairseq has it."""
    parser.add_argument(
        "--actor",
        choices=ACTORS,
        help="what is added to the decoder's input: the actor's output, or a Gaussian around it "
        "for --criterion stochastic_graph [default: gaussian]",
    )
    parser.add_argument(
        "--actor-hidden-size",
        type=int,
        metavar="N",
        help="size of the actor's hidden layer [default: 128]",
    )
    parser.add_argument(
        "--actor-std",
        metavar="STD",
        help="standard deviation of --actor gaussian in every dimension; a number, "
        f"linear:START:END:UPDATES or geometric:START:END:UPDATES [default: {_STD}]",
    )
    parser.add_argument(
        "--actor-learn-std",
        action="store_true",
        help="learn the standard deviation of every dimension, from --actor-std on",
    )
    parser.add_argument(
        "--actor-train-all",
        action="store_true",
        help="train the rest of the model as well, which else stays as it is",
    )
    parser.add_argument(
        "--actor-keep-dropout",
        action="store_true",
        help="let the rest of the model have its dropout although it does not learn",
    )


def set_actor_defaults(args: Any) -> None:
    """Give flags that were not set their defaults."""
    for name, value in _DEFAULTS.items():
        setattr(args, name, getattr(args, name, value))


@dataclass(frozen=True)
class ActorOptions:
    """What the flags say, checked.

    ``std``: of the Gaussian, by update; None for a deterministic actor.
    ``learn_std``: whether that is only where a learned one starts.
    ``hidden_size``, ``train_all``, ``keep_dropout``: as the flags.
    """

    std: Schedule | None
    learn_std: bool
    hidden_size: int
    train_all: bool
    keep_dropout: bool

    @classmethod
    def of(cls, args: Any) -> ActorOptions:
        """From fairseq's arguments.

        Raises:
            ValueError: a flag is out of its range, or without effect beside another.
        """
        if args.actor not in ACTORS:
            raise ValueError(f"--actor must be one of {', '.join(ACTORS)}; got {args.actor!r}")
        if args.actor_train_all and args.actor_keep_dropout:
            raise ValueError(
                "--actor-keep-dropout does not go with --actor-train-all: a model that learns "
                "has its dropout anyway"
            )
        std = None
        if args.actor == "gaussian":
            std = _std(str(_STD if args.actor_std is None else args.actor_std))
            if args.actor_learn_std and std(0) != std(_LATE):
                raise ValueError(
                    f"--actor-learn-std does not go with --actor-std {args.actor_std}: a learned "
                    "standard deviation follows no schedule; give the number that it starts from"
                )
        else:
            for name in ("actor_std", "actor_learn_std"):
                if getattr(args, name) not in (None, False):
                    raise ValueError(
                        f"--{name.replace('_', '-')} does not go with --actor deterministic, "
                        "which draws nothing"
                    )
        return cls(
            std,
            args.actor_learn_std,
            at_least("--actor-hidden-size", args.actor_hidden_size, 1),
            args.actor_train_all,
            args.actor_keep_dropout,
        )


def _std(text: str) -> Schedule:
    try:
        schedule = parse_schedule(text)
    except ValueError as error:
        raise ValueError(f"--actor-std: {error}") from error
    # Schedules are monotonic: all values lie between the first and the last.
    for value in (schedule(0), schedule(_LATE)):
        above("--actor-std", value, 0)
    return schedule
