"""YAML without what hides an error, or makes a large value out of a small file; ``--set``."""

from __future__ import annotations

import re
from typing import Any

import yaml

from recipes.errors import ConfigError

_LARGEST = 100_000  # values in a file, what aliases stand for counted each time


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, and aliases of aliases that multiply."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._total = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark, before = self.peek_event().start_mark, self._total
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            self._total += self._sizes.get(id(node), _LARGEST)  # inside itself, it has no end
        else:
            node = super().compose_node(parent, index)
            self._total += 1
            self._sizes[id(node)] = self._total - before
        if self._total > _LARGEST:
            problem = f"more than {_LARGEST} values, with those of its aliases"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML document.

    Args:
        where: what the text is, for the message.

    Raises:
        ConfigError: not YAML, a key that is given twice, or too large; names the line.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from error
    except RecursionError:
        raise ConfigError(f"{where}: not valid YAML: nested too deeply") from None


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
