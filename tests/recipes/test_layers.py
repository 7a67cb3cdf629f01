"""Each package of recipes imports those below it alone, so that there is no circle."""

import ast
from pathlib import Path

import recipes

LAYERS = (
    *("errors", "text", "schema", "corpora", "data", "fairseq_commands", "running"),
    *("scoring", "reporting", "evaluating", "steps", "pipeline", "__main__"),
)
ROOT = Path(recipes.__file__).parent


def imported(path):
    """Parts of the package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "recipes":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("recipes."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (n.name.split(".")[1] for n in node.names if n.name.startswith("recipes."))


def test_no_module_imports_upwards():
    modules = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert len(modules) > 40
    for path in modules:
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for name in imported(path):
            assert LAYERS.index(name) <= LAYERS.index(own), f"{path} imports recipes.{name}"
