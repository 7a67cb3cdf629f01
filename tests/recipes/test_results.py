"""What results.json holds for every system, split and beam."""

import hashlib
import json

import pytest

from recipes.__main__ import main
from recipes.reporting.results import SCHEMA, paired_systems
from recipes.text import read_lines, write_lines


def record(arm, seed, start="start"):
    return {"arm": arm, "seed": seed, "start": start}


def test_each_seed_is_compared_with_the_baseline_of_that_seed():
    systems = {
        "start": record("start", 1),
        "start.seed2": record("start", 2, "start.seed2"),
        "control": record("control", 1),
        "control.seed2": record("control", 2, "start.seed2"),
        "other": record("other", 1),
        "other.seed2": record("other", 2, "start.seed2"),
        "other.seed3": record("other", 3, "start"),
    }
    assert paired_systems(systems, "control") == {
        "control": ["control", "start", "other", "other.seed3"],
        "control.seed2": ["control.seed2", "start.seed2", "other.seed2"],
    }
    assert paired_systems(systems, "start") == {
        "start": ["start", "control", "other", "other.seed3"],
        "start.seed2": ["start.seed2", "control.seed2", "other.seed2"],
    }


def test_a_seed_that_the_start_has_and_the_arms_have_not_pairs_its_own_start():
    systems = {
        "start": record("start", 4),
        "start.seed4": record("start", 4, "start.seed4"),
        "control": record("control", 1),
        "control.seed4": record("control", 4, "start.seed4"),
    }
    assert paired_systems(systems, "start") == {
        "start": ["start", "control"],
        "start.seed4": ["start.seed4", "control.seed4"],
    }
    assert paired_systems(systems, "control") == {
        "control": ["control", "start"],
        "control.seed4": ["control.seed4", "start.seed4"],
    }


def test_arms_of_all_seeds_are_compared_with_the_start_that_they_share():
    systems = {
        "start": record("start", 1),
        "control": record("control", 1),
        "control.seed2": record("control", 2),
    }
    assert paired_systems(systems, "start") == {"start": ["start", "control", "control.seed2"]}


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
    assert results["schema"] == SCHEMA
    for system in results["systems"].values():
        for split, references in (("valid", 1), ("test", 2)):
            figures = system["scores"][split]["1"]
            assert figures["baseline"] == "cross_entropy"
            assert len(figures["precisions"]) == 4
            assert figures["average_probability"] == 0.5
            (bucket,) = figures["length_buckets"]
            assert bucket["bleu"] == pytest.approx(figures["scores"]["bleu"]["value"], abs=1e-9)
            assert bucket["sentences"] == {1: 20, 2: 24}[references]
    control, other = (
        results["systems"][n]["scores"]["test"]["1"] for n in ("cross_entropy", "other")
    )
    assert 0 < other["scores"]["bleu"]["p_value"] <= 1
    assert control["scores"]["bleu"]["p_value"] is None
    assert other["length_buckets"][0]["baseline_bleu"] == control["length_buckets"][0]["bleu"]
    assert "baseline_bleu" not in control["length_buckets"][0]
    assert control["scores"]["bleu"]["interval"] is not None
    assert results["scored_text"] == {"valid": "valid.en", "test": "test.en.0, test.en.1"}
    assert "nrefs:2" in results["signatures"]["bleu"]
    assert "ar:50" in results["randomization_signatures"]["bleu"]
    assert set(results["reference_consecutive_repeats_per_100_tokens"]) == {"valid", "test"}
    assert results["command"].startswith("python -m recipes run ")


def test_the_text_is_named_by_its_checksums(results, tmp_path):
    files = {f"{s}.{lang}" for s in ("train", "valid", "test") for lang in ("de", "en")}
    files |= {"test.en.0", "test.en.1"}
    assert results["text_sha256"] == {
        name: hashlib.sha256((tmp_path / "text" / name).read_bytes()).hexdigest() for name in files
    }


def valid_bleu(results, systems, beams):
    scores = [
        results["systems"][system]["scores"]["valid"][beam]["scores"]["bleu"]["value"]
        for system in systems
        for beam in beams
    ]
    return sum(scores) / len(scores)


# The stand-in translates the worse, the more updates a checkpoint has.
@pytest.mark.parametrize(("updates", "better"), [(2, "start"), (9, "cross_entropy")])
def test_baseline_is_the_better_of_start_and_control_on_valid(
    recipe_file, data_dir, tmp_path, fake_fairseq, updates, better
):
    path = recipe_file(
        cross_entropy={"flags": f"--max-update {updates} --lr 1"}, decoding={"beams": [1, 2]}
    )
    work = tmp_path / "work"
    options = ["--data-dir", str(data_dir), "--work-dir", str(work), "--seeds", "1,2"]
    assert main(["run", path, *options]) == 0
    results = json.loads((work / "results.json").read_text())
    assert results["baseline"] == better
    assert set(results["baselines"]) == {"start", "cross_entropy"}
    for arm, mean in results["baselines"].items():
        expected = valid_bleu(results, (arm, f"{arm}.seed2"), ("1", "2"))
        assert mean == pytest.approx(expected)
        assert mean <= results["baselines"][better]
    for seed in ("", ".seed2"):
        for system in ("start", "cross_entropy", "other"):
            figures = results["systems"][f"{system}{seed}"]["scores"]["test"]["2"]
            assert figures["baseline"] == f"{better}{seed}"
    assert results["selected"] == "other"


def test_an_arm_for_the_same_time_can_be_the_baseline(
    recipe_file, data_dir, tmp_path, fake_fairseq
):
    longer = {"flags": "--criterion a --max-update 2", "budget": "time", "baseline": True}
    arms = {"cross_entropy": "--criterion a", "other": "--criterion b", "longer": longer}
    work = tmp_path / "work"
    options = ["--data-dir", str(data_dir), "--work-dir", str(work)]
    assert main(["run", recipe_file(arms=arms), *options]) == 0
    results = json.loads((work / "results.json").read_text())
    assert results["baseline"] == "longer"
    assert list(results["baselines"]) == ["start", "cross_entropy", "longer"]
    made = {name: (s.get("updates"), s.get("seconds")) for name, s in results["systems"].items()}
    assert made["longer"] == (2, 12.0)
    assert made["other"] == (3, 12.0)
    assert "| `longer` (baseline) | 2 |" in (work / "results.md").read_text()
    # With other seeds than the recipe's own, too.
    other = tmp_path / "other"
    options = ["--data-dir", str(data_dir), "--work-dir", str(other), "--seeds", "2,3"]
    assert main(["run", recipe_file(arms=arms), *options]) == 0
    results = json.loads((other / "results.json").read_text())
    assert list(results["baselines"]) == ["start", "cross_entropy", "longer"]
    figures = results["systems"]["other.seed3"]["scores"]["test"]["1"]
    assert figures["baseline"] == "longer.seed3"
