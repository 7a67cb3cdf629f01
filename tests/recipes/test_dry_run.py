"""What --dry-run prints, pasted into a shell, makes what a run makes."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from recipes.__main__ import main
from recipes.errors import RecipeError
from recipes.pipeline import run_recipe
from recipes.running.run import Run
from recipes.schema.reading import load_recipe


def dry_run(capsys, arguments):
    """The lines that a shell does not take for comments."""
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if not line.startswith("#")]


def paste(lines):
    """Run the lines in order; those of this package in this process, with the stand-ins."""
    for line in lines:
        words = shlex.split(line)
        if words[:3] == ["python", "-m", "recipes"]:
            assert main(words[3:]) == 0, line
        else:
            subprocess.run(["bash", "-c", line], check=True)


def figures(work):
    results = json.loads((work / "results.json").read_text())
    del results["command"], results["commands"]
    return results


def test_pasted_lines_make_what_a_run_makes(recipe_file, fake_fairseq, data_dir, tmp_path, capsys):
    changes = {"decoding": {"beams": [1, 2], "lenpen": [1.0, 0.0]}}
    path = recipe_file(**changes)

    def arguments(work):
        data = ["--data-dir", str(data_dir), "--work-dir", str(tmp_path / work)]
        return ["run", path, *data, "--set", "arms.other.flags+=--lr 5"]

    lines = dry_run(capsys, arguments("by hand"))
    assert not (tmp_path / "by hand").exists()
    assert fake_fairseq.programs() == []
    paste(lines)
    programs = fake_fairseq.programs()
    assert main(arguments("run")) == 0
    # Nothing was done twice, although only the commands had been run.
    assert sorted(programs) == sorted(fake_fairseq.programs())
    assert figures(tmp_path / "by hand") == figures(tmp_path / "run")
    # All is recorded now.
    assert dry_run(capsys, arguments("by hand")) == []

    # A changed stage: the earlier training is moved away, and what depends on it is printed too.
    changed = [*arguments("by hand"), "--set", "cross_entropy.flags+=--lr 7"]
    lines = dry_run(capsys, changed)
    assert lines[0].startswith("mv ")
    paste(lines)
    assert dry_run(capsys, changed) == []


def test_until_ends_after_a_stage(recipe_file, fake_fairseq, data_dir, tmp_path):
    recipe = load_recipe(recipe_file())

    def run(**options):
        return run_recipe(Run(recipe, tmp_path / "work", data_dir, lambda line: None, **options))

    assert not run(until="preprocess")
    assert fake_fairseq.programs() == ["fairseq-preprocess"]
    # A name that does not exist is refused before anything runs.
    for options in ({"until": "arm othr"}, {"redo": ("arm othr",)}):
        with pytest.raises(RecipeError, match="there is no stage 'arm othr'"):
            run(**options)
    assert fake_fairseq.programs() == []
    assert run()


def test_averages_are_made_by_the_runner(recipe_file, fake_fairseq, data_dir, tmp_path):
    said: list[str] = []
    recipe = load_recipe(recipe_file(cross_entropy={"flags": "--max-update 4", "average": 2}))
    run_recipe(Run(recipe, tmp_path / "work", data_dir, said.append, dry_run=True))
    position = next(i for i, line in enumerate(said) if "fairseq-train" in line)
    until = shlex.split(said[position + 1])
    assert until[:3] == ["python", "-m", "recipes"]
    assert until[-3:] == ["--take-over", "--until", "cross_entropy stage"]


def test_every_line_is_a_comment_or_a_command(recipe_file, fake_fairseq, data_dir, tmp_path):
    said: list[str] = []
    recipe = load_recipe(recipe_file())
    run_recipe(Run(recipe, tmp_path / "work", data_dir, said.append, dry_run=True))
    programs = ("python", "mkdir", "fairseq-preprocess", "fairseq-train", "fairseq-generate")
    for line in said:
        assert line.startswith("# ") or Path(shlex.split(line)[0]).name in programs, line


def test_printed_lines_say_what_is_run_and_not_how_this_time(capsys):
    arguments = ["run", "demo", "--seeds", "1,2", "--launcher", "srun --comment 'two words'"]
    once = ["--jobs", "3", "--until", "segment", "--take-over", "--redo=segment"]
    lines = [shlex.split(line) for line in dry_run(capsys, [*arguments, *once])]
    assert lines[0][3:] == [*arguments, "--take-over", "--until", "corpus"]
