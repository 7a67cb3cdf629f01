"""A run that is killed, whatever it was doing, leaves nothing broken and goes on."""

import json
import os
import signal
import sys
import time
from functools import partial

import pytest
import torch

from recipes import text
from recipes.fairseq_commands.checkpoints import mend_last_checkpoint
from recipes.fairseq_commands.process import run_command
from recipes.pipeline import run_recipe
from recipes.running.run import Run
from recipes.schema.reading import load_recipe


@pytest.fixture
def run(recipe_file, fake_fairseq, data_dir, tmp_path):
    """Runs the small recipe in a folder."""
    path = recipe_file()

    def start(folder):
        run_recipe(Run(load_recipe(path), tmp_path / folder, data_dir, lambda line: None))

    return start


def killed(action):
    """Run ``action`` in a copy of this process; whether that was killed."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_at_write(number):
    """Let the process kill itself when it has written its ``number``-th file, before its name."""
    replace, count = os.replace, 0

    def counted(source, target):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    text.os.replace = counted


def contents(folder):
    """What a run leaves, by file: without times, and without folders in commands."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            content = path.read_bytes()
            if path.name.endswith(".stage.json"):
                content = {k: v for k, v in json.loads(content).items() if k != "seconds"}
                if path.name.startswith("results"):
                    content.pop("outputs")  # commands
            elif path.name == "results.json":
                content = json.loads(content)
                del content["command"], content["commands"]
            found[str(path.relative_to(folder))] = content
    return found


def test_killed_again_and_again_while_writing_the_run_ends_as_if_never_killed(
    run, tmp_path, finished_work
):
    def kill_and_run(number):
        kill_at_write(number)
        run("killed")

    times = 0
    # A little later each time: what was being written is written again, from its first file.
    while killed(partial(kill_and_run, 3 + 5 * times)):
        times += 1
    assert times > 3
    assert contents(tmp_path / "killed") == contents(finished_work)


@pytest.mark.parametrize("order", ["kill_at", "kill_generate"])
def test_command_and_runner_killed_together(run, fake_fairseq, finished_work, tmp_path, order):
    # The stand-in kills the process that started it, then itself.
    fake_fairseq.behave(**{order: 2, "kill_parent": True})
    assert killed(lambda: run("killed"))
    fake_fairseq.behave()
    run("killed")
    assert contents(tmp_path / "killed") == contents(finished_work)


def checkpoint(path, updates):
    torch.save({"model": {}, "optimizer_history": [{"num_updates": updates}]}, path)


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def test_cut_off_checkpoint_is_replaced_by_the_newest_whole_one(tmp_path):
    for number, name in enumerate(("checkpoint1.pt", "checkpoint_best.pt", "checkpoint_last.pt")):
        checkpoint(tmp_path / name, number)
        os.utime(tmp_path / name, (number, number))
    whole = (tmp_path / "checkpoint_last.pt").read_bytes()
    mend_last_checkpoint(tmp_path, pytest.fail)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == whole

    cut(tmp_path / "checkpoint_last.pt")
    said = []
    mend_last_checkpoint(tmp_path, said.append)
    best = (tmp_path / "checkpoint_best.pt").read_bytes()
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == best
    assert "continues from checkpoint_best.pt" in said[0]

    for path in tmp_path.glob("*.pt"):
        cut(path)
    mend_last_checkpoint(tmp_path, said.append)
    assert not (tmp_path / "checkpoint_last.pt").exists()
    assert "begins anew" in said[1]


def test_line_of_a_log_that_was_cut_off_does_not_join_the_next(tmp_path):
    log = tmp_path / "log"
    log.write_text("one\ntw")
    lines = []
    program = "import sys; print('three'); print('four', file=sys.stderr)"
    run_command([sys.executable, "-c", program], log, "s", lines.append, append=True)
    assert log.read_text() == "one\ntw\nthree\nfour\n"
    assert lines == ["three", "four"]


def test_command_goes_on_and_logs_when_its_runner_is_killed(tmp_path):
    log, program = tmp_path / "log", tmp_path / "program.py"
    program.write_text(
        "import os, signal\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
        "while os.getppid() == int(os.environ['RUNNER']): pass\n"
        "print('still here')\n"
        "os.replace(os.environ['LOG'], os.environ['LOG'] + '.done')\n"
    )

    def command():
        environment = {"LOG": str(log), "RUNNER": str(os.getpid())}
        run_command([sys.executable, str(program)], log, "s", environment=environment)

    assert killed(command)
    done = tmp_path / "log.done"
    for _ in range(600):
        if done.exists():
            break
        time.sleep(0.1)
    assert done.read_text() == "still here\n"
