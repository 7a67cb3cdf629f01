"""What a report says."""

import io
import json
import re
import statistics

import pytest
from finished_run import of_one_seed
from rich.console import Console
from sacrebleu import sentence_bleu
from sacrebleu.metrics import BLEU
from scipy import stats

from recipes.errors import RecipeError
from recipes.reporting import plots
from recipes.reporting.examples import compare_outputs, find_examples
from recipes.reporting.plots import curve_of, plot_curves, plot_gains, style_of
from recipes.reporting.report import escaped, load_results, markdown, print_results
from recipes.reporting.tables import arms_of, measures, seed_table, splits_and_beams
from recipes.text import read_lines


@pytest.fixture
def folder(finished_report):
    return finished_report


@pytest.fixture
def results(folder):
    return json.loads((folder / "work/results.json").read_text(encoding="utf-8"))


def row(text, name, table):
    """Cells of the first row called ``name`` below the heading ``table``, in Markdown."""
    part = text[text.index(f"## {table}") :]
    line = next(line for line in part.splitlines() if line.startswith(f"| `{name}`"))
    return line.strip("| ").split(" | ")


def value(results, system, measure, column):
    found = results["systems"][system]["scores"][column[0]][column[1]]
    return found["scores"][measure]["value"] if measure in found["scores"] else found[measure]


def test_cells_have_scores_with_intervals_and_the_difference_to_the_baseline(results):
    text = markdown(of_one_seed(results), None, "small.json")
    for column in splits_and_beams(results):
        split, beam = column
        title = f"{split}, {results['searches'][beam]}: differences to cross_entropy"
        cells = row(text, "other", title)[1:]
        baseline = row(text, "cross_entropy", title)[1:]
        found = results["systems"]["other"]["scores"][split][beam]
        assert len(cells) == len(measures(results))
        for measure, cell, theirs in zip(measures(results), cells, baseline, strict=True):
            ours = value(results, "other", measure, column)
            change = ours - value(results, "cross_entropy", measure, column)
            if measure == "length_ratio":
                assert cell == f"{ours:.3f}"
            elif measure == "average_probability":
                assert cell == f"{ours:.3f} (+0.000)"
            elif measure == "geometric_mean":  # no test was made of it
                assert cell == f"{ours:.2f} ({change:+.2f})"
            else:
                score = found["scores"][measure]
                assert cell == (
                    f"{ours:.2f} ± {score['interval']:.2f} "
                    f"({change:+.2f}, p={score['p_value']:.3f})"
                )
            assert "(" not in theirs
    for signature in results["randomization_signatures"].values():
        assert signature in text


def test_head_names_the_baseline_and_how_converged_the_start_is(results, folder):
    text = markdown(results, None, "small.json")
    assert "to `cross_entropy`, the best baseline on valid" in text
    assert "`start` 30.50, `cross_entropy` 40.25" in text
    means = [
        statistics.fmean(value(results, s, "bleu", ("valid", beam)) for s in STARTS)
        for beam in ("1", "5")
    ]
    assert (
        "The start: cross_entropy of 4 epochs (400 updates), then annealing of 4 epochs (400 "
        f"updates); valid BLEU {means[0]:.2f} (greedy), {means[1]:.2f} (beam 5)."
    ) in text
    page = (folder / "work/results.html").read_text(encoding="utf-8")
    assert "to <code>cross_entropy</code>, the best baseline" in page


STARTS = ("start", "start.seed2")


