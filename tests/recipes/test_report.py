"""What a report says, and that it says it of results of all versions."""

import json
import random
import re
import statistics

import pytest
from finished_run import TRICKY, as_version_1, make_run
from sacrebleu import sentence_bleu
from sacrebleu.metrics import BLEU

from recipes.reporting.examples import compare_outputs, find_examples, matched_orders
from recipes.reporting.html_page import html_page
from recipes.reporting.plots import curve_of, curve_plots, score_plots
from recipes.reporting.report import markdown, write_report
from recipes.reporting.tables import seed_table, splits_and_beams
from recipes.text import read_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("finished")
    make_run(folder, data_dir)
    return folder


@pytest.fixture
def results(folder):
    return json.loads((folder / "work/results.json").read_text(encoding="utf-8"))


def row(text, name, table):
    """Cells of the first row called ``name`` below the heading ``table``, in Markdown."""
    part = text[text.index(f"## {table}") :]
    line = next(line for line in part.splitlines() if line.startswith(f"| `{name}`"))
    return line.strip("| ").split(" | ")


def test_markdown_has_scores_with_intervals_differences_and_p_values(results):
    text = markdown(results, None, "small.json")
    for metric, title in (("bleu", "BLEU"), ("chrf", "chrF2"), ("ter", "TER")):
        for system, baseline in (
            ("other", "cross_entropy"),
            ("other.seed2", "cross_entropy.seed2"),
        ):
            cells = row(text, system, title)[1:]
            for cell, (split, beam) in zip(cells, splits_and_beams(results), strict=True):
                ours, theirs = (
                    results["systems"][name]["scores"][split][beam] for name in (system, baseline)
                )
                score, change = ours["scores"][metric], theirs["scores"][metric]["value"]
                p_values = score["p_value"], ours["approximate_randomization"][metric]
                assert cell == (
                    f"{score['value']:.2f} ± {score['interval']:.2f} "
                    f"({score['value'] - change:+.2f}, p={p_values[0]:.3f}/{p_values[1]:.3f})"
                )
        assert results["signatures"][metric] in text


def test_seeds_are_summarised_by_mean_and_standard_deviation(results):
    table = seed_table(results)
    (cells,) = (r for r in table.rows if r[0].startswith("`other`"))
    scores = {
        system: results["systems"][system]["scores"]["test"]["5"]["scores"]["bleu"]["value"]
        for system in ("other", "other.seed2", "cross_entropy", "cross_entropy.seed2")
    }
    ours = [scores["other"], scores["other.seed2"]]
    changes = [ours[0] - scores["cross_entropy"], ours[1] - scores["cross_entropy.seed2"]]
    # Of two values the deviation is their distance over the root of 2.
    spread, changed = (abs(a - b) / 2**0.5 for a, b in (ours, changes))
    assert cells[1] == "2"
    assert cells[-1] == (
        f"{statistics.fmean(ours):.2f} ± {spread:.2f} "
        f"({statistics.fmean(changes):+.2f} ± {changed:.2f})"
    )
    assert seed_table(as_version_1(results)) is None


def test_statistics_of_the_output_are_shown(results):
    text = markdown(results, None, "small.json")
    found = results["systems"]["other"]["scores"]["test"]["5"]
    cells = row(text, "other", "Output statistics: test, beam 5")[1:]
    assert cells == [
        *(f"{precision:.1f}" for precision in found["precisions"]),
        f"{found['brevity_penalty']:.3f}",
        f"{found['length_ratio']:.3f}",
        *(f"{100 * found['repeated_ngram_rate'][n]:.2f}%" for n in ("1", "2", "4")),
        f"{found['consecutive_repeats_per_100_tokens']:.2f}",
        "0.750",
    ]
    buckets = row(text, "other", "BLEU by length: test, beam 5")[1:]
    assert buckets == [
        f"{b['bleu']:.2f} ({b['bleu'] - b['control_bleu']:+.2f})" for b in found["length_buckets"]
    ]


def test_results_of_earlier_versions_render(results):
    old = as_version_1(results)
    text, page = markdown(old, None, "small.json"), html_page(old, None, "small.json")
    assert "Output statistics" not in text
    assert "randomisation" not in text
    for system, record in old["systems"].items():
        for split, beam in splits_and_beams(old):
            score = record["scores"][split][beam]["scores"]["bleu"]
            cell = f"{score['value']:.2f} ± {score['interval']:.2f}"
            assert cell in text, system
            assert cell in page, system
    # Without times there is nothing to draw over time.
    titles = [plot.title for plot in curve_plots(old)]
    assert len(titles) == 2
    assert not any("minutes" in title for title in titles)


