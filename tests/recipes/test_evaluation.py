"""Figures are those of the sacrebleu command, to the digit."""

import itertools
import json

import pytest
from sacrebleu.metrics import BLEU
from sacrebleu_command import paired_table, sacrebleu_command

from recipes.errors import RecipeError
from recipes.scoring.comparison import compare, describe
from recipes.scoring.metrics import MetricOptions
from recipes.text import read_lines

METRICS = ("bleu", "chrf", "ter")


def scored(texts, names, references=("reference",), baseline=None, samples=10, trials=0, **options):
    systems = {name: read_lines(texts[name]) for name in names}
    lines = [read_lines(texts[name]) for name in references]
    counts = {"bootstrap_samples": samples, "randomization_trials": trials}
    return compare(systems, lines, baseline, MetricOptions(**counts, **options))


@pytest.mark.parametrize(
    ("references", "metrics"),
    [(("reference",), METRICS), (("reference", "paraphrase"), ("bleu", "chrf"))],
)
def test_bootstrap_intervals_are_those_of_the_command(texts, references, metrics):
    names = ("first", "second")
    result = scored(texts, names, references, baseline="first", metrics=metrics, samples=200)
    cells = paired_table(
        *(*(texts[name] for name in references), "-i", texts["first"], texts["second"]),
        *("-m", *metrics, "--paired-bs", "--paired-bs-n", "200"),
    )
    order = [(name, metric) for name in names for metric in metrics]
    assert len(cells) == len(order)
    for (name, metric), theirs in zip(order, cells, strict=True):
        score = result.systems[name].scores[metric]
        assert {key: theirs[key] for key in ("score", "mean", "interval")} == {
            "score": f"{score.value:.6f}",
            "mean": f"{score.mean:.6f}",
            "interval": f"{score.interval:.6f}",
        }
        assert score.p_value is None  # sacrebleu's bootstrap has one of no use


@pytest.mark.parametrize(
    ("references", "metrics"),
    [(("reference",), ("bleu", "ter")), (("reference", "paraphrase"), ("bleu", "chrf"))],
)
def test_approximate_randomisation_is_that_of_the_command(texts, references, metrics):
    result = scored(
        texts,
        ("first", "second"),
        references,
        baseline="first",
        metrics=metrics,
        samples=10,
        trials=100,
    )
    cells = paired_table(
        *(*(texts[name] for name in references), "-i", texts["first"], texts["second"]),
        *("-m", *metrics, "--paired-ar", "--paired-ar-n", "100"),
    )[len(metrics) :]
    for metric, theirs in zip(metrics, cells, strict=True):
        assert theirs["score"] == f"{result.systems['second'].scores[metric].value:.6f}"
        p_value = result.systems["second"].scores[metric].p_value
        assert theirs["p"] == f"{p_value:.4f}"
        assert result.systems["first"].scores[metric].p_value is None


def test_signatures_name_the_test_as_the_command_does(texts):
    result = scored(
        texts, ("first", "second"), baseline="first", metrics=["bleu"], samples=10, trials=20
    )
    arguments = (texts["reference"], "-i", texts["first"], texts["second"], "-m", "bleu")
    shown = sacrebleu_command(*arguments, "--paired-bs", "--paired-bs-n", "10", "-f", "text")
    assert result.signatures["bleu"] in shown
    shown = sacrebleu_command(*arguments, "--paired-ar", "--paired-ar-n", "20", "-f", "text")
    assert result.randomization_signatures["bleu"] in shown


def test_single_system_has_the_plain_signature_and_score(texts):
    result = scored(texts, ("first",))
    theirs = json.loads(
        sacrebleu_command(texts["reference"], "-i", texts["first"], "-m", *METRICS, "-w", "10")
    )
    row = result.systems["first"]
    lines = {name: read_lines(texts[name]) for name in ("first", "reference")}
    describe(result, {"first": lines["first"]}, [lines["reference"]])
    for metric, expected in zip(METRICS, theirs, strict=True):
        assert row.scores[metric].value == pytest.approx(expected["score"], abs=1e-9)
        assert row.scores[metric].p_value is None
        assert result.signatures[metric] == expected["signature"]
    bleu = row.geometric_mean * row.brevity_penalty
    assert bleu == pytest.approx(row.scores["bleu"].value, abs=1e-9)
    assert row.brevity_penalty < 1
    precisions = "/".join(f"{precision:.1f}" for precision in row.precisions)
    verbose = theirs[0]["verbose_score"]
    assert verbose.startswith(precisions)
    assert f"BP = {row.brevity_penalty:.3f} ratio = {row.length_ratio:.3f}" in verbose


def test_options_and_several_references_are_those_of_the_command(texts):
    changes = {"tokenize": "intl", "lowercase": True, "chrf_word_order": 2}
    options = MetricOptions(**changes)
    result = scored(texts, ("first",), ("reference", "paraphrase"), **changes)
    theirs = json.loads(
        sacrebleu_command(
            *(texts["reference"], texts["paraphrase"], "-i", texts["first"], "-w", "10"),
            *("-m", *METRICS, *options.flags()),
        )
    )
    assert len(options.flags()) == 5
    for metric, expected in zip(METRICS, theirs, strict=True):
        score = result.systems["first"].scores[metric].value
        assert score == pytest.approx(expected["score"], abs=1e-9)
        assert result.signatures[metric] == expected["signature"]
    assert "nrefs:2" in result.signatures["bleu"]


