"""What results.json holds for every system, split and beam."""

import json

import pytest

from recipes.__main__ import main
from recipes.reporting.results import _groups
from recipes.text import read_lines, write_lines


def record(arm, seed):
    return {"arm": arm, "seed": seed}


def test_each_seed_is_tested_against_the_control_of_that_seed():
    systems = {
        "start": {},
        "control": record("control", 1),
        "control.seed2": record("control", 2),
        "other": record("other", 1),
        "other.seed2": record("other", 2),
        "other.seed3": record("other", 3),
    }
    assert _groups(list(systems), systems, "control") == {
        "control": ["control", "start", "other", "other.seed3"],
        "control.seed2": ["control.seed2", "other.seed2"],
    }


def test_records_without_seeds_are_tested_against_the_control():
    systems = {"start": {}, "control": {}, "other": {}}
    assert _groups(list(systems), systems, "control") == {"control": ["control", "start", "other"]}


@pytest.fixture
def results(recipe_file, data_dir, tmp_path, fake_fairseq):
    """results.json of a run whose test set has two references."""
    text = tmp_path / "text"
    text.mkdir()
    for path in data_dir.iterdir():
        write_lines(text / path.name, read_lines(path))
    lines = read_lines(data_dir / "test.en")
    write_lines(text / "test.en.0", lines)
    write_lines(text / "test.en.1", [f"Well, {line}" for line in lines])
    work = tmp_path / "work"
    assert main(["run", recipe_file(), "--data-dir", str(text), "--work-dir", str(work)]) == 0
    return json.loads((work / "results.json").read_text())


def test_every_system_has_all_figures_against_all_references(results):
    assert results["schema"] == 3
    for system in results["systems"].values():
        for split, references in (("valid", 1), ("test", 2)):
            figures = system["scores"][split]["1"]
            assert figures["baseline"] == "cross_entropy"
            assert len(figures["precisions"]) == 4
            assert set(figures["repeated_ngram_rate"]) == {"1", "2", "4"}
            assert figures["average_probability"] == 0.5
            (bucket,) = figures["length_buckets"]
            assert bucket["bleu"] == pytest.approx(figures["scores"]["bleu"]["value"], abs=1e-9)
            assert bucket["sentences"] == {1: 20, 2: 24}[references]
    control, other = (
        results["systems"][n]["scores"]["test"]["1"] for n in ("cross_entropy", "other")
    )
    assert "bleu" in other["approximate_randomization"]
    assert other["length_buckets"][0]["control_bleu"] == control["length_buckets"][0]["bleu"]
    assert "control_bleu" not in control["length_buckets"][0]
    assert control["scores"]["bleu"]["interval"] is not None
    assert results["scored_text"] == {"valid": "valid.en", "test": "test.en.0, test.en.1"}
    assert "nrefs:2" in results["signatures"]["bleu"]
    assert "ar:50" in results["randomization_signatures"]["bleu"]
    assert set(results["reference_repeated_ngram_rate"]) == {"valid", "test"}
