"""Metrics from registration to table: the user's own, and a neural one."""

import json
import random
import re
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from recipes.__main__ import main
from recipes.errors import RecipeError
from recipes.scoring import metrics
from recipes.scoring.comparison import compare
from recipes.scoring.metrics import KnownMetric, MetricOptions, find_metric
from recipes.text import read_lines, write_lines

FAST = ("--bootstrap-samples", "50", "--randomization-trials", "99")
OWN = """
def missing(hypotheses, references, sources):
    \"\"\"Words of the first reference that a hypothesis lacks.\"\"\"
    pairs = zip(hypotheses, references[0])
    return [len(set(reference.split()) - set(line.split())) for line, reference in pairs]

missing.lower_is_better = True

def sources_seen(hypotheses, references, sources):
    return [0.5 + (source == "Quelle") / 4 for source in sources]

def too_few(hypotheses, references, sources):
    return [1.0]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(OWN)
    yield "mine"
    sys.modules.pop("mine", None)


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments), *FAST])


def test_a_users_metric_is_scored_tested_and_shown(own, texts, tmp_path, capsys):
    hypotheses = ("--hypotheses", texts["third"], "--baseline", texts["first"])
    given = (*hypotheses, "--reference", texts["reference"], "--json", tmp_path / "out.json")
    assert evaluate(*given, "--metrics", "mine:missing", "bleu") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    reference = read_lines(texts["reference"])
    for name in ("first", "third"):
        pairs = list(zip(read_lines(texts[name]), reference, strict=True))
        mean = np.mean([len(set(r.split()) - set(h.split())) for h, r in pairs])
        score = found["systems"][str(texts[name])]["scores"]["mine:missing"]
        assert score["value"] == pytest.approx(mean)
        assert abs(score["mean"] - mean) < score["interval"]
    assert score["p_value"] == pytest.approx(0.01)  # 1 of 99 + 1
    shown = capsys.readouterr().out
    assert "(lower is" in shown
    assert "metric:mine:missing|nrefs:1" in shown
    assert "-m bleu --paired-ar" in found["sacrebleu"]  # what sacrebleu has
    assert found["command"].startswith("python -m recipes evaluate --hypotheses ")
    assert set(found["sha256"]) == {str(texts[n]) for n in ("reference", "first", "third")}


def test_the_test_of_a_mean_is_approximate_randomisation():
    """Against shuffling by hand, with sacrebleu's seed."""
    rng = random.Random(2)
    scores = {name: [rng.random() for _ in range(40)] for name in ("a", "b")}
    lines = {name: [f"{name} {n}" for n in range(40)] for name in scores}

    def score(hypotheses, references, sources):
        return scores[hypotheses[0][0]]

    known = KnownMetric("X", lambda o, r, s: metrics.SentenceMean("X", score, r, s))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.METRICS, "x", known)
        options = MetricOptions(["x"], bootstrap_samples=100, randomization_trials=500)
        result = compare(lines, [["r"] * 40], "a", options)
    a, b = np.array(scores["a"]), np.array(scores["b"])
    swap = np.random.default_rng(12345).integers(2, size=(500, 40), dtype=bool)
    shuffled = np.abs(np.where(swap, a, b).mean(1) - np.where(swap, b, a).mean(1))
    p_value = (1 + np.sum(shuffled > abs(a.mean() - b.mean()))) / 501
    assert result.systems["b"].scores["x"].p_value == pytest.approx(p_value)


