"""Recipe files: those of the package, and a user's own, composed with the base files they name.

An unknown or missing key, or a value of the wrong kind, raises
:class:`~recipes.errors.ConfigError` with the key's full path and the known keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from recipes.errors import ConfigError
from recipes.schema.checks import check_file_name, check_recipe
from recipes.schema.flags import with_flags
from recipes.schema.recipe import Arm, Recipe, Task

if TYPE_CHECKING:
    from importlib.abc import Traversable

_SUFFIXES = (".yaml", ".yml")
# What may be written as one string: the key that it stands for.
_SHORT = {Arm: "flags", Task: "name"}


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Read recipe ``name``, apply ``--set`` settings (``key.path=value``), check it.

    Args:
        name: of a packaged recipe, or a path that ends in ``.yaml``.

    Raises:
        ConfigError: there is no such recipe or base file; it is not YAML; a key or value is wrong.
    """
    raw = composed(name, settings)
    if "name" not in raw:
        raw["name"] = Path(name).stem if name.endswith(_SUFFIXES) else name
        check_file_name(f"recipe {name}: rename the file or give `name:`", raw["name"])
    _name_texts(raw)
    recipe: Recipe = _build(Recipe, raw, "")
    check_recipe(recipe)
    return recipe


def recipe_text(name: str, settings: Sequence[str] = ()) -> str:
    """A recipe, with ``--set`` settings, as YAML that needs no base; errors as above."""
    load_recipe(name, settings)
    text = yaml.safe_dump(composed(name, settings), sort_keys=False, allow_unicode=True, width=100)
    return str(text)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return _names(_packaged())


def _packaged(*folders: str) -> Traversable:
    return resources.files("recipes").joinpath("configs", *folders)


def _names(folder: Traversable) -> list[str]:
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remark on a wrong name that is close to a known one, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


# Files


