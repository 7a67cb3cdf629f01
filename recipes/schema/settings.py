"""``--set``: keys of a recipe changed from the command line."""

from __future__ import annotations

import re
from typing import Any

from recipes.errors import ConfigError
from recipes.schema.yaml_text import parse_yaml


def apply_setting(raw: dict[str, Any], setting: str) -> None:
    """Apply one ``key.path=value`` (replace) or ``key.path+=value`` (append) to ``raw``.

    Values are read as YAML. Appending to a string of flags adds them at its end, where they
    override earlier ones. A key may have dots in it, as the name of a file has, if it is there.
    """
    match = re.match(r"([A-Za-z_][^=+]*?)(\+?=)(.*)\Z", setting, re.DOTALL)
    if match is None:
        raise ConfigError(f"--set {setting!r}: expected key.path=value or key.path+=value")
    path, operator, text = match.groups()
    *parents, last = _keys(raw, path.strip().split("."))
    node = raw
    for key in parents:
        # An arm may be written as a bare string of flags.
        if isinstance(node.get(key), str) and last == "flags":
            node[key] = {"flags": node[key]}
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {setting!r}: {key!r} is not a mapping in this recipe")
    value = parse_yaml(text, f"--set {setting!r}")
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


def _keys(raw: dict[str, Any], parts: list[str]) -> list[str]:
    """The keys of a path; of those that are there, the longest."""
    keys: list[str] = []
    node: Any = raw
    while parts:
        present = node if isinstance(node, dict) else {}
        sizes = range(len(parts), 1, -1)
        size = next((n for n in sizes if ".".join(parts[:n]) in present), 1)
        keys.append(".".join(parts[:size]))
        node, parts = present.get(keys[-1]), parts[size:]
    return keys