def test_seeds_have_mean_deviation_interval_and_a_paired_test(results):
    """Against scipy's own paired t-test and interval."""
    table = seed_table(results)
    assert table.title == "BLEU over seeds: differences to cross_entropy"
    (cells,) = (r for r in table.rows if r[0].startswith("`other`") and r[1] == "test, beam 5")
    column = ("test", "5")
    ours, theirs = (
        [value(results, f"{arm}{seed}", "bleu", column) for seed in ("", ".seed2")]
        for arm in ("other", "cross_entropy")
    )
    changes = [one - other for one, other in zip(ours, theirs, strict=True)]
    expected = ["2"]
    for values, sign in ((ours, ""), (changes, "+")):
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        expected += [
            f"{statistics.fmean(values):{sign}.2f}",
            f"{statistics.stdev(values):.2f}",
            f"{low:{sign}.2f} to {high:{sign}.2f}",
        ]
    p_values = [
        results["systems"][f"other{s}"]["scores"]["test"]["5"]["scores"]["bleu"]["p_value"]
        for s in ("", ".seed2")
    ]
    expected.append(f"{stats.ttest_rel(ours, theirs).pvalue:.4f}")
    expected.append(" ".join(f"{p:.3f}" for p in p_values))
    assert cells[2:] == expected
    # The table of the set says the same in short.
    text = markdown(results, None, "small.json")
    assert row(text, "other", "test, beam 5:")[1] == (
        f"{expected[1]} ± {expected[2]} ({expected[4]}, p={stats.ttest_rel(ours, theirs)[1]:.3f})"
    )
    # Of one seed there is no test over seeds, and the other test is not mistaken for it.
    assert "p=" not in row(text, "third<b>", "test, beam 5:")[1]
    assert not any(r[6] for r in table.rows if r[0].startswith("`cross_entropy`"))
    assert seed_table(of_one_seed(results)) is None


def test_cost_has_updates_time_and_what_was_chosen_on_valid(results):
    results["systems"]["other.seed2"]["lenpen"]["5"] = 0.5
    results["systems"]["other.seed2"]["checkpoint_update"] = 80
    results["systems"]["other.seed2"]["seconds"] = 220.0
    text = markdown(results, None, "small.json")
    title = "Cost, and what was chosen on valid"
    assert row(text, "other", title)[1:] == [
        *("100", "90 (10) / 80 (10)", "beam 5: 1 / 0.5", "210", "2.000", "1.00"),
    ]
    assert row(text, "start", title)[1] == "400, then 400"
    assert "Trained with other settings before, and not scored: `other.old1`." in text


def test_terminal_shows_every_arm_once(results):
    console = Console(file=io.StringIO(), width=120)
    print_results(results, console)
    shown = console.file.getvalue()
    assert "valid: BLEU (difference to cross_entropy, p-value)" in shown
    assert shown.count("other (best arm on valid)") == 2
    assert ".seed2" not in shown


def test_statistics_of_the_output_are_shown(results):
    text = markdown(results, None, "small.json")
    found = results["systems"]["third<b>"]["scores"]["test"]["5"]
    cells = row(text, "third<b>", "Output statistics: test, beam 5")[1:]
    assert cells == [
        *(f"{precision:.1f}" for precision in found["precisions"]),
        f"{found['brevity_penalty']:.3f}",
        f"{found['consecutive_repeats_per_100_tokens']:.2f}",
    ]
    buckets = row(text, "third<b>", "BLEU by length: test, beam 5")[1:]
    assert buckets == [
        f"{b['bleu']:.2f} ({b['bleu'] - b['baseline_bleu']:+.2f})" for b in found["length_buckets"]
    ]
    # Of several seeds the mean is shown.
    penalties = [
        results["systems"][s]["scores"]["test"]["5"]["brevity_penalty"]
        for s in ("other", "other.seed2")
    ]
    cells = row(text, "other", "Output statistics: test, beam 5")
    assert cells[5] == f"{statistics.fmean(penalties):.3f}"


def test_results_of_another_version_are_refused(results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({**results, "schema": 3}))
    with pytest.raises(RecipeError, match="of another version; run the recipe again"):
        load_results(tmp_path / "results.json")


def test_curves_begin_at_the_start(results):
    assert curve_of(results, "other", "bleu") == ([0, 50, 100], [29.0, 30.0, 32.5])
    assert curve_of(results, "cross_entropy", "reward") is None
    # Each seed has a start of its own.
    assert curve_of(results, "other.seed2", "bleu")[1][0] == 28.0


