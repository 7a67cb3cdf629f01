"""Dataclasses out of what YAML holds.

An unknown or missing key, or a value of the wrong kind, raises
:class:`~recipes.errors.ConfigError` with the key's full path and the known keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Iterable
from typing import Any, get_args, get_origin, get_type_hints

from recipes.errors import ConfigError
from recipes.schema.recipe import Arm, Task

# What may be written as one string: the key that it stands for.
_SHORT = {Arm: "flags", Task: "name"}


def build(cls: type, raw: Any, path: str) -> Any:
    """Build dataclass ``cls`` from the mapping ``raw`` found at key path ``path``."""
    where = path or "the recipe"
    if isinstance(raw, str) and cls in _SHORT:
        raw = {_SHORT[cls]: raw}
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of keys, found {raw!r}")
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key!r}{did_you_mean(str(key), known)} (known keys: "
                f"{', '.join(known)})"
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
        values[key] = flags_of(value, at) if is_flags(key) else _convert(hints[key], value, at)
    return cls(**values)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remark on a wrong name that is close to a known one, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def is_flags(key: str) -> bool:
    """Whether a key holds command-line flags."""
    return key in ("flags", "architecture")


def flags_of(value: Any, path: str) -> list[str]:
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
        return build(hint, value, path)
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
