"""The programs of benchmarks/ run, with tiny sizes."""

import functools
import json
import math

import pytest

from benchmarks import attention, growth, objectives, peak_memory, toy_expected_bleu
from benchmarks.__main__ import SECTIONS, main

OBJECTIVES = (objectives.BASELINE, "--criterion expected_bleu", "leave_one_out", "trainable_greedy")


@pytest.mark.parametrize("name", SECTIONS)
def test_section_is_measured_and_written_beside_the_others(name, tmp_path, monkeypatch):
    # What is measured in a process of its own runs in this one: each import takes seconds.
    monkeypatch.setattr(peak_memory, "on_cpu", lambda build: build()() or 1)
    rows = objectives.criterions()
    monkeypatch.setattr(objectives, "criterions", lambda: {row: rows[row] for row in OBJECTIVES})
    monkeypatch.setattr(attention, "KINDS", ("soft", "hard", "exact"))
    monkeypatch.setattr(growth, "SAMPLES", (2,))
    (tmp_path / "page.json").write_text(
        '{"decoding": {"title": "Before", "text": "", "tables": []}}'
    )
    main([name, "--quick", "--output", str(tmp_path / "page")])
    page, found = (
        (tmp_path / "page.md").read_text(),
        json.loads((tmp_path / "page.json").read_text()),
    )
    assert set(found) == {"decoding", name}
    assert ("## Before" in page) == (name != "decoding")
    for table in found[name]["tables"]:
        assert f"### {table['title']}" in page
        assert len(table["rows"]) == len(table["figures"]) > 1
        assert all(len(row) == len(table["header"]) for row in table["rows"])
        assert all(math.isfinite(figures["ratio"]) for figures in table["figures"].values())


def allocate(megabytes):
    return lambda: bytearray(megabytes * 10**6)


def test_memory_is_that_of_the_call_alone():
    assert 45e6 < peak_memory.on_cpu(functools.partial(allocate, 50)) < 70e6


def test_toy_experiment_writes_its_page(tmp_path):
    sizes = ["--seeds", "2", "--steps", "2", "--samples", "4", "--max-order", "2"]
    toy_expected_bleu.main([*sizes, "--output", str(tmp_path / "toy")])
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".json", ".png"}
