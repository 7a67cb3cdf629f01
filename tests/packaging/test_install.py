"""A normal and an editable install, each into a fresh environment that holds its own fairseq."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
PACKAGES = ("criterions", "fairseq_plugins", "recipes")
DISTRIBUTION = "fairseq-sequence-training"

# Loads the plugin as the fairseq commands do, and tells what it found.
LOAD_PLUGIN = """
import argparse, json, sys
from fairseq.utils import import_user_module
import_user_module(argparse.Namespace(user_dir="fairseq_plugins"))
from fairseq.criterions import CRITERION_REGISTRY
import criterions, fairseq_plugins, recipes
print(json.dumps({
    "criterions": criterions.__file__,
    "fairseq_plugins": fairseq_plugins.__file__,
    "recipes": recipes.__file__,
    "submodules": [
        module.__file__ for name, module in sys.modules.items()
        if name.startswith("fairseq_plugins.") and getattr(module, "__file__", None)
    ],
    "expected_bleu": CRITERION_REGISTRY["expected_bleu"].__module__,
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


class Environment:
    """A virtual environment with a copy of fairseq; everything else is found in this one.

    fairseq is copied because it looks for ``--user-dir`` beside its own files.
    """

    def __init__(self, folder: Path) -> None:
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        venv = folder / "venv"
        run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=folder)
        self.python = venv / "bin" / "python"
        purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site_packages = Path(run(self.python, "-c", purelib, cwd=folder).strip())
        for package in ("fairseq", "fairseq_cli"):
            shutil.copytree(SITE_PACKAGES / package, self.site_packages / package)
        (self.site_packages / "everything_else.pth").write_text(f"{SITE_PACKAGES}\n")

    def pip(self, *arguments: str | Path) -> None:
        pip = (sys.executable, "-m", "pip", "--python", self.python)
        run(*pip, *arguments, cwd=self.elsewhere)

    def install(self, *arguments: str | Path) -> None:
        self.pip("install", "--no-deps", "--no-build-isolation", "--no-index", *arguments)

    def load_plugin(self, folder: Path) -> dict[str, Any]:
        answer = run(self.python, "-c", LOAD_PLUGIN, cwd=folder)
        return json.loads(answer.splitlines()[-1])

    def installed_files(self) -> set[str]:
        """Files of the project in site-packages, without its metadata."""
        record = next(self.site_packages.glob("fairseq_sequence_training-*.dist-info/RECORD"))
        names = {line.split(",")[0] for line in record.read_text().splitlines()}
        return {name for name in names if ".dist-info/" not in name and "__pycache__" not in name}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the packages are built from: builds leave files behind."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    for name in (*PACKAGES, "tests", "benchmarks", "docs"):
        copy_tree(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_plugin_loads_from_any_folder_after_a_normal_install(
    checkout: Path, environment: Environment
) -> None:
    environment.install(checkout)
    found = environment.load_plugin(environment.elsewhere)
    for package in PACKAGES:
        assert Path(found[package]).resolve().parent == environment.site_packages / package
    assert found["expected_bleu"].startswith("fairseq_plugins.")

    usage = run(
        *(environment.python, "-m", "fairseq_cli.train", "--user-dir", "fairseq_plugins", "--help"),
        cwd=environment.elsewhere,
    )
    assert "expected_bleu" in usage


def test_plugin_loads_from_any_folder_after_an_editable_install(
    checkout: Path, environment: Environment
) -> None:
    environment.install("--editable", checkout)
    with (checkout / "fairseq_plugins" / "__init__.py").open("a") as file:
        file.write("import pathlib; pathlib.Path('edited').touch()\n")
    for folder in (environment.elsewhere, checkout):
        found = environment.load_plugin(folder)
        assert (folder / "edited").exists(), "an edit of the checkout was not seen"
        for package in PACKAGES:
            assert Path(found[package]).parent == checkout / package
        assert found["submodules"]
        assert all(Path(file).is_relative_to(checkout) for file in found["submodules"])
        assert found["expected_bleu"].startswith("fairseq_plugins.")


def test_uninstalling_an_editable_install_leaves_nothing(
    checkout: Path, environment: Environment
) -> None:
    before = set(environment.site_packages.iterdir())
    environment.install("--editable", checkout)
    assert environment.installed_files() >= {"fairseq_plugins/__init__.py"}
    environment.pip("uninstall", "--yes", DISTRIBUTION)
    assert set(environment.site_packages.iterdir()) == before


def test_import_after_the_checkout_moved_says_what_to_do(
    checkout: Path, environment: Environment
) -> None:
    environment.install("--editable", checkout)
    checkout.rename(checkout.with_name("moved"))
    command = [environment.python, "-c", "import fairseq_plugins"]
    result = subprocess.run(command, cwd=environment.elsewhere, capture_output=True, text=True)
    assert result.returncode != 0
    assert "run `pip install -e .` again" in result.stderr


def test_wheel_holds_the_three_packages_whole_and_nothing_else(
    checkout: Path, environment: Environment
) -> None:
    environment.install(checkout)
    sources = {
        str(file.relative_to(checkout))
        for package in PACKAGES
        for file in (checkout / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    for kind in (".yaml", ".html", "py.typed"):
        assert any(name.endswith(kind) for name in sources)
    assert environment.installed_files() == sources
