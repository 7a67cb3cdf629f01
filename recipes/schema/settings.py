"""``--set``: keys of a recipe changed from the command line."""

from __future__ import annotations

import re
from typing import Any

import yaml

from recipes.errors import ConfigError


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
