"""Flags of the latent variable."""

from __future__ import annotations

import math
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from criterions.checks import check_choice
from criterions.stochastic_graph import Schedule, parse_schedule
from fairseq_plugins.flags import at_least, below_1
from fairseq_plugins.models.latent.kinds import KINDS

PRIORS = ("conditional", "fixed")
SOURCES = ("posterior", "prior")
IN_EVALUATION = ("deterministic", "sample")


def add_latent_flags(parser: ArgumentParser) -> None:
    """Add the flags; like fairseq's transformer, without defaults, which architectures set."""
    parser.add_argument(
        "--latent",
        choices=sorted(KINDS),
        help="what the latent variable of a sentence is: a vector (gaussian), or points on copies "
        "of a manifold (default: gaussian)",
    )
    parser.add_argument(
        "--latent-dim",
        type=int,
        metavar="N",
        help="dimensions of a gaussian latent, or copies of the manifold (default: 16)",
    )
    parser.add_argument(
        "--latent-prior",
        choices=PRIORS,
        help="conditional: p(z | x), computed from the source; fixed: standard normal, or uniform "
        "on the manifold (default: conditional for gaussian, fixed for manifolds)",
    )
    parser.add_argument(
        "--latent-from",
        choices=SOURCES,
        help="where z comes from in training while the target is known: posterior q(z | x, y), "
        "with the KL divergence as a cost, or prior, without one.  While outputs are decoded it "
        "is always the prior (default: posterior)",
    )
    parser.add_argument(
        "--latent-in-evaluation",
        choices=IN_EVALUATION,
        help="deterministic: the prior's mean; sample: one draw for each sentence "
        "(default: deterministic)",
    )
    parser.add_argument(
        "--kl-weight",
        metavar="SCHEDULE",
        help="factor of the KL divergence, by update: a number, linear:START:END:UPDATES or "
        "geometric:START:END:UPDATES (default: 1)",
    )
    parser.add_argument(
        "--free-bits",
        type=float,
        metavar="NATS",
        help="KL divergence, in nats, that every dimension of a gaussian latent, or every copy of "
        "a manifold, has for free in each sentence (default: 0)",
    )
    parser.add_argument(
        "--word-dropout",
        type=float,
        metavar="P",
        help="in training, probability that a token of the target is unknown to the decoder, which "
        "then has to ask the latent variable (Bowman et al. 2016; default: 0)",
    )


@dataclass(frozen=True)
class LatentSettings:
    """The flags, checked.

    ``kind``, ``dim``: of the variable.
    ``prior``: ``conditional`` or ``fixed``.
    ``source``: ``posterior`` or ``prior``, in training with a known target.
    ``samples_in_evaluation``: whether z is drawn outside of training.
    ``kl_weight``: by update.
    ``free_bits``: nats for each dimension or copy, and sentence.
    ``word_dropout``: probability, below 1.
    """

    kind: str
    dim: int
    prior: str
    source: str
    samples_in_evaluation: bool
    kl_weight: Schedule
    free_bits: float
    word_dropout: float

    @classmethod
    def of(cls, args: Any) -> LatentSettings:
        """From the command line's or a checkpoint's namespace.

        Raises:
            ValueError: a value is out of range; names the flag.
        """

        def value(name: str, default: Any) -> Any:
            given = getattr(args, name, None)
            return default if given is None else given

        def choice(name: str, default: str, choices: Sequence[str]) -> str:
            given: str = value(name, default)
            check_choice("--" + name.replace("_", "-"), given, choices)
            return given

        kind = choice("latent", "gaussian", sorted(KINDS))
        default_prior = "conditional" if kind == "gaussian" else "fixed"
        evaluation = choice("latent_in_evaluation", "deterministic", IN_EVALUATION)
        return cls(
            kind=kind,
            dim=at_least("--latent-dim", value("latent_dim", 16), 1),
            prior=choice("latent_prior", default_prior, PRIORS),
            source=choice("latent_from", "posterior", SOURCES),
            samples_in_evaluation=evaluation == "sample",
            kl_weight=_weights(value("kl_weight", "1")),
            free_bits=_finite("--free-bits", at_least("--free-bits", value("free_bits", 0.0), 0)),
            word_dropout=below_1("--word-dropout", value("word_dropout", 0.0)),
        )


def _weights(text: str) -> Schedule:
    try:
        schedule = parse_schedule(text)
    except ValueError as error:
        raise ValueError(f"--kl-weight: {error}") from error
    for update in (0, getattr(schedule, "updates", 0)):  # schedules are monotonic
        at_least("--kl-weight", schedule(update), 0)
    return schedule


def _finite(flag: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{flag} must be finite; got {value}")
    return value
