"""A recipe file parsed into dataclasses.

Every key is a field of a dataclass below; an unknown or missing key, or a value of the wrong
kind, raises :class:`~recipes.errors.ConfigError` with the key's full path and the known keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from recipes.data_config import Corpus as Corpus
from recipes.data_config import Data, check_data
from recipes.errors import ConfigError
from recipes.evaluation_config import Evaluation, check_evaluation

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*\Z")

# The runner writes these itself; a second value in a recipe would break the layout.
RESERVED_FLAGS = (
    "--save-dir",
    "--restore-file",
    "--finetune-from-model",
    "--user-dir",
    "--task",
    "--source-lang",
    "--target-lang",
    "--log-format",
    "--log-interval",
    "--no-progress-bar",
    "--cpu",
    "--fp16",
)
# What "the same number of updates" means for arms that are to be compared.
BUDGET_FLAGS = ("--max-update", "--max-epoch", "--update-freq", "--max-tokens", "--batch-size")


# Tasks that decode by refining all positions at once, not with a beam.
ITERATIVE_TASKS = ("translation_lev",)


@dataclass
class Task:
    """fairseq's task; its ``flags`` (such as ``--noise``) go to training and to decoding."""

    name: str = "translation"
    flags: list[str] = field(default_factory=list)

    @property
    def iterative(self) -> bool:
        """Whether outputs are refined in passes over all positions, without a beam."""
        return self.name in ITERATIVE_TASKS


@dataclass
class SentencePiece:
    """Arguments of ``sentencepiece.SentencePieceTrainer``.

    With ``training_lines`` the model is trained on that many lines, drawn at random (the same
    ones every time): more than some millions do not fit into memory.
    """

    vocab_size: int
    model_type: str = "unigram"
    joint: bool = True
    character_coverage: float = 1.0
    training_lines: int | None = None


@dataclass
class Training:
    """One fairseq-train run: its flags, and which checkpoint of it is used afterwards."""

    flags: list[str]
    checkpoint: str = "checkpoint_last.pt"
    average: int = 0

    @property
    def checkpoint_name(self) -> str:
        """File name, in the save-dir, of the checkpoint that is used afterwards."""
        return f"average_{self.average}.pt" if self.average else self.checkpoint


@dataclass
class Arm:
    """One fine-tuning run; its flags are added to those all arms share."""

    flags: list[str]
    description: str = ""


@dataclass
class Decoding:
    """fairseq-generate settings; with several ``lenpen`` values each arm's is chosen on valid.

    A task that decodes without a beam has ``beams: [1]``; its settings are among the flags.
    """

    beams: list[int] = field(default_factory=lambda: [1, 5])
    lenpen: list[float] = field(default_factory=lambda: [1.0])
    flags: list[str] = field(default_factory=lambda: ["--max-tokens", "8000"])


@dataclass
class Recipe:
    """The whole experiment.

    With ``annealing``, a second stage of cross-entropy continues from the first one's checkpoint
    with an optimiser and a learning rate of its own, and the arms start from what it ends with.
    """

    source_lang: str
    target_lang: str
    sentencepiece: SentencePiece
    architecture: list[str]
    cross_entropy: Training
    finetune: Training
    arms: dict[str, Arm]
    annealing: Training | None = None
    description: str = ""
    control: str = "cross_entropy"
    selected: str | None = None
    fp16: bool = False
    log_interval: int = 20
    task: Task = field(default_factory=Task)
    data: Data = field(default_factory=Data)
    decoding: Decoding = field(default_factory=Decoding)
    evaluation: Evaluation = field(default_factory=Evaluation)
    name: str = ""

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language codes."""
        return self.source_lang, self.target_lang

    def arm_flags(self, arm: str) -> list[str]:
        """The shared fine-tuning flags followed by the arm's own (the later value counts)."""
        return [*self.finetune.flags, *self.arms[arm].flags]


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    files = resources.files("recipes").joinpath("configs").iterdir()
    return sorted(f.name[: -len(".yaml")] for f in files if f.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML text of a packaged recipe, or of a file when ``name`` ends in ``.yaml``."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"recipe file {name} does not exist")
        return path.read_text(encoding="utf-8")
    if name not in recipe_names():
        close = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"there is no recipe {name!r}{hint} (recipes: {', '.join(recipe_names())}; "
            "a path ending in .yaml is read as your own recipe)"
        )
    file = resources.files("recipes").joinpath("configs", f"{name}.yaml")
    return file.read_text(encoding="utf-8")