@pytest.mark.parametrize("metric", METRICS)
def test_a_sentence_without_a_second_reference_is_scored_by_the_first(texts, metric):
    reference, lines = read_lines(texts["reference"]), read_lines(texts["first"])
    options = MetricOptions([metric])
    alone = compare({"first": lines}, [reference], None, options)
    some = [line if number % 2 else "" for number, line in enumerate(reference)]
    result = compare({"first": lines}, [reference, some], None, options)
    assert "nrefs:var" in result.signatures[metric]
    assert result.systems["first"].scores == alone.systems["first"].scores


def test_equal_outputs_differ_by_nothing(texts):
    lines, reference = read_lines(texts["first"]), read_lines(texts["reference"])
    options = MetricOptions(["bleu"], bootstrap_samples=50, randomization_trials=50)
    result = compare({"a": lines, "b": list(lines)}, [reference], "a", options)
    assert result.systems["b"].scores["bleu"].p_value == 1.0


@pytest.mark.parametrize("changed", [1, 3, 6])
def test_few_sentences_that_differ_have_the_p_value_of_all_exchanges(texts, changed):
    baseline, reference = read_lines(texts["first"]), read_lines(texts["reference"])
    numbers = [n for n, line in enumerate(baseline) if line != reference[n]][:changed]
    assert len(numbers) == changed
    lines = [reference[n] if n in numbers else line for n, line in enumerate(baseline)]
    options = MetricOptions(["bleu"], bootstrap_samples=10, randomization_trials=2000)
    result = compare({"a": baseline, "b": lines}, [reference], "a", options)
    metric = BLEU()

    def difference(exchanged: tuple[int, ...]) -> float:
        pair = [list(baseline), list(lines)]
        for n in exchanged:
            pair[0][n], pair[1][n] = pair[1][n], pair[0][n]
        one, other = (metric.corpus_score(side, [reference]).score for side in pair)
        return abs(one - other)

    every = itertools.product(*((None, n) for n in numbers))
    found = [difference(tuple(n for n in chosen if n is not None)) for chosen in every]
    expected = sum(value >= difference(()) - 1e-9 for value in found) / len(found)
    assert result.systems["b"].scores["bleu"].p_value == pytest.approx(expected, abs=0.03)


def test_a_baseline_alone_has_its_interval(texts):
    alone = scored(texts, ("first",), baseline="first", metrics=["bleu"], samples=50)
    beside = scored(texts, ("first", "second"), baseline="first", metrics=["bleu"], samples=50)
    assert alone.systems["first"] == beside.systems["first"]
    assert alone.signatures == beside.signatures


def test_statistics_are_added_beside_the_scores(texts):
    names = ("first", "second")
    systems = {name: read_lines(texts[name]) for name in names}
    references = [read_lines(texts["reference"])]
    result = scored(texts, names, baseline="first", metrics=["bleu"], samples=10, trials=0)
    options = MetricOptions(length_buckets=[5, 8], smallest_bucket=10)
    describe(result, systems, references, "first", options)
    first, second = (result.systems[name].length_buckets for name in names)
    assert sum(bucket["sentences"] for bucket in first) == len(references[0])
    assert [bucket["bleu"] for bucket in first] == [bucket["baseline_bleu"] for bucket in second]
    assert "baseline_bleu" not in first[0]


@pytest.mark.parametrize(
    ("systems", "references", "message"),
    [
        ({"a": ["x"]}, [], "no reference"),
        ({"a": ["x"]}, [["", " "]], "reference 0 is empty"),
        ({"a": ["x"]}, [["x", "y"]], "a: 1 hypotheses, but reference 0 has 2 lines"),
        ({"a": ["", " "]}, [["x", "y"]], "a: all 2 hypotheses are empty"),
    ],
)
def test_what_cannot_be_scored_is_an_error(systems, references, message):
    with pytest.raises(RecipeError, match=message):
        compare(systems, references)


@pytest.mark.parametrize("options", [{"tokenize": "13b"}, {"chrf_word_order": -1}])
def test_unknown_options_are_refused(options):
    (name,) = options
    with pytest.raises(RecipeError, match=name):
        MetricOptions(**options)


def test_outputs_that_a_metric_takes_for_the_same_differ_by_nothing(texts):
    lines = read_lines(texts["first"])
    systems = {"first": lines, "capitals": [line.upper() for line in lines]}
    # sacrebleu's TER takes no notice of case.
    options = MetricOptions(["bleu", "ter"], bootstrap_samples=10, randomization_trials=100)
    result = compare(systems, [read_lines(texts["reference"])], "first", options)
    p_values = {name: score.p_value for name, score in result.systems["capitals"].scores.items()}
    assert p_values["ter"] == 1
    assert p_values["bleu"] < 0.05