def test_curves_missing_in_results_are_read_from_the_logs(folder, results, tmp_path):
    work = tmp_path / "work"
    log = work / "arms/other/train.log"
    log.parent.mkdir(parents=True)
    head = "2026-01-01 00:00"
    log.write_text(
        f"{head}:01 | INFO | fairseq.trainer | begin training epoch 1\n"
        f"{head}:31 | INFO | train_inner | epoch 001: 20 / 90 reward=0.5, num_updates=20, wall=1\n"
    )
    (work / "results.json").write_text(json.dumps(as_version_1(results)))
    write_report(work, tmp_path / "docs")
    curves = json.loads((tmp_path / "docs/small.json").read_text())["curves"]
    assert curves["other"]["reward"] == [[20], [0.5]]
    assert curves["other"]["_seconds"] == [[20], [30]]
    assert curves["other"]["bleu"] == results["curves"]["other"]["bleu"]
    assert "_seconds" not in curves["cross_entropy"]
    assert "reward of sampled output" in (tmp_path / "docs/small.html").read_text()


def test_curves_begin_at_the_start_and_run_over_updates_or_minutes(results):
    assert curve_of(results, "other", "bleu", "updates") == ([0, 50, 100], [29.0, 30.0, 32.5])
    assert curve_of(results, "other", "bleu", "minutes") == ([0, 1, 3], [29.0, 30.0, 32.5])
    assert curve_of(results, "other", "reward", "minutes")[0] == [1 / 3, 2 / 3, 1.5]
    assert curve_of(results, "cross_entropy", "reward", "updates") is None


def test_plots_say_in_words_what_they_show(results):
    plots = {plot.title: plot for plot in curve_plots(results)}
    assert len(plots) == 16
    assert "other 32.5" in plots["valid BLEU (greedy, while training), over updates"].description
    (plot,) = score_plots(results, [("test", "5")])
    score = results["systems"]["other"]["scores"]["test"]["5"]["scores"]["bleu"]
    assert f"other {score['value']:.2f} ± {score['interval']:.2f}" in plot.description
    # The same results give the same bytes.
    assert next(curve_plots(results)).svg == next(iter(plots.values())).svg


def test_matched_ngrams_are_clipped_and_the_longest_one_counts():
    def orders(output, *references):
        return matched_orders(output.split(), [reference.split() for reference in references])

    assert orders("a b c d e", "a b c d e") == [4, 4, 4, 4, 4]
    assert orders("a b x c", "a b c") == [2, 2, 0, 1]
    # The reference has one "the" only.
    assert orders("the the cat", "the cat") == [1, 2, 2]
    assert orders("the the the", "the") == [1, 0, 0]
    assert orders("c b a", "a b c") == [1, 1, 1]
    # With several references the one with most of an n-gram counts.
    assert orders("the the x", "the a", "the b the") == [1, 1, 0]
    assert orders("", "a") == []


def test_unmarked_words_are_those_that_bleu_does_not_count():
    """Marked words are as many as BLEU's clipped matches of words, whatever the order."""
    rng = random.Random(3)
    bleu = BLEU(tokenize="none", effective_order=True)
    for _ in range(300):
        output, *references = (
            [rng.choice("abcde") for _ in range(rng.randrange(1, 12))] for _ in range(3)
        )
        lines = [" ".join(reference) for reference in references]
        score = bleu.sentence_score(" ".join(output), lines)
        orders = matched_orders(output, references)
        # A longer match may cover another occurrence than the first ones, so at least as many.
        assert sum(order > 0 for order in orders) >= score.counts[0]
        assert max(orders) == sum(count > 0 for count in score.counts)


def test_examples_are_the_largest_differences_of_sentence_bleu(folder, results):
    examples = find_examples(results, folder / "work", folder / "text")
    assert [arm.system for arm in examples.arms] == ["other", "third<b>"]
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
    arm = examples.arms[0]
    assert [e.number for e in arm.better] == [-number for _, number in best]
    assert [e.difference for e in arm.better] == pytest.approx([gain for gain, _ in best])
    assert all(e.difference < 0 for e in arm.worse)
    assert arm.better[0].references == [references[arm.better[0].number - 1]]


def test_equal_outputs_give_no_examples():
    lines = ["one two three four five", "six seven eight nine ten"]
    assert compare_outputs(lines, lines, [lines], BLEU(effective_order=True)) == ([], [])


def test_text_from_outside_is_escaped(folder, results):
    write_report(folder / "work", folder / "docs", folder / "text")
    page = (folder / "docs/small.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "third<b>" not in page
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; &amp; a | bar." in page
    assert not re.search(r"(src|href)=\"(?!#|data:,|small\.json)", page)
    assert TRICKY in (folder / "docs/small.md").read_text(encoding="utf-8")


def test_examples_need_the_texts(results, tmp_path):
    assert find_examples(results, tmp_path) is None