def load_recipe(name: str, settings: list[str] | None = None) -> Recipe:
    """Read recipe ``name``, apply ``--set`` settings (``key.path=value``), check it."""
    try:
        raw = yaml.safe_load(recipe_text(name))
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe {name}: expected a mapping of keys at the top level")
    for setting in settings or []:
        apply_setting(raw, setting)
    raw.setdefault("name", Path(name).name.rsplit(".", 1)[0] if "/" in name else name)
    if raw["name"].endswith((".yaml", ".yml")):
        raw["name"] = raw["name"].rsplit(".", 1)[0]
    recipe = _build(Recipe, raw, "")
    check_recipe(recipe)
    return recipe


def apply_setting(raw: dict[str, Any], setting: str) -> None:
    """Apply one ``key.path=value`` (replace) or ``key.path+=value`` (append) to ``raw``.

    Values are read as YAML. Appending to a string of flags adds them at its end, where they
    override earlier ones.
    """
    match = re.match(r"([A-Za-z_][^=+]*?)(\+?=)(.*)\Z", setting, re.DOTALL)
    if match is None:
        raise ConfigError(f"--set {setting!r}: expected key.path=value or key.path+=value")
    path, operator, text = match.groups()
    *parents, last = path.strip().split(".")
    node = raw
    for key in parents:
        # An arm may be written as a bare string of flags.
        if isinstance(node.get(key), str) and last == "flags":
            node[key] = {"flags": node[key]}
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {setting!r}: {key!r} is not a mapping in this recipe")
    value = yaml.safe_load(text)
    if operator == "=":
        node[last] = value
        return
    old = node.get(last)
    if isinstance(old, str):
        node[last] = f"{old} {text}"
    elif isinstance(old, list):
        node[last] = [*old, *(value if isinstance(value, list) else [value])]
    else:
        raise ConfigError(f"--set {setting!r}: += needs a string or a list at {path!r}")


def flag_value(flags: list[str], name: str) -> str | None:
    """The value the last ``name VALUE`` (or ``name=VALUE``) in ``flags`` gives, else None."""
    value = None
    for position, flag in enumerate(flags):
        if flag == name and position + 1 < len(flags):
            value = flags[position + 1]
        elif flag.startswith(name + "="):
            value = flag[len(name) + 1 :]
    return value


def without_flag(flags: list[str], name: str) -> list[str]:
    """``flags`` without any ``name VALUE`` and ``name=VALUE``."""
    kept, skip = [], False
    for flag in flags:
        if skip:
            skip = False
        elif flag == name:
            skip = True
        elif not flag.startswith(name + "="):
            kept.append(flag)
    return kept


# What may be written as one string: the key that it stands for.
_SHORT = {Arm: "flags", Task: "name"}


