"""fairseq command lines, built as lists of arguments and printed so that they can be pasted."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from recipes.errors import RecipeError
from recipes.schema.flags import flag_groups, flag_value, without_flag
from recipes.schema.recipe import Recipe, Task

PLUGIN = "fairseq_plugins"
TENSORBOARD = "--tensorboard-logdir"
# Not part of what a command computes: where it runs and how it talks.
_MACHINE_FLAGS = (
    *("--cpu", "--no-progress-bar", "--user-dir", "--log-format"),
    *(TENSORBOARD, "--wandb-project"),
)


@dataclass(frozen=True)
class Command:
    """A console script of fairseq with its arguments (files as :class:`~pathlib.Path`).

    ``launcher``: words before it that start it, perhaps elsewhere.
    """

    program: str
    arguments: tuple[str | Path, ...]
    launcher: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        """The arguments of the process, the program as its full path."""
        return [*self.launcher, console_script(self.program), *map(str, self.arguments)]

    def __str__(self) -> str:
        """The shell line: short program name when that is the one the shell finds."""
        script = console_script(self.program)
        on_path = shutil.which(self.program)
        same = on_path is not None and Path(on_path).absolute() == Path(script)
        program = self.program if same else script
        return shlex.join([*self.launcher, program, *map(str, self.arguments)])

    def portable(self) -> str:
        """The shell line without machine-dependent paths, as it goes into a report."""
        return shlex.join([self.program, *(display_path(a) for a in self.arguments)])

    def fingerprint(self, work_dir: Path) -> list[str]:
        """What the command computes: its arguments, independent of folder and machine."""
        words = (str(argument).replace(f"{work_dir}/", "{work}/") for argument in self.arguments)
        kept = (group for flag, group in flag_groups(words) if flag not in _MACHINE_FLAGS)
        return [self.program, *chain.from_iterable(kept)]


def display_path(argument: str | Path) -> str:
    """``argument`` with paths relative to the current folder, and the plug-in by its short name."""
    text = str(argument)
    return PLUGIN if text == user_dir() else text.replace(f"{Path.cwd()}/", "")


@cache
def console_script(program: str) -> str:
    """Full path of a console script of the environment this Python runs in."""
    script = Path(sys.executable).absolute().parent / program
    if script.is_file():
        return str(script)
    found = shutil.which(program)
    if found is None:
        raise RecipeError(
            f"{program} is not installed beside {sys.executable}; install fairseq "
            "(python -m pip install .) in this environment"
        )
    return found


@cache
def user_dir() -> str:
    """The value of ``--user-dir``: the short name in the repository, else the full path."""
    if Path(PLUGIN).is_dir():
        return PLUGIN
    spec = importlib.util.find_spec(PLUGIN)
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(
            f"{PLUGIN} is neither in the current folder nor installed; run from the repository's "
            "root or install the package (python -m pip install .)"
        )
    return next(iter(spec.submodule_search_locations))


@cache
def has_gpu() -> bool:
    """Whether fairseq will find a CUDA device."""
    import torch

    return torch.cuda.is_available()


def _device_flags(fp16: bool) -> list[str]:
    if not has_gpu():
        return ["--cpu"]
    return ["--fp16"] if fp16 else []


def preprocess_command(recipe: Recipe, segmented: Path, destination: Path) -> Command:
    """fairseq-preprocess of all splits, with a joint dictionary when the segmentation is."""
    data = recipe.data
    arguments: list[str | Path] = [
        *("-s", recipe.source_lang, "-t", recipe.target_lang),
        *("--user-dir", user_dir()),
        *("--trainpref", segmented / data.train, "--validpref", segmented / data.valid),
        *("--testpref", ",".join(str(segmented / test) for test in data.tests)),
        *(["--joined-dictionary"] if recipe.sentencepiece.joint else []),
        *("--destdir", destination, "--workers", "2"),
    ]
    return Command("fairseq-preprocess", tuple(arguments))


def train_command(
    recipe: Recipe,
    binarized: Path,
    save_dir: Path,
    flags: list[str],
    start: Path | None = None,
    name: str | None = None,
    task: Task | None = None,
) -> Command:
    """fairseq-train into ``save_dir``.

    Args:
        start: the checkpoint to fine-tune, if any.
        name: of the folder below ``--tensorboard-logdir`` that is this training's own; where
            trainings share one, TensorBoard draws them as one curve.
        task: the recipe's if not given.
    """
    task = task or recipe.task
    logdir = flag_value(flags, TENSORBOARD)
    if logdir is not None and name is not None:
        flags = [*without_flag(flags, TENSORBOARD), TENSORBOARD, f"{logdir}/{name}"]
    arguments: list[str | Path] = [
        binarized,
        *("--user-dir", user_dir(), "--task", task.name, *task.flags),
        *("--source-lang", recipe.source_lang, "--target-lang", recipe.target_lang),
        *(("--finetune-from-model", start) if start else ()),
        # Batches depend on the seed and the epoch, not on where a killed training went on.
        *("--update-epoch-batch-itr", "True"),
        *recipe.architecture,
        *flags,
        *_device_flags(recipe.fp16),
        *("--save-dir", save_dir),
        *("--log-format", "simple", "--log-interval", str(recipe.log_interval)),
        "--no-progress-bar",
    ]
    return Command("fairseq-train", tuple(arguments))


def generate_command(
    checkpoint: Path,
    binarized: Path,
    languages: tuple[str, str],
    split: str,
    beam: int,
    lenpen: float,
    flags: list[str],
    fp16: bool = False,
    task: Task | None = None,
) -> Command:
    """fairseq-generate of one split; pieces are put together afterwards, from its H- lines.

    The model, with all its settings, is the checkpoint's.

    Args:
        task: translation if not given; one that decodes in passes is given no beam.
    """
    task = task or Task()
    search = () if task.iterative else ("--beam", str(beam), "--lenpen", f"{lenpen:g}")
    arguments: list[str | Path] = [
        binarized,
        *("--user-dir", user_dir(), "--task", task.name, *task.flags),
        *("--source-lang", languages[0], "--target-lang", languages[1]),
        *("--path", checkpoint, "--gen-subset", split),
        *search,
        # With fairseq's default of 8 the last batch is dropped unless 8 divides its size.
        *("--required-batch-size-multiple", "1"),
        *flags,
        *_device_flags(fp16),
        *("--log-format", "simple", "--no-progress-bar"),
    ]
    return Command("fairseq-generate", tuple(arguments))
