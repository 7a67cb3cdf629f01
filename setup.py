"""Packaging of ``criterions``, ``fairseq_plugins`` and ``recipes``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from setuptools import Command, find_packages, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
PACKAGES = ("criterions", "fairseq_plugins", "recipes")

REDIRECT = '''\
"""Stands in for the ``fairseq_plugins`` of an editable install; written by its setup.py."""

import importlib.util
import os
import sys

CHECKOUT = {checkout!r}

if not os.path.isdir(CHECKOUT):
    raise ImportError(
        f"{{CHECKOUT}} is gone, though `pip install -e` once pointed here: "
        "run `pip install -e .` again in the folder's new place"
    )
spec = importlib.util.spec_from_file_location(
    __name__, os.path.join(CHECKOUT, "__init__.py"), submodule_search_locations=[CHECKOUT]
)
sys.modules[__name__] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[__name__])
'''


class plugin_redirect(Command):
    """Let ``--user-dir fairseq_plugins`` work in every folder after ``pip install -e .``.

    fairseq looks for a ``--user-dir`` in the current folder and then beside its own package, in
    site-packages; it never asks Python's import system.  A normal install puts the plugin there.
    An editable one leaves only an import hook, so this step of the build adds a one-file package
    of the same name, which hands over to the checkout.  It is listed among the wheel's files, so
    ``pip uninstall`` removes it.
    """

    editable_mode = False  # setuptools sets it to True in an editable build
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        if self.editable_mode:
            # In an editable build this is what the wheel is packed from.
            site_packages = Path(self.get_finalized_command("install").install_lib)
            redirect = site_packages / "fairseq_plugins" / "__init__.py"
            redirect.parent.mkdir(parents=True)
            checkout = str(ROOT / "fairseq_plugins")
            redirect.write_text(REDIRECT.format(checkout=checkout), encoding="utf-8")

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class build_with_redirect(build):
    sub_commands: ClassVar = [*build.sub_commands, ("plugin_redirect", None)]


setup(
    name="fairseq-sequence-training",
    version="0.1.0",
    description="Sequence-level training of translation models as a fairseq plugin",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["machine translation", "fairseq", "sequence-level training", "expected BLEU"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=[*PACKAGES, *(f"{name}.*" for name in PACKAGES)]),
    package_data={"criterions": ["py.typed"], "recipes": ["configs/**/*.yaml", "templates/*"]},
    cmdclass={"build": build_with_redirect, "plugin_redirect": plugin_redirect},
    python_requires=">=3.10,<3.13",
    install_requires=[
        # fairseq's last release predates Python 3.11.  ve-fairseq is a binary build of fairseq's
        # later main branch, for CPython 3.11 and 3.12 on Linux (x86-64).
        "ve-fairseq>=0.12.3,<0.13; python_version >= '3.11'",
        "torch>=2.6; python_version >= '3.11'",
        "fairseq==0.12.2; python_version < '3.11'",
        # fairseq 0.12.2 uses numpy aliases that 1.24 dropped, and its encoder's fast path fails
        # in evaluation with torch 1.13 and later.
        "numpy<1.24; python_version < '3.11'",
        "torch<1.13; python_version < '3.11'",
        "torchaudio<0.13; python_version < '3.11'",
        "sacrebleu>=2.3",
        "sentencepiece>=0.1.99",
        "pooch>=1.7",
        "requests>=2.28",  # pooch downloads with it
        "sacremoses>=0.0.53",
        "babel>=2.9",
        "jinja2>=3",
        "matplotlib>=3.5",
        "rich>=12",
        "scipy>=1.7",
        "pyyaml>=5.4",
    ],
    extras_require={
        "comet": ["unbabel-comet>=2.2"],  # the metric comet
        "dev": [
            "filelock>=3",
            "hypothesis>=6.100",
            "mypy>=1.10",
            "pyro-ppl>=1.8",  # an independent implementation of stochastic graphs, to compare with
            "pytest>=8",
            "pytest-cov>=7",
            "pytest-xdist>=3",
            "ruff>=0.9",
            "setuptools>=70.1",  # tests/packaging installs the project without build isolation
            "tensorboardX>=2.6",  # that curves of a training reach TensorBoard
            "types-PyYAML",
        ],
    },
)
