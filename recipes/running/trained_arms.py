"""What is trained from a recipe: its arms with each seed, and the controls of their rewards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recipes.errors import ConfigError
from recipes.schema.checks import check_recipe
from recipes.schema.flags import flag_value, without_flag
from recipes.schema.recipe import Arm, Recipe

START = "start"  # the system of the checkpoint that all arms start from
CONSTANT_REWARD = "constant_reward"
# Names of --objective whose cost is a reward, unless --cost says otherwise.
REWARD_OBJECTIVES = (
    *("mixer", "reinforce", "self_critical", "leave_one_out", "group_normalized", "minimum_risk"),
    *("sequence_nll", "max_margin", "multi_margin", "softmax_margin", "trainable_greedy"),
)
_FAIRSEQ_SEED = 1  # where no --seed is given
_SEED = re.compile(r"\.seed(\d+)\Z")


@dataclass(kw_only=True)
class TrainedArm(Arm):
    """An arm of :func:`expand`: one fine-tuning run with one seed."""

    arm: str  # the name it shares with the other seeds
    seed: int
    own_seed: bool  # that of the recipe file: it has no seed in its own name
    start: str  # the system that it starts from
    asked: bool = True  # another one counts if it was trained before

    @property
    def stage(self) -> str:
        """Name of the stage that trains it."""
        return f"arm {self.arm}" + ("" if self.own_seed else f" seed {self.seed}")


@dataclass
class TrainedRecipe(Recipe):
    """A recipe with an arm for everything that is trained."""

    arms: Mapping[str, TrainedArm]


def seed_of(flags: Sequence[str]) -> int:
    """The seed that fairseq-train takes from ``flags``.

    Raises:
        ConfigError: it is not a number.
    """
    value = flag_value(flags, "--seed")
    try:
        return _FAIRSEQ_SEED if value is None else int(value)
    except ValueError:
        raise ConfigError(f"--seed {value}: expected a whole number") from None


def with_seed(flags: Sequence[str], seed: int) -> list[str]:
    """``flags`` with another ``--seed``."""
    return [*without_flag(flags, "--seed"), "--seed", str(seed)]


def has_reward(flags: Sequence[str]) -> bool:
    """Whether an arm trains on a reward of ``--criterion stochastic_graph``."""
    if flag_value(flags, "--criterion") != "stochastic_graph":
        return False
    cost = flag_value(flags, "--cost")
    return cost == "reward" if cost else flag_value(flags, "--objective") in REWARD_OBJECTIVES


def expand(
    recipe: Recipe,
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    constant_reward: bool = False,
    more: Sequence[str] = (),
    shared_start: bool = False,
) -> TrainedRecipe:
    """The recipe with an arm for everything that is trained.

    Args:
        seeds: of the whole chain, from cross-entropy to every arm; without any, each training has
            its own one.
        arms: names of the arms that are wanted, all if empty. The control is always added, with
            every seed and with its own.
        constant_reward: beside every arm with a reward, one whose reward is always 1, as with the
            recipe's own ``constant_reward``.
        more: names that this function forms, wanted besides; others among them do not matter.
        shared_start: the arms of all seeds start from one checkpoint, with the recipe's own seeds.

    Raises:
        ConfigError: there is no such arm; no arm has a reward; two names are equal.
    """
    unknown = [name for name in arms if name not in recipe.arms]
    if unknown:
        raise ConfigError(f"--arms: {unknown[0]!r} is not an arm ({', '.join(recipe.arms)})")
    wanted = [n for n in recipe.arms if not arms or n in arms or n == recipe.control]
    if constant_reward and not any(has_reward(recipe.arm_flags(name)) for name in wanted):
        raise ConfigError(
            "--control constant-reward: none of the arms trains on a reward of --criterion "
            f"stochastic_graph ({', '.join(wanted)})"
        )
    found: dict[str, TrainedArm] = {}
    every_seed = [*seeds, *(int(match[1]) for name in more if (match := _SEED.search(name)))]
    # The control and its seeds come first, as in the report.
    for name in sorted(recipe.arms, key=lambda name: name != recipe.control):
        for key, trained in _derived(recipe, name, every_seed, shared_start).items():
            controlled = constant_reward or recipe.constant_reward
            asked = name in wanted and (controlled or trained.arm == name)
            asked = asked and (trained.seed in seeds if seeds else trained.own_seed)
            trained.asked = asked or key == recipe.control
            if not trained.asked and key not in more:
                continue
            if key != name and key in recipe.arms:
                raise ConfigError(f"arms: {key!r} is what the runner calls a run of arm {name!r}")
            found[key] = trained
    trained_recipe = TrainedRecipe(**{**vars(recipe), "arms": found})
    check_recipe(trained_recipe)
    return trained_recipe


def _derived(
    recipe: Recipe, name: str, seeds: Sequence[int], shared_start: bool
) -> dict[str, TrainedArm]:
    """Everything that can be trained from an arm: its own seed first, then ``seeds``."""
    given = recipe.arms[name]
    variants = {name: given}
    own = seed_of(recipe.arm_flags(name))
    if has_reward(recipe.arm_flags(name)):
        flags = [*without_flag(given.flags, "--reward"), "--reward", "constant"]
        description = f"every output has the reward 1; else as: {given.description}"
        variants[f"{name}.{CONSTANT_REWARD}"] = Arm(flags, description, given.budget)
    found = {}
    for arm, settings in variants.items():
        found[arm] = TrainedArm(**vars(settings), arm=arm, seed=own, own_seed=True, start=START)
        for seed in sorted({*seeds} - {own}):
            changed = {**vars(settings), "flags": with_seed(settings.flags, seed)}
            start = START if shared_start else f"{START}.seed{seed}"
            trained = TrainedArm(**changed, arm=arm, seed=seed, own_seed=False, start=start)
            found[f"{arm}.seed{seed}"] = trained
    return found