def _build(cls: type, raw: Any, path: str) -> Any:
    """Build dataclass ``cls`` from the mapping ``raw`` found at key path ``path``."""
    where = path or "the recipe"
    if isinstance(raw, str) and cls in _SHORT:
        raw = {_SHORT[cls]: raw}
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of keys, found {raw!r}")
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"{where}: unknown key {key!r}{hint} (known keys: {', '.join(known)})"
            )
    missing = [
        name
        for name, f in known.items()
        if name not in raw
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing key {', '.join(map(repr, missing))}")
    hints = get_type_hints(cls)
    values = {}
    for key, value in raw.items():
        at = f"{path}.{key}" if path else key
        values[key] = _flags(value, at) if _is_flags(key) else _convert(hints[key], value, at)
    return cls(**values)


def _is_flags(key: str) -> bool:
    return key in ("flags", "architecture")


def _flags(value: Any, path: str) -> list[str]:
    """Command-line flags given as one string (shell quoting) or as a list."""
    if value is None:
        return []
    if isinstance(value, list):
        return [str(item) for item in value]
    if not isinstance(value, str):
        raise ConfigError(f"{path}: expected command-line flags as a string, found {value!r}")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ConfigError(f"{path}: {error} in {value!r}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Check ``value`` against the type hint; build nested dataclasses."""
    options = [a for a in get_args(hint) if a is not type(None)]
    if type(None) in get_args(hint):
        return None if value is None else _convert(options[0], value, path)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path)
    origin = get_origin(hint)
    if origin is list:
        if not isinstance(value, list) or not value:
            raise ConfigError(f"{path}: expected a list with at least one item, found {value!r}")
        return [_convert(options[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: expected a mapping, found {value!r}")
        if options[1] is Any:
            return value
        return {str(k): _convert(options[1], v, f"{path}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: expected {hint.__name__}, found {value!r}")
    return value


def check_recipe(recipe: Recipe) -> None:
    """Checks that need more than one key.

    Raises:
        ConfigError: names the key.
    """
    names = [*recipe.arms, *recipe.data.splits]
    for name in names:
        if not _FILE_NAME.match(name):
            raise ConfigError(
                f"{name!r} becomes a file name: use letters, digits and . _ - + = only"
            )
    if len(set(recipe.data.splits)) != len(recipe.data.splits):
        raise ConfigError(f"data: two splits are the same file: {recipe.data.splits}")
    check_data(recipe.data, recipe.languages)
    if recipe.control not in recipe.arms:
        raise ConfigError(f"control: {recipe.control!r} is not an arm ({', '.join(recipe.arms)})")
    if recipe.selected is not None and recipe.selected not in recipe.arms:
        raise ConfigError(f"selected: {recipe.selected!r} is not an arm ({', '.join(recipe.arms)})")
    if "start" in recipe.arms:
        raise ConfigError("arms: 'start' is the name of the checkpoint all arms start from")
    groups = {
        "task.flags": recipe.task.flags,
        "architecture": recipe.architecture,
        "cross_entropy.flags": recipe.cross_entropy.flags,
        "annealing.flags": recipe.annealing.flags if recipe.annealing else [],
        "finetune.flags": recipe.finetune.flags,
        **{f"arms.{name}.flags": arm.flags for name, arm in recipe.arms.items()},
    }
    for where, flags in groups.items():
        for flag in flags:
            if flag.split("=")[0] in RESERVED_FLAGS:
                raise ConfigError(f"{where}: {flag} is set by the runner; take it out")
    for flag in BUDGET_FLAGS:
        values = {name: flag_value(recipe.arm_flags(name), flag) for name in recipe.arms}
        if len(set(values.values())) > 1:
            raise ConfigError(
                f"arms: all arms must run the same updates, but {flag} differs: {values}"
            )
    if not any(flag_value(recipe.arm_flags(recipe.control), f) for f in BUDGET_FLAGS[:2]):
        raise ConfigError("finetune.flags: give the arms an end, --max-update or --max-epoch")
    if recipe.annealing and not any(
        flag_value(recipe.annealing.flags, f) for f in BUDGET_FLAGS[:2]
    ):
        raise ConfigError("annealing.flags: give the stage an end, --max-update or --max-epoch")
    if recipe.sentencepiece.training_lines is not None and recipe.sentencepiece.training_lines < 1:
        raise ConfigError("sentencepiece.training_lines: at least 1")
    if recipe.sentencepiece.model_type not in ("unigram", "bpe", "char", "word"):
        raise ConfigError(
            f"sentencepiece.model_type: {recipe.sentencepiece.model_type!r} is not one of "
            "unigram, bpe, char, word"
        )
    check_evaluation(recipe.evaluation)
    if any(beam < 1 for beam in recipe.decoding.beams):
        raise ConfigError(f"decoding.beams: a beam is at least 1, found {recipe.decoding.beams}")
    searches = recipe.decoding.beams, recipe.decoding.lenpen
    if recipe.task.iterative and searches != ([1], [1.0]):
        raise ConfigError(
            f"decoding: task {recipe.task.name} decodes in passes over all positions, without beam "
            "and length penalty; write 'beams: [1]', no lenpen, and its own settings as flags "
            "(--iter-decode-max-iter 0 is one pass)"
        )
