"""fairseq-train command lines as configurations of fairseq-hydra-train.

Run as a program, in a process of its own, as it imports fairseq: reads a JSON list of argument
lists, writes a JSON list of configurations.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

# Written in full, so that a sweep can set any key of them; of the others only what differs.
WHOLE_GROUPS = ("optimization", "optimizer", "lr_scheduler", "criterion")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}\Z")


def configuration(arguments: list[str]) -> dict[str, Any]:
    """What ``fairseq-train ARGUMENTS`` runs with, by group.

    fairseq's own parser reads the arguments. Values that other ones give (the optimiser's learning
    rate is that of ``optimization``) are left to these, so that a change of one reaches all.
    """
    from fairseq import options
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from omegaconf import DictConfig

    args = options.parse_args_and_arch(options.get_training_parser(), input_args=arguments)
    config = convert_namespace_to_omegaconf(args)
    found: dict[str, Any] = {}
    for group in FairseqConfig.__dataclass_fields__:
        value = config.get(group)
        if isinstance(value, argparse.Namespace):
            found[group] = _of_namespace(value, args, group)
        elif isinstance(value, DictConfig):
            whole = group in WHOLE_GROUPS
            found[group] = _set_values(value, _standard(group, value), config, whole)
    return {group: values for group, values in found.items() if values}


def _standard(group: str, value: Any) -> dict[str, Any]:
    """The group's values where no argument is given; references to others as ``${...}``."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY
    from omegaconf import OmegaConf

    registries = {
        "task": TASK_DATACLASS_REGISTRY,
        "model": MODEL_DATACLASS_REGISTRY,
        **{name: registry["dataclass_registry"] for name, registry in REGISTRIES.items()},
    }
    if group in registries:
        dataclass = registries[group].get(value["_name"])
    else:
        dataclass = FairseqConfig.__dataclass_fields__[group].default
    return {} if dataclass is None else _plain(OmegaConf.structured(dataclass))


def _set_values(value: Any, standard: dict[str, Any], config: Any, whole: bool) -> dict[str, Any]:
    from omegaconf import OmegaConf

    kept = {}
    for key, given in _plain(value).items():
        usual = standard.get(key)
        reference = _REFERENCE.match(usual) if isinstance(usual, str) else None
        if reference:
            same = given == _plain_value(OmegaConf.select(config, reference[1]))
        else:
            same = given == usual and not whole
        # The name chooses what the group is.
        if not same if key != "_name" else given is not None:
            kept[key] = given
    return kept


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=False, enum_to_str=True)


def _plain_value(value: Any) -> Any:
    from omegaconf import OmegaConf

    return _plain(value) if OmegaConf.is_config(value) else value


def _of_namespace(
    value: argparse.Namespace, args: argparse.Namespace, group: str
) -> dict[str, Any]:
    """What concerns a model (or another part) without a dataclass, out of all arguments."""
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    name = value._name
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    names = set()
    if group == "model":
        ARCH_MODEL_REGISTRY[name].add_args(parser)
        architecture = argparse.Namespace()
        ARCH_CONFIG_REGISTRY[name](architecture)
        names |= set(vars(architecture))
    names |= {action.dest for action in parser._actions} - {"help"}
    given = {key: getattr(args, key) for key in sorted(names) if hasattr(args, key)}
    return {"_name": name, **{key: v for key, v in given.items() if v is not None}}


def main() -> None:
    """Standard input to standard output."""
    found = [configuration(arguments) for arguments in json.load(sys.stdin)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
