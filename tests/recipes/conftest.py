"""A small corpus, and stand-ins for fairseq's commands that take milliseconds."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from finished_run import make_run
from small_recipes import small_recipe

from recipes.corpora.cldr import pairs
from recipes.fairseq_commands import checkpoints, commands
from recipes.pipeline import run_recipe
from recipes.reporting.report import write_report
from recipes.running.run import Run
from recipes.schema.reading import load_recipe
from recipes.steps import training

FAKE = Path(__file__).with_name("fake_fairseq.py")
FORKED = Path(__file__).with_name("forked_commands.py")


@pytest.fixture
def recipe_file(tmp_path):
    """Writes a recipe (see :func:`small_recipes.small_recipe`) and returns its path."""

    def write(**changes) -> str:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(small_recipe(**changes)), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """train, valid and test of 200, 20 and 24 pairs."""
    folder = tmp_path_factory.mktemp("data")
    drawn = pairs(244, seed=3)
    for split, part in (("train", drawn[:200]), ("valid", drawn[200:220]), ("test", drawn[220:])):
        for lang, side in (("de", 0), ("en", 1)):
            text = "".join(f"{pair[side]}\n" for pair in part)
            (folder / f"{split}.{lang}").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def texts(tmp_path, data_dir) -> dict[str, Path]:
    """120 lines each: a reference, a paraphrase of it, and three systems that drop and swap words.

    One line of the second is empty.
    """
    reference = (data_dir / "train.en").read_text(encoding="utf-8").splitlines()[:120]
    rng = random.Random(5)

    def damage(line: str, rate: float) -> str:
        words = [word for word in line.split() if rng.random() > rate]
        if rng.random() < rate:
            rng.shuffle(words)
        return " ".join(words)

    files = {
        "reference": reference,
        "first": [damage(line, 0.1) for line in reference],
        "second": ["", *(damage(line, 0.11) for line in reference[1:])],
        "third": [damage(line, 0.2) for line in reference],
        "paraphrase": [f"Well, {damage(line, 0.05)}" for line in reference],
    }
    for name, lines in files.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return {name: tmp_path / name for name in files}


class FakeFairseq:
    """The stand-ins' call log, and what they are told to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def calls(self) -> list[list[str]]:
        """Command lines since the last call of this method."""
        log = self.folder / "calls.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def programs(self) -> list[str]:
        """Names of the programs called since the last look."""
        return [call[0] for call in self.calls()]

    def behave(self, **orders) -> None:
        """Orders: ``kill_at`` (update), ``best_at`` (update of the best validation),
        ``kill_generate`` (sentence), ``kill_parent`` (as well),
        ``fail`` (program), ``fail_with`` (last line), ``fail_arm``, ``wait_arm`` (a minute),
        ``train_wall`` (seconds by folder)."""
        (self.folder / "orders.json").write_text(json.dumps(orders))


def replace_fairseq(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFairseq:
    """Let stand-ins in ``folder`` be fairseq's console scripts, in this process."""
    folder.mkdir()
    for program in ("fairseq-preprocess", "fairseq-train", "fairseq-generate"):
        script = folder / program
        script.write_text(f"#!{sys.executable} -ISu\n{FAKE.read_text()}")
        script.chmod(0o755)
    monkeypatch.setattr(commands, "console_script", lambda program: str(folder / program))
    monkeypatch.setattr(commands, "has_gpu", lambda: False)
    monkeypatch.setattr("recipes.reporting.results.has_gpu", lambda: False)
    for module in (training, checkpoints, sys.modules["recipes.reporting.results"]):
        monkeypatch.setattr(module, "checkpoint_updates", lambda p: json.loads(p.read_text())[-1])
    return FakeFairseq(folder)


@pytest.fixture
def fake_fairseq(tmp_path, monkeypatch) -> FakeFairseq:
    """fairseq's console scripts replaced by stand-ins."""
    return replace_fairseq(tmp_path / "fake", monkeypatch)


@pytest.fixture(scope="session")
def forked_programs(tmp_path_factory) -> Iterator[Path]:
    """The folder of the programs that :mod:`forked_commands` makes."""
    folder = tmp_path_factory.mktemp("programs")
    environment = {**os.environ, "PYTHONPATH": str(FORKED.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-u", FORKED, folder]  # output and log share a file, line by line
    options = {"env": environment, "start_new_session": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as server:
        try:
            assert server.stdout.readline() == b"ready\n"
            yield folder
        finally:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def finished_work(tmp_path_factory, data_dir) -> Path:
    """The work-dir of a finished run of the small recipe with stand-ins, to be copied."""
    folder = tmp_path_factory.mktemp("finished_work")
    (folder / "small.yaml").write_text(yaml.safe_dump(small_recipe()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        replace_fairseq(folder / "fake", patch)
        recipe = load_recipe(str(folder / "small.yaml"))
        run_recipe(Run(recipe, folder / "work", data_dir, lambda line: None))
    return folder / "work"


@pytest.fixture(scope="session")
def finished_report(tmp_path_factory, data_dir) -> Path:
    """A folder with what :func:`finished_run.make_run` writes, and its report."""
    folder = tmp_path_factory.mktemp("finished")
    make_run(folder, data_dir)
    write_report(folder / "work", folder / "docs", folder / "text")
    return folder


@pytest.fixture
def file_size_limit():
    """A context in which no file can grow past a number of bytes: a disk that fills up."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def run_python():
    """Runs a line of Python in a new process with extra environment; returns what it prints."""

    def run(code: str, **environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    return run
