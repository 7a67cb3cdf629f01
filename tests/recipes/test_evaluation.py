"""Figures are sacrebleu's own, to the digit."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.__main__ import main
from recipes.decoding import parse_generate
from recipes.errors import RecipeError
from recipes.evaluate_command import _labels
from recipes.evaluation import compare
from recipes.text import read_lines, write_lines


@pytest.fixture
def texts(tmp_path, data_dir):
    """A reference and two systems that drop and swap words; one line is empty."""
    reference = read_lines(data_dir / "train.en")[:120]
    rng = random.Random(5)

    def damage(line, rate):
        words = [word for word in line.split() if rng.random() > rate]
        if rng.random() < rate:
            rng.shuffle(words)
        return " ".join(words)

    files = {
        "reference": reference,
        "first": [damage(line, 0.1) for line in reference],
        "second": ["", *(damage(line, 0.11) for line in reference[1:])],
    }
    for name, lines in files.items():
        write_lines(tmp_path / name, lines)
    return {name: tmp_path / name for name in files}


def sacrebleu_command(*arguments: object) -> str:
    """What the real command prints."""
    script = Path(sys.executable).with_name("sacrebleu")
    return subprocess.run(
        [script, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


def test_scores_and_p_values_are_those_of_the_sacrebleu_command(texts, tmp_path):
    output = tmp_path / "scores.json"
    code = main(
        [
            *("evaluate", "--hypotheses", str(texts["second"]), "--baseline", str(texts["first"])),
            *("--reference", str(texts["reference"]), "--bootstrap-samples", "200"),
            *("--json", str(output)),
        ]
    )
    assert code == 0
    ours = json.loads(output.read_text())
    # Its JSON format fails on numpy's floats when there are p-values.
    table = sacrebleu_command(
        *(texts["reference"], "-i", texts["first"], texts["second"], "-m", "bleu", "chrf", "ter"),
        *("--paired-bs", "--paired-bs-n", "200", "-w", "6", "-f", "latex"),
    )
    cells = re.findall(r"([\d.]+) \(([\d.]+) ± ([\d.]+)\)(?: \(p = ([\d.]+)\))?", table)
    assert len(cells) == 6
    order = [(name, metric) for name in ("first", "second") for metric in ("bleu", "chrf", "ter")]
    for (name, metric), (value, mean, interval, p_value) in zip(order, cells, strict=True):
        score = ours["systems"][str(texts[name])]["scores"][metric]
        assert f"{score['value']:.6f}" == value
        assert f"{score['mean']:.6f}" == mean
        assert f"{score['interval']:.6f}" == interval
        assert ("" if name == "first" else f"{score['p_value']:.4f}") == p_value


def test_single_system_has_the_plain_signature_and_score(texts):
    result = compare({"first": read_lines(texts["first"])}, [read_lines(texts["reference"])])
    theirs = json.loads(
        sacrebleu_command(
            texts["reference"], "-i", texts["first"], "-m", "bleu", "chrf", "ter", "-w", "10"
        )
    )
    for metric, row in zip(("bleu", "chrf", "ter"), theirs, strict=True):
        score = result.systems["first"].scores[metric]
        assert score.value == pytest.approx(row["score"], abs=1e-9)
        assert score.p_value is None
        assert result.signatures[metric] == row["signature"]
    bleu = theirs[0]["verbose_score"]
    assert f"ratio = {result.systems['first'].length_ratio:.3f}" in bleu


def test_several_references(texts):
    references = [read_lines(texts["reference"]), read_lines(texts["second"])]
    result = compare({"first": read_lines(texts["first"])}, references, metrics=["bleu"])
    theirs = json.loads(
        sacrebleu_command(
            texts["reference"], texts["second"], "-i", texts["first"], "-m", "bleu", "-w", "10"
        )
    )
    assert result.systems["first"].scores["bleu"].value == pytest.approx(theirs["score"], abs=1e-9)
    assert "nrefs:2" in result.signatures["bleu"]


def test_equal_outputs_differ_by_nothing(texts):
    lines, reference = read_lines(texts["first"]), read_lines(texts["reference"])
    result = compare({"a": lines, "b": list(lines)}, [reference], "a", ["bleu"], 50)
    assert result.systems["b"].scores["bleu"].p_value == 1.0


def test_length_mismatch_is_an_error(texts, capsys):
    write_lines(texts["first"], ["one line"])
    code = main(
        ["evaluate", "--hypotheses", str(texts["first"]), "--reference", str(texts["reference"])]
    )
    assert code == 1
    assert "1 hypotheses, but reference 0 has 120 lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to score"),
        (["--checkpoint", "x.pt"], "--checkpoint needs --data"),
        (["--hypotheses", "absent.txt"], "absent.txt does not exist"),
    ],
)
def test_missing_arguments_are_named(texts, capsys, arguments, message):
    assert main(["evaluate", *arguments, "--reference", str(texts["reference"])]) == 1
    assert message in capsys.readouterr().err


def test_the_scored_text_is_named(texts, capsys):
    arguments = ["--hypotheses", str(texts["first"]), "--reference", str(texts["reference"])]
    main(["evaluate", *arguments, "--metrics", "bleu"])
    shown = capsys.readouterr().out
    assert f"scored: detokenised text {texts['first']} against {texts['reference']}" in shown


def test_table_tells_systems_apart_by_the_ends_of_their_paths():
    labels = _labels(["/runs/a/b/last.pt", "/runs/c/b/last.pt"])
    assert labels == {"/runs/a/b/last.pt": "a/b/last.pt", "/runs/c/b/last.pt": "c/b/last.pt"}
    assert _labels(["x.pt"]) == {"x.pt": "x.pt"}


def test_hypotheses_are_sorted_back_and_the_best_is_taken(tmp_path):
    log = tmp_path / "log"
    write_lines(
        log,
        [
            "INFO | H-9",
            "H-1\t-0.5\t▁b \u2028 c",
            "H-1\t-0.9\t▁worse",
            "T-1\t▁x",
            "H-0\t-1\t",
            "D-0\t-1\ty",
        ],
    )
    assert parse_generate(log) == ["", "▁b \u2028 c"]


def test_missing_sentences_are_an_error(tmp_path):
    log = tmp_path / "log"
    write_lines(log, ["H-0\t-1\t▁a", "H-2\t-1\t▁b"])
    with pytest.raises(RecipeError, match="did not write every sentence"):
        parse_generate(log)
