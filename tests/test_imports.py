"""Imports run one way: objectives know nothing of fairseq, models nothing of criterions."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("criterions", "fairseq_plugins", "recipes")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imports(source: str, module: str, is_package: bool = False) -> set[str]:
    """All modules that a source imports, wherever in it: in functions and for types, too.

    ``from package import name`` is the module ``package.name`` if there is one, else ``package``.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + is_package]
            prefix = [*base, node.module] if node.level and node.module else base
            of = ".".join(prefix) if node.level else str(node.module)
            names = {f"{of}.{alias.name}" for alias in node.names}
            found |= {name if name in PATHS else of for name in names}
    return found


IMPORTS = {
    module: imports(path.read_text(), module, path.name == "__init__.py")
    for module, path in PATHS.items()
}


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def arrows(sources: tuple[str, ...], targets: tuple[str, ...]) -> list[str]:
    return [
        f"{module} imports {imported}"
        for module, found in sorted(IMPORTS.items())
        for imported in sorted(found)
        if within(module, *sources) and within(imported, *targets)
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle(package: str):
    graph = {
        module: {name for name in found if within(name, package)}
        for module, found in IMPORTS.items()
        if within(module, package)
    }
    assert len(graph) > 5
    assert circle(graph) == []


def test_objectives_import_neither_fairseq_nor_the_plugin():
    assert arrows(("criterions",), ("fairseq", "fairseq_cli", "fairseq_plugins", "recipes")) == []


def test_models_import_no_criterion():
    criterions = ("criterions", "stochastic_graph", "expected_bleu")
    targets = tuple(f"fairseq_plugins.{name}" for name in criterions)
    assert arrows(("fairseq_plugins.models",), targets) == []


def test_imports_are_found_wherever_they_are():
    source = """
from __future__ import annotations
import torch.nn as nn
from criterions.checks import check_order
from criterions import checks, bleu_missing
if TYPE_CHECKING:
    from . import sibling
def function():
    from ..bleu.counted import bleu
"""
    found = imports(source, "criterions.stochastic_graph.graph")
    assert found == {
        "__future__",
        "torch.nn",
        "criterions.checks",
        "criterions",
        "criterions.stochastic_graph",
        "criterions.bleu.counted",
    }
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