def composed(name: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe as it is written, with its ``defaults:`` and settings filled in, not checked yet."""
    if name.endswith(_SUFFIXES):
        file: Traversable = Path(name)
    else:
        hint = "a path ending in .yaml is read as your own recipe"
        file = _find(_packaged(), name, "recipe", hint)
    raw = _composed(file, f"recipe {name}", ())
    for setting in settings:
        _apply_setting(raw, setting)
    return raw


def _find(folder: Traversable, name: str, kind: str, hint: str) -> Traversable:
    known = _names(folder)
    if name not in known:
        raise ConfigError(
            f"there is no {kind} {name!r}{did_you_mean(name, known)} ({kind}s: {', '.join(known)}; "
            f"{hint})"
        )
    return folder.joinpath(f"{name}.yaml")


def _composed(file: Traversable, where: str, inside: tuple[str, ...]) -> dict[str, Any]:
    try:
        own = parse_yaml(file.read_text(encoding="utf-8"), where)
    except FileNotFoundError:
        raise ConfigError(f"{where}: the file does not exist") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8 text: {error}") from error
    if not isinstance(own, dict):
        raise ConfigError(f"{where}: expected a mapping of keys at the top level")
    bases = own.pop("defaults", None) or []
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{where}: defaults: expected a list of names, found {bases!r}")
    result: dict[str, Any] = {}
    for base in bases:
        if base in inside:
            raise ConfigError(f"{where}: defaults: {base!r} is a base of itself")
        if base.endswith(_SUFFIXES):
            found: Traversable = Path(str(file)).parent / base
        else:
            hint = "a path ending in .yaml, from the recipe's folder, is your own"
            found = _find(_packaged("base"), base, "base", hint)
        result = _merged(result, _composed(found, f"base {base}", (*inside, base)), where)
    if not bases:
        return own
    merged = _merged(result, own, where)
    arms, before = merged.get("arms"), result.get("arms")
    if isinstance(arms, dict) and isinstance(before, dict):
        # ``NAME: null`` leaves out an arm of the base; another name is an error later.
        kept = {n: arm for n, arm in arms.items() if arm is not None or before.get(n) is None}
        merged["arms"] = kept
    return merged


def _merged(base: dict[Any, Any], own: dict[Any, Any], where: str) -> dict[Any, Any]:
    """``base`` with the keys of ``own``, mapping by mapping.

    ``KEY+`` puts flags after those of the base, and items after those of its list.
    """
    result = dict(base)
    for key, value in own.items():
        at = f"{where}: {key}"
        name = key.removesuffix("+") if isinstance(key, str) else key
        before = base.get(name)
        if isinstance(value, dict):
            result[key] = _merged(before if isinstance(before, dict) else {}, value, at)
        elif name == key:
            result[key] = value
        elif name in own:
            raise ConfigError(f"{at}: given together with {name!r}")
        elif _is_flags(name) and before is not None:
            result[name] = shlex.join(with_flags(_flags(before, at), _flags(value, at)))
        elif isinstance(before, list) and isinstance(value, list):
            result[name] = [*before, *value]
        else:
            raise ConfigError(f"{at}: no base has flags or a list {name!r} to add to")
    return result


# YAML


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML document.

    Args:
        where: what the text is, for the message.

    Raises:
        ConfigError: not YAML, or a key that is given twice; names the line.
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


def _apply_setting(raw: dict[str, Any], setting: str) -> None:
    """Apply one ``key.path=value`` (replace) or ``key.path+=value`` (append) to ``raw``.

    Values are read as YAML. Appending to a string of flags adds them at its end, where they
    override earlier ones. A key may have dots in it, as the name of a file has, if it is there.
    """
    match = re.match(r"([A-Za-z_][^=+]*?)(\+?=)(.*)\Z", setting, re.DOTALL)
    if match is None:
        raise ConfigError(f"--set {setting!r}: expected key.path=value or key.path+=value")
    path, operator, text = match.groups()
    parts, node = path.strip().split("."), raw
    while True:
        # Of the keys that are there, the longest.
        sizes = range(len(parts), 1, -1)
        size = next((n for n in sizes if ".".join(parts[:n]) in node), 1)
        key, parts = ".".join(parts[:size]), parts[size:]
        if not parts:
            break
        # An arm may be written as a bare string of flags.
        if isinstance(node.get(key), str) and parts == ["flags"]:
            node[key] = {"flags": node[key]}
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {setting!r}: {key!r} is not a mapping in this recipe")
    value, old = parse_yaml(text, f"--set {setting!r}"), node.get(key)
    if operator == "=":
        node[key] = value
    elif isinstance(old, str):
        node[key] = f"{old} {text}"
    elif isinstance(old, list):
        node[key] = [*old, *(value if isinstance(value, list) else [value])]
    else:
        raise ConfigError(f"--set {setting!r}: += needs a string or a list at {path!r}")


# Dataclasses


def _name_texts(raw: dict[str, Any]) -> None:
    """A text written once, with ``{lang}`` in its name, is that of both languages."""
    languages = [raw.get("source_lang"), raw.get("target_lang")]
    data = raw.get("data")
    splits = data.get("sources") if isinstance(data, dict) else None
    for sources in splits.values() if isinstance(splits, dict) else ():
        for source in sources if isinstance(sources, list) else ():
            named = isinstance(source, dict) and all(isinstance(x, str) for x in languages)
            if named and isinstance(text := source.get("text"), str):
                source["text"] = {x: text.replace("{lang}", str(x)) for x in languages}


def _build(cls: Any, raw: Any, path: str) -> Any:
    """Dataclass ``cls`` from what YAML holds at key path ``path``."""
    where = path or "the recipe"
    if isinstance(raw, str) and cls in _SHORT:
        raw = {_SHORT[cls]: raw}
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of keys, found {raw!r}")
    fields, hints = dataclasses.fields(cls), get_type_hints(cls)
    for key in raw:
        if key not in hints:
            raise ConfigError(
                f"{where}: unknown key {key!r}{did_you_mean(str(key), hints)} (known keys: "
                f"{', '.join(hints)})"
            )
    none = dataclasses.MISSING
    needed = [f.name for f in fields if f.default is none and f.default_factory is none]
    if missing := [repr(name) for name in needed if name not in raw]:
        raise ConfigError(f"{where}: missing key {', '.join(missing)}")
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
    inner, origin = get_args(hint), get_origin(hint)
    if type(None) in inner:
        return None if value is None else _convert(inner[0], value, path)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path)
    if origin is list:
        if not isinstance(value, list) or not value:
            raise ConfigError(f"{path}: expected a list with at least one item, found {value!r}")
        return [_convert(inner[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: expected a mapping, found {value!r}")
        return {str(k): _convert(inner[1], v, f"{path}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    if origin is Literal:
        if value not in inner:
            raise ConfigError(f"{path}: {value!r} is not one of {', '.join(inner)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: expected {hint.__name__}, found {value!r}")
    return value