def test_a_users_metric_chooses_and_is_in_the_report(
    own, recipe_file, data_dir, tmp_path, fake_fairseq, capsys
):
    evaluation = {"metrics": ["bleu", "mine:missing"], "selection": "mine:missing"}
    evaluation |= {"bootstrap_samples": 20, "randomization_trials": 20}
    path = recipe_file(evaluation=evaluation, decoding={"beams": [2], "lenpen": [1.0, 0.0]})
    work = tmp_path / "work"
    assert main(["run", path, "--data-dir", str(data_dir), "--work-dir", str(work)]) == 0
    shown = capsys.readouterr().out
    chosen = re.findall(r"valid missing by lenpen \{1: ([\d.]+), 0: ([\d.]+)\}, takes 0", shown)
    assert len(chosen) == 3
    assert all(float(without) < float(penalised) for penalised, without in chosen)
    results = json.loads((work / "results.json").read_text())
    means = results["baselines"]
    assert results["baseline"] == min(means, key=means.get)
    text = (work / "results.md").read_text()
    assert "| missing (lower is better) |" in text
    assert "mean missing over searches" in text
    assert "lower is better" in (work / "gains.svg").read_text()
    # Another function of the same name makes other scores.
    (tmp_path / "mine.py").write_text(OWN + "\n# changed\n")
    assert main(["run", path, "--data-dir", str(data_dir), "--work-dir", str(work)]) == 0
    assert "evaluate: redone: input metric mine:missing changed" in capsys.readouterr().out


def test_sources_reach_the_metric(own, texts, tmp_path):
    write_lines(tmp_path / "source", ["Quelle"] * 60 + ["other"] * 60)
    given = ("--hypotheses", texts["first"], "--reference", texts["reference"])
    output = ("--json", tmp_path / "out.json", "--metrics", "mine:sources_seen")
    assert evaluate(*given, *output, "--source", tmp_path / "source") == 0
    (system,) = json.loads((tmp_path / "out.json").read_text())["systems"].values()
    assert system["scores"]["mine:sources_seen"]["value"] == 0.625


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("belu", r"there is no metric 'belu' \(metrics: bleu, chrf, ter, comet, or module:func"),
        ("mine:absent", "metric mine:absent: .*no attribute 'absent'; mine.py is looked for in "),
        ("absent_module:f", "No module named 'absent_module'"),
    ],
)
def test_what_is_no_metric_is_named(own, name, message):
    with pytest.raises(RecipeError, match=message):
        find_metric(name)


def test_a_metric_that_does_not_fit_the_text_is_an_error(own):
    with pytest.raises(RecipeError, match="metric mine:too_few: expected 2 finite numbers"):
        compare({"a": ["x", "y"]}, [["x", "y"]], None, MetricOptions(["mine:too_few"]))


def test_a_recipe_with_an_unknown_metric_stops_before_it_trains(
    recipe_file, data_dir, tmp_path, fake_fairseq, capsys
):
    path = recipe_file(evaluation={"metrics": ["belu"]})
    work = str(tmp_path / "work")
    assert main(["run", path, "--data-dir", str(data_dir), "--work-dir", work]) == 1
    assert "there is no metric 'belu'" in capsys.readouterr().err
    assert fake_fairseq.calls() == []


def test_comet_says_what_it_lacks(monkeypatch):
    def build(sources=("s",), **options):
        return find_metric("comet").build(MetricOptions(**options), [["r"]], sources)

    with pytest.raises(RecipeError, match="give it with --source FILE"):
        build(sources=None)
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(RecipeError, match=r"install it with: .*\[comet\]'"):
        build()

    def no_network(name):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "comet", SimpleNamespace(download_model=no_network))
    with pytest.raises(RecipeError, match=r"Unbabel/wmt22-comet-da cannot be loaded \(no route.*"):
        build()


def test_comet_gets_source_output_and_first_reference(monkeypatch, tmp_path):
    """A stand-in for the package, which shares its interface."""
    seen = []

    class Model:
        def predict(self, data, batch_size, gpus, progress_bar):
            seen.extend(data)
            return SimpleNamespace(scores=[0.25 * len(row["mt"]) for row in data])

    module = ModuleType("comet")
    module.load_from_checkpoint = lambda path: Model()
    monkeypatch.setitem(sys.modules, "comet", module)
    (tmp_path / "model.ckpt").touch()
    options = MetricOptions(["comet"], comet_model=str(tmp_path / "model.ckpt"))
    result = compare({"a": ["x", "yyy"]}, [["", "r"], ["q", "w"]], None, options, ["s", "t"])
    assert result.systems["a"].scores["comet"].value == 50
    assert seen == [
        {"src": "s", "mt": "x", "ref": "q"}, {"src": "t", "mt": "yyy", "ref": "r"},
    ]  # fmt: skip
    assert result.signatures["comet"].startswith("metric:COMET model.ckpt|nrefs:2")
