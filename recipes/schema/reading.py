"""Recipe files: those of the package, and a user's own."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from recipes.errors import ConfigError
from recipes.schema.building import build
from recipes.schema.checks import check_recipe
from recipes.schema.recipe import Recipe
from recipes.schema.settings import apply_setting
from recipes.schema.yaml_text import parse_yaml


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    files = resources.files("recipes").joinpath("configs").iterdir()
    return sorted(f.name[: -len(".yaml")] for f in files if f.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML text of a packaged recipe, or of a file when ``name`` ends in ``.yaml``."""
    if name.endswith((".yaml", ".yml")):
        try:
            return Path(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"recipe file {name} does not exist") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"recipe file {name} is not UTF-8 text: {error}") from error
    if name not in recipe_names():
        close = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"there is no recipe {name!r}{hint} (recipes: {', '.join(recipe_names())}; "
            "a path ending in .yaml is read as your own recipe)"
        )
    file = resources.files("recipes").joinpath("configs", f"{name}.yaml")
    return file.read_text(encoding="utf-8")


def load_recipe(name: str, settings: list[str] | None = None) -> Recipe:
    """Read recipe ``name``, apply ``--set`` settings (``key.path=value``), check it."""
    raw = parse_yaml(recipe_text(name), f"recipe {name}")
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe {name}: expected a mapping of keys at the top level")
    for setting in settings or []:
        apply_setting(raw, setting)
    raw.setdefault("name", Path(name).stem if name.endswith((".yaml", ".yml")) else name)
    recipe = build(Recipe, raw, "")
    check_recipe(recipe)
    return recipe
