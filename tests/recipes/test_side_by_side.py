"""--jobs: arms at the same time."""

import json
import os
import time

import pytest

from recipes.errors import CommandError, RecipeError
from recipes.fairseq_commands import commands
from recipes.pipeline import run_recipe
from recipes.reporting.report import load_results
from recipes.running import side_by_side
from recipes.running.run import Run
from recipes.schema.reading import load_recipe


@pytest.fixture
def run(recipe_file, fake_fairseq, data_dir, tmp_path):
    """Runs the small recipe in a folder; returns its results without the date."""

    def start(folder, settings=(), **options):
        start.said = []
        recipe = load_recipe(recipe_file(), list(settings))
        run_recipe(Run(recipe, tmp_path / folder, data_dir, start.said.append, **options))
        return load_results(tmp_path / folder / "results.json")

    return start


def test_results_are_those_of_one_after_the_other(run, tmp_path):
    alone, together = run("alone", seeds=(1, 2)), run("together", seeds=(1, 2), jobs=3)
    folder = str(tmp_path)
    for results, name in ((alone, "alone"), (together, "together")):
        # In the order of the recipe, whatever ended first.
        for key in ("command", "commands"):
            results[key] = json.dumps(results[key]).replace(f"{folder}/{name}", "")
    assert together == alone
    done = [line for line in run.said if line.endswith(": done")]
    assert sum("] arm " in line for line in done) == 4
    # What a training says is told apart.
    assert any(line.startswith("  arm other seed 2 |") and "updates 3" in line for line in run.said)
    run("together", seeds=(1, 2), jobs=3)
    assert not any("$ " in line for line in run.said)


def test_a_failing_arm_ends_the_others_which_continue_later(run, fake_fairseq, tmp_path):
    fake_fairseq.behave(fail_arm="other", wait_arm="cross_entropy")
    began = time.monotonic()
    with pytest.raises(CommandError, match=r"stage 'arm other'.* exit code"):
        run("work", jobs=2)
    assert time.monotonic() - began < 50  # the other would wait for 60 s
    record = json.loads((tmp_path / "work/arms/cross_entropy.stage.json").read_text())
    assert record["finished"] is False
    fake_fairseq.behave()
    assert list(run("work", jobs=2)["systems"]) == ["start", "cross_entropy", "other"]


def test_threads_and_gpus_are_divided(monkeypatch):
    monkeypatch.setattr("recipes.fairseq_commands.commands.has_gpu", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert side_by_side.machine_shares(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert side_by_side.machine_shares(9) == [{"OMP_NUM_THREADS": "1"}] * 9
    monkeypatch.delenv("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0))
    assert side_by_side.machine_shares(1) == [{"OMP_NUM_THREADS": str(cores)}]
    monkeypatch.setattr("recipes.fairseq_commands.commands.has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5")
    devices = [share.get("CUDA_VISIBLE_DEVICES") for share in side_by_side.machine_shares(3)]
    assert devices == ["0", "2", "5"]
    # Fewer GPUs than jobs: they share.
    assert "CUDA_VISIBLE_DEVICES" not in side_by_side.machine_shares(4)[0]


def test_what_is_alone_has_the_whole_machine(run, monkeypatch):
    asked = []

    def shares(jobs):
        asked.append(jobs)
        return [{} for _ in range(jobs)]

    monkeypatch.setattr(side_by_side, "machine_shares", shares)
    run("work", jobs=4)
    assert asked == [2, 3]  # two arms, then three systems to decode; not the one start


def test_jobs_below_one_are_refused(run):
    with pytest.raises(RecipeError, match="--jobs 0: at least 1"):
        run("work", jobs=0)


def test_a_launcher_starts_what_is_trained_and_decoded(run, tmp_path, monkeypatch):
    script = tmp_path / "srun"
    script.write_text(
        '#!/bin/sh\necho "$1 $OMP_NUM_THREADS $3" >> "$(dirname $0)/jobs"\nshift\nexec "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    launched = run("work", jobs=2, launcher=(str(script), "--gpus=1"))
    jobs = (tmp_path / "jobs").read_text().splitlines()
    # Three trainings and six decodings, none of which shares this machine.
    assert len(jobs) == 9
    assert {job.split(" ")[:2] == ["--gpus=1", "7"] for job in jobs} == {True}
    lines = [line for line in run.said if "$ " in line and "fairseq-preprocess" not in line]
    assert all(f"{script} --gpus=1 " in line and "--cpu" not in line for line in lines)
    # Who started them makes no difference to what is made.
    run("work")
    assert not any("$ " in line for line in run.said)
    assert launched["systems"].keys() == {"start", "cross_entropy", "other"}


@pytest.mark.parametrize("fp16", [True, False])
def test_a_launcher_changes_nothing_where_there_is_a_gpu(run, tmp_path, monkeypatch, fp16):
    monkeypatch.setattr(commands, "has_gpu", lambda: True)
    settings = [f"fp16={str(fp16).lower()}"]
    run("work", settings=settings)
    assert any("--fp16 --save-dir" in line for line in run.said) == fp16
    run("work", settings=settings, launcher=("nice",))
    assert not any("$ " in line for line in run.said)
