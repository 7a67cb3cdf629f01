"""The configuration for fairseq-hydra-train in docs/cluster.md has keys that exist."""

import dataclasses
import re
from pathlib import Path

import yaml
from fairseq.dataclass.configs import FairseqConfig
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import fairseq_plugins  # noqa: F401  registers its criterions

PAGE = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")


def test_keys_of_the_hydra_example_exist():
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    named = {
        "task": TASK_DATACLASS_REGISTRY,
        **{name: registry["dataclass_registry"] for name, registry in REGISTRIES.items()},
    }
    groups = yaml.safe_load(example)
    for key in ("hydra", "model"):  # fairseq's transformer has no dataclass
        groups.pop(key)
    for key, given in groups.items():
        config = named[key][given["_name"]] if key in named else getattr(FairseqConfig(), key)
        assert (
            set(given) - {"_name"} - {field.name for field in dataclasses.fields(config)} == set()
        ), key
