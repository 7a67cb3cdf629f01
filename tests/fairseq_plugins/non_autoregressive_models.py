"""fairseq's non-autoregressive models, tiny, with the task ``translation_lev``."""

from __future__ import annotations

import copy
import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq_setup import ORDERS, Setup, setup
from torch import Tensor

NOISE_AND_FLAGS: dict[str, tuple[object, ...]] = {
    "nonautoregressive_transformer": ("--noise", "full_mask"),
    "cmlm_transformer": ("--noise", "random_mask"),
    "iterative_nonautoregressive_transformer": (
        *("--noise", "full_mask", "--train-step", 2),
        *("--dae-ratio", 0),
    ),
    "levenshtein_transformer": ("--noise", "random_delete", "--early-exit", "1,1,1"),
    "warm_started_nonautoregressive_transformer": ("--noise", "full_mask"),
}
"""By architecture: the ``--noise`` it is trained with, and sizes of its own."""

FAMILIES = tuple(arch for arch in NOISE_AND_FLAGS if not arch.startswith("warm_started"))
"""Models that differ by more than what they load."""


def model_flags(arch: str) -> tuple[object, ...]:
    """To follow the flags of a transformer's sizes."""
    return ("--task", "translation_lev", "--arch", arch, *NOISE_AND_FLAGS.get(arch, ()))


def nat_setup(data: Path, arch: str, *, flags: Sequence[object] = (), **options: Any) -> Setup:
    """As ``fairseq_setup.setup``, of a non-autoregressive model."""
    return setup(data, flags=(*model_flags(arch), *flags), **options)


def noisy(built: Setup, *indices: int, subset: str = "train", seed: int = 3) -> dict[str, Any]:
    """A batch with the model's input, as the task's ``train_step`` makes it."""
    sample = built.batch(*indices, subset=subset)
    torch.manual_seed(seed)
    sample["prev_target"] = built.task.inject_noise(sample["target"])
    return sample


def learn(built: Setup, sample: dict[str, Any], steps: int, learning_rate: float) -> None:
    """Adam on one batch, with the criterion of ``built``."""
    optimiser = torch.optim.Adam(built.model.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss, sample_size, _ = built.criterion(built.model, sample)
        (loss / sample_size).backward()
        optimiser.step()


@functools.cache
def learnt_weights(data: Path, arch: str, flags: tuple[object, ...] = ()) -> dict[str, Tensor]:
    """Weights that are right about many tokens of a few training sentences, and unsure of some."""
    built = nat_setup(data, arch, flags=flags, name="nat_loss")
    learn(built, noisy(built, *range(8)), steps=60, learning_rate=0.03)
    return {name: value.clone() for name, value in built.model.state_dict().items()}


def heads_of(built: Setup, sample: dict[str, Any], seed: int = 5) -> dict[str, Any]:
    """What the model returns in training; the seed is of the noise in its forward pass."""
    torch.manual_seed(seed)
    net_input = sample["net_input"]
    with torch.no_grad():
        return built.model(
            net_input["src_tokens"],
            net_input["src_lengths"],
            sample["prev_target"],
            sample["target"],
        )


def logged_by(built: Setup, sample: dict[str, Any], seed: int = 5) -> dict[str, Any]:
    """The criterion's log of the same pass."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return built.criterion(built.model, copy.copy(sample))[2]


def clipped_matches(candidate: Sequence[int], reference: Sequence[int], special: int) -> list[int]:
    """Matches of orders 1 to 4; tokens up to ``special`` are no words."""
    counts = []
    for order in ORDERS:
        of_candidate, of_reference = (
            Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
            for tokens in (candidate, reference)
        )
        counts.append(
            sum(
                min(count, of_candidate[ngram])
                for ngram, count in of_reference.items()
                if min(ngram) > special
            )
        )
    return counts


def enumerated_matches(
    reference: Sequence[int], distribution: Tensor, observed: Sequence[bool], special: int
) -> list[float]:
    """Sum over all outcomes of their probability times their matches.

    Args:
        reference: its words.
        distribution: ``[words, vocab]``, of the candidate's.
        observed: for each word of the candidate, whether it is the reference's for certain.
        special: tokens up to it are no words.
    """
    alphabet = [*sorted(set(reference)), -1]
    choices = []
    for position, (row, known) in enumerate(zip(distribution.tolist(), observed, strict=True)):
        if known:
            choices.append([(reference[position], 1.0)])
        else:
            of_reference = [(word, row[word]) for word in alphabet[:-1]]
            rest = 1 - sum(probability for _, probability in of_reference)
            choices.append([*of_reference, (-1, rest)])
    sums = [0.0] * len(ORDERS)
    for outcome in itertools.product(*choices):
        probability = 1.0
        for _, factor in outcome:
            probability *= factor
        matches = clipped_matches([token for token, _ in outcome], reference, special)
        sums = [total + probability * count for total, count in zip(sums, matches, strict=True)]
    return sums


def positions_of_words(target: Sequence[int], not_words: Sequence[int]) -> list[int]:
    return [position for position, token in enumerate(target) if token not in not_words]