def test_plots_say_in_words_what_they_show(results):
    curves = plot_curves(results)
    assert "valid BLEU (greedy, while training): cross_entropy 32.5, " in curves.description
    assert curves.svg.count("updates</text>") == 8  # a panel for each metric
    assert plot_curves({**results, "curves": {}}) is None
    # Of an odd number of metrics, the last panel has no axes.
    alone = {**results, "curves": {"other": {"reward": [[1, 2], [0.1, 0.2]]}}}
    assert plot_curves(alone).svg.count('"matplotlib.axis_') == 2
    change = seed_changes(results, "other", ("test", "5"))
    expected = f"other {statistics.fmean(change):+.2f} (test, beam 5)"
    assert expected in plot_gains(results).description
    # The same results give the same bytes.
    assert plot_gains(results) == plot_gains(results)


def seed_changes(results, arm, column):
    return [
        value(results, f"{arm}{s}", "bleu", column)
        - value(results, f"cross_entropy{s}", "bleu", column)
        for s in ("", ".seed2")
    ]


def test_plot_of_gains_has_a_dot_for_every_seed_of_every_arm(results, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda self, x, y, *a, **k: drawn.append(x))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda *a, **k: None)
    plot_gains(results)
    dots = [x for x in drawn if isinstance(x, list)]
    others = [systems for arm, systems in arms_of(results).items() if arm != results["baseline"]]
    assert len(dots) == len(splits_and_beams(results)) * len(others)
    assert sorted(map(len, dots)) == sorted([len(systems) for systems in others] * 4)
    assert seed_changes(results, "other", ("test", "5")) in dots


def test_arms_differ_in_the_plots(monkeypatch):
    monkeypatch.setattr(plots, "arms_of", lambda results: [f"arm {n}" for n in range(30)])
    assert len({tuple(style.values()) for style in style_of({}).values()}) == 30


def test_examples_are_the_largest_differences_of_sentence_bleu(folder, results):
    examples = find_examples(results, folder / "work", folder / "text")
    assert [arm["system"] for arm in examples["arms"]] == ["other", "third<b>"]
    decoded = folder / "work/decoded"
    ours, theirs = (
        read_lines(decoded / name / "test.beam5.lenpen1.en") for name in ("other", "cross_entropy")
    )
    references = read_lines(folder / "text/test.en")
    gains = [
        (sentence_bleu(a, [r]).score - sentence_bleu(b, [r]).score, -number)
        for number, (a, b, r) in enumerate(zip(ours, theirs, references, strict=True), start=1)
        if len(BLEU().tokenizer(r).split()) >= 4 and a != b
    ]
    best = sorted(gains, reverse=True)[:3]
    arm = examples["arms"][0]
    assert [e.number for e in arm["better"]] == [-number for _, number in best]
    assert [e.difference for e in arm["better"]] == pytest.approx([gain for gain, _ in best])
    assert all(e.difference < 0 for e in arm["worse"])
    assert arm["better"][0].references == [references[arm["better"][0].number - 1]]


def test_equal_outputs_give_no_examples():
    lines = ["one two three four five", "six seven eight nine ten"]
    assert compare_outputs(lines, lines, [lines], BLEU(effective_order=True)) == ([], [])


def test_text_from_outside_is_escaped(folder, results):
    assert {path.suffix for path in (folder / "docs").iterdir()} == {".md", ".json", ".svg"}
    page = (folder / "work/results.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "third<b>" not in page
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; &amp; a | bar." in page
    assert not re.search(r"(src|href)=\"(?!#|data:,|data:image|results\.json)", page)
    markdown = (folder / "docs/small.md").read_text(encoding="utf-8")
    assert "A &lt;script&gt;alert(" in markdown
    assert not re.search(
        r"<(?!/?details>|/?summary>)", re.sub(r"```[^`]*```|`[^`]*`", "", markdown)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <b>\n\n# c", "a &lt;b&gt; # c"),
        ("![x](http://y)", r"!\[x](http://y)"),
        ("`--a <b>` | c", r"`--a <b>` \| c"),
        ("`<b>``", "'&lt;b&gt;''"),
        ("`a` ` <b>", "'a' ' &lt;b&gt;"),
    ],
)
def test_markdown_has_no_html_outside_of_code(text, expected):
    assert escaped(text) == expected


def test_examples_need_the_texts(results, tmp_path):
    assert find_examples(results, tmp_path) is None
