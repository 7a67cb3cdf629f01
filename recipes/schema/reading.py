"""Recipe files: those of the package, and a user's own, composed with the base files they name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recipes.errors import ConfigError
from recipes.schema.building import build, did_you_mean, flags_of, is_flags
from recipes.schema.checks import check_file_name, check_recipe
from recipes.schema.flags import with_flags
from recipes.schema.recipe import Recipe
from recipes.schema.yaml_text import apply_setting, parse_yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_SUFFIXES = (".yaml", ".yml")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return _names(_packaged())


def _packaged(*folders: str) -> Traversable:
    return resources.files("recipes").joinpath("configs", *folders)


def _names(folder: Traversable) -> list[str]:
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def composed(name: str) -> dict[str, Any]:
    """A recipe as it is written, with its ``defaults:`` filled in, not checked yet.

    Args:
        name: of a packaged recipe, or a path that ends in ``.yaml``.

    Raises:
        ConfigError: there is no such recipe or base file; it is not YAML; ``KEY+`` has nothing to
            add to.
    """
    if name.endswith(_SUFFIXES):
        return _composed(Path(name), f"recipe {name}", ())
    hint = "a path ending in .yaml is read as your own recipe"
    return _composed(_find(_packaged(), name, "recipe", hint), f"recipe {name}", ())


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
    bases = own.pop("defaults", None)
    if bases is None:
        return own
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
        elif is_flags(name) and before is not None:
            result[name] = shlex.join(with_flags(flags_of(before, at), flags_of(value, at)))
        elif isinstance(before, list) and isinstance(value, list):
            result[name] = [*before, *value]
        else:
            raise ConfigError(f"{at}: no base has flags or a list {name!r} to add to")
    return result


def recipe_text(name: str, settings: Sequence[str] = ()) -> str:
    """A recipe, with ``--set`` settings, as YAML that needs no base.

    Raises:
        ConfigError: see :func:`load_recipe`.
    """
    load_recipe(name, settings)
    return yaml.safe_dump(_set(name, settings), sort_keys=False, allow_unicode=True, width=100)


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Read recipe ``name``, apply ``--set`` settings (``key.path=value``), check it."""
    raw = _set(name, settings)
    if "name" not in raw:
        raw["name"] = Path(name).stem if name.endswith(_SUFFIXES) else name
        check_file_name(f"recipe {name}: rename the file or give `name:`", raw["name"])
    _name_texts(raw)
    recipe = build(Recipe, raw, "")
    check_recipe(recipe)
    return recipe


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


def _set(name: str, settings: Sequence[str]) -> dict[str, Any]:
    raw = composed(name)
    for setting in settings:
        apply_setting(raw, setting)
    return raw
