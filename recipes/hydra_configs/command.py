"""``python -m recipes hydra``: a recipe's trainings as configurations of fairseq-hydra-train."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.errors import CommandError
from recipes.fairseq_commands.commands import PLUGIN, Command, train_command, user_dir
from recipes.running.layout import Layout
from recipes.running.trained_arms import expand
from recipes.schema.recipe import Recipe
from recipes.text import write_text

CONVERSION = [sys.executable, "-W", "ignore", "-m", "recipes.hydra_configs.conversion"]
# As fairseq-train logs, so that curves can be read from what the job logs.
_LOGGING = {
    "formatters": {
        "simple": {
            "format": "%(asctime)s | %(levelname)s | %(name)s | %(message)s",
            "datefmt": "%Y-%m-%d %H:%M:%S",
        }
    },
    "handlers": {"file": {"filename": "train.log"}},
}
_SLURM = """\
# @package _global_

# {nodes} with 8 GPUs each, through the launcher hydra/launcher=submitit_slurm. Change what
# your cluster asks for: partition, memory, time.
hydra:
  launcher:
    nodes: {count}
    gpus_per_node: 8
    tasks_per_node: 1   # fairseq starts a process for each GPU itself
    cpus_per_task: 64
    mem_gb: 400
    timeout_min: 1440
    max_num_timeout: 3   # a job that runs out of time is queued again, and continues
# Slurm announces the end of the time to every process, and processes that load data would try to
# queue the job again as well, which then fails.
dataset:
  num_workers: 0
distributed_training:
  distributed_world_size: {gpus}
{port}"""


def write_configurations(
    recipe: Recipe,
    config_dir: Path,
    work_dir: Path,
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    constant_reward: bool = False,
    shared_start: bool = False,
) -> dict[str, Path]:
    """Write one file for every training of a recipe, and examples of settings for Slurm.

    A job writes to the folder where ``python -m recipes run`` expects its checkpoints, and a sweep
    to ``work_dir/sweeps``. Paths in the files are absolute, as hydra changes the folder.

    Args:
        config_dir: for ``fairseq-hydra-train --config-dir``.
        work_dir: of the recipe.
        seeds: see :func:`~recipes.running.trained_arms.expand`, as for what follows.

    Returns:
        the files, by name for ``--config-name``, in the order in which they have to be run.
    """
    recipe = expand(recipe, seeds, arms, constant_reward, shared_start=shared_start)
    work_dir = work_dir.absolute()
    commands = _commands(recipe, work_dir)
    configurations = convert([command for _, command in commands.values()])
    written = {}
    for (name, (save_dir, command)), groups in zip(commands.items(), configurations, strict=True):
        path = config_dir / f"{name}.yaml"
        write_text(path, _yaml(name, command, save_dir, _with_paths(groups), recipe))
        written[name] = path
    for count in (1, 2):
        nodes = "One node" if count == 1 else f"{count} nodes"
        port = "" if count == 1 else "  distributed_port: 29671   # any free one\n"
        text = _SLURM.format(nodes=nodes, count=count, gpus=8 * count, port=port)
        write_text(config_dir / "run_config" / f"slurm_{count}.yaml", text)
    return written


def _commands(recipe: Recipe, work_dir: Path) -> dict[str, tuple[Path, Command]]:
    """Save-dir and command of each training, by the name of its configuration."""
    layout = Layout(recipe, work_dir, work_dir)
    found = {}
    for name in layout.starts:
        start = None
        for stage, training in layout.start_stages(name).items():
            save_dir, flags = work_dir / stage, training.completed()
            command = train_command(
                recipe, layout.binarized, save_dir, flags, start, stage, training.task
            )
            found[stage] = save_dir, command
            start = save_dir / training.checkpoint_name
    for arm, trained in recipe.arms.items():
        save_dir, flags = layout.save_dir(arm), recipe.arm_flags(arm)
        start = layout.checkpoint(trained.start)
        found[f"arm_{arm}"] = (
            save_dir,
            train_command(recipe, layout.binarized, save_dir, flags, start, f"arms/{arm}"),
        )
    return {name: (folder, _anywhere(recipe, command)) for name, (folder, command) in found.items()}


def _anywhere(recipe: Recipe, command: Command) -> Command:
    """The command as it is where there are GPUs: this machine may have none."""
    kept = [word for word in command.arguments if word not in ("--cpu", "--fp16")]
    return Command(command.program, (*kept, *(["--fp16"] if recipe.fp16 else [])))


def convert(commands: Sequence[Command]) -> list[dict[str, Any]]:
    """Configurations of fairseq-train commands, by group; fairseq's own parser reads them.

    Raises:
        CommandError: fairseq refuses the flags; its own words are shown.
    """
    done = subprocess.run(
        CONVERSION,
        input=json.dumps([[str(word) for word in command.arguments] for command in commands]),
        # recipes has to be found, and the plug-in by its short name.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path]).strip(os.pathsep)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        shown = "\n".join(f"    {line}" for line in done.stderr.splitlines()[-5:])
        raise CommandError(f"fairseq cannot read the flags of this recipe\n{shown}")
    return json.loads(done.stdout)


def _with_paths(groups: dict[str, Any]) -> dict[str, Any]:
    """Absolute paths, except that checkpoints go to the job's own folder."""
    common, checkpoint = groups["common"], groups["checkpoint"]
    common["user_dir"] = str(_plugin_folder())
    if "tensorboard_logdir" in common:
        common["tensorboard_logdir"] = str(Path(common["tensorboard_logdir"]).absolute())
    checkpoint["save_dir"] = "."
    return groups


def _plugin_folder() -> Path:
    folder = Path(user_dir()).absolute()
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec(PLUGIN)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))).absolute()


def _yaml(
    name: str, command: Command, save_dir: Path, groups: dict[str, Any], recipe: Recipe
) -> str:
    arm = name.startswith("arm_")
    sweeps = (save_dir.parent.parent if arm else save_dir.parent) / "sweeps"
    hydra = {
        "run": {"dir": str(save_dir)},
        "sweep": {
            "dir": str(sweeps / name),
            "subdir": "${hydra.job.override_dirname}",
        },
        "job": {
            "config": {
                "override_dirname": {
                    "exclude_keys": [
                        "run_config",
                        "distributed_training.distributed_world_size",
                        "distributed_training.distributed_port",
                    ]
                }
            }
        },
        "job_logging": _LOGGING,
    }
    text = yaml.safe_dump({**groups, "hydra": hydra}, sort_keys=False, allow_unicode=True)
    return f"# {recipe.name}: the settings of\n# {command.portable()}\n\n{text}"


def run_lines(
    recipe: Recipe, written: dict[str, Path], config_dir: Path, arguments: Sequence[str]
) -> list[str]:
    """The shell lines that make the data, train everything and score it, in order.

    Args:
        written: see :func:`write_configurations`.
        arguments: of ``python -m recipes`` that run the recipe.
    """
    averaged = {name for name, training in recipe.start_stages.items() if training.average}
    run = ["python", "-m", "recipes", *arguments]
    lines = [shlex.join([*run, "--until", "preprocess"])]
    for name in written:
        options = ["--config-dir", str(config_dir.absolute()), "--config-name", name]
        lines.append(shlex.join(["fairseq-hydra-train", *options]))
        if name.partition(".")[0] in averaged:
            lines.append(shlex.join([*run, "--take-over", "--until", f"{name} stage"]))
    return [*lines, shlex.join([*run, "--take-over"])]
