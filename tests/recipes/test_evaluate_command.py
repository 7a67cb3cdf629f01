"""``python -m recipes evaluate``: what it accepts, refuses, decodes and prints."""

import io
import json
import shlex

import pytest
from rich.console import Console
from sacrebleu_command import paired_table, sacrebleu_command

from recipes.__main__ import main
from recipes.errors import RecipeError
from recipes.evaluating import print_comparison, short_names
from recipes.fairseq_commands.decoding import check_targets, detokenised, parse_generate
from recipes.scoring.comparison import compare, describe
from recipes.scoring.metrics import MetricOptions
from recipes.text import read_lines, write_lines

FAST = ("--bootstrap-samples", "20", "--randomization-trials", "20", "--metrics", "bleu")


def evaluate(*arguments) -> int:
    return main(["evaluate", *map(str, arguments)])


@pytest.fixture
def binarized(tmp_path, data_dir):
    """What the stand-in of fairseq-generate reads: a split, and checkpoints of 2 and 5 updates."""
    folder = tmp_path / "binarized"
    folder.mkdir()
    (folder / "test.de-en.en.bin").write_text((data_dir / "test.en").read_text())
    for side in ("de", "en"):
        (folder / f"test.de-en.{side}.idx").touch()
    for name, updates in (("before", 2), ("after", 5)):
        (folder / f"{name}.pt").write_text(json.dumps(["words", updates]))
    return folder


@pytest.fixture
def decoding(binarized, data_dir, tmp_path, fake_fairseq):
    """Arguments that every decoding needs."""
    return [
        *("--data", binarized, "--reference", data_dir / "test.en"),
        *("--output-dir", tmp_path / "decoded", *FAST),
    ]


def test_json_holds_every_figure_and_the_command_that_gives_the_scores(texts, tmp_path, capsys):
    output = tmp_path / "scores.json"
    assert (
        evaluate(
            *("--hypotheses", texts["second"], "--baseline", texts["first"]),
            *("--reference", texts["reference"], texts["paraphrase"], "--chrf-word-order", 2),
            *("--bootstrap-samples", 50, "--randomization-trials", 20, "--json", output),
            *("--metrics", "bleu", "chrf"),
        )
        == 0
    )
    result = json.loads(output.read_text())
    system = result["systems"][str(texts["second"])]
    assert set(system) >= {
        *("scores", "length_ratio", "precisions", "length_buckets"),
        *("average_probability", "geometric_mean", "text"),
    }
    assert result["baseline"] == str(texts["first"])
    assert result["references"] == [str(texts["reference"]), str(texts["paraphrase"])]
    shown = capsys.readouterr().out
    assert result["scored"] in shown
    assert result["sacrebleu"] in shown
    cells = paired_table(*shlex.split(result["sacrebleu"])[1:])
    assert [cell["score"] for cell in cells[-2:]] == [
        f"{system['scores'][metric]['value']:.6f}" for metric in ("bleu", "chrf")
    ]
    assert [cell["p"] for cell in cells[-2:]] == [
        f"{system['scores'][metric]['p_value']:.4f}" for metric in ("bleu", "chrf")
    ]


def test_json_alone_goes_to_standard_output(texts, capsys):
    arguments = ("--hypotheses", texts["first"], "--reference", texts["reference"])
    assert evaluate(*arguments, "--metrics", "bleu", "--json", "-") == 0
    shown = capsys.readouterr()
    (system,) = json.loads(shown.out)["systems"].values()
    assert f"{system['scores']['bleu']['value']:.2f}" in shown.err


def test_one_line_names_the_text_that_was_scored(texts, capsys):
    evaluate("--hypotheses", texts["first"], "--reference", texts["reference"], *FAST)
    (line,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("scored: "))
    assert line == (
        f"scored: detokenised text {texts['first']} against {texts['reference']} "
        "(120 lines, 1 reference)"
    )


def test_empty_hypotheses_are_pointed_out(texts, capsys):
    evaluate("--hypotheses", texts["second"], "--reference", texts["reference"], *FAST)
    assert f"note: 1 of 120 hypotheses of {texts['second']} are empty" in capsys.readouterr().out


def test_no_command_is_named_where_sacrebleu_has_none(texts, tmp_path, capsys):
    lines = read_lines(texts["paraphrase"])
    write_lines(tmp_path / "some", ["", *lines[1:]])
    references = ("--reference", texts["reference"], tmp_path / "some")
    evaluate("--hypotheses", texts["first"], *references, "--metrics", "bleu")
    shown = capsys.readouterr().out
    assert "1 of 120 references" in shown
    assert "there the other references count" in shown
    assert "nrefs:var" in shown
    assert "the same scores" not in shown


def test_a_difference_in_few_lines_is_pointed_out(texts, tmp_path, capsys):
    lines = read_lines(texts["first"])
    write_lines(tmp_path / "almost", ["other words", *lines[1:]])
    evaluate(
        *("--hypotheses", tmp_path / "almost", "--baseline", texts["first"]),
        *("--reference", texts["reference"], *FAST),
    )
    assert "differ in 1 of 120 lines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to score"),
        (["--checkpoint", "x.pt"], "--checkpoint needs --data"),
        (["--checkpoint", "a.pt:b.pt", "--data", "."], "a.pt does not exist"),
        (["--hypotheses", "absent.txt"], "absent.txt does not exist"),
        (["--hypotheses", "{first}", "--tokenize", "13b"], "no tokeniser '13b'"),
        (["--hypotheses", "{first}", "--length-buckets", "20", "10"], "ascending"),
        (["--hypotheses", "{first}", "--bootstrap-samples", "0"], "bootstrap_samples: at least 1"),
        (["--hypotheses", "{pieces}"], "is in subwords"),
        (["--hypotheses", "{short}"], "1 hypotheses, but reference 0 has 120 lines"),
        (["--hypotheses", "{blank}"], "all 120 hypotheses are empty"),
        (["--hypotheses", "{short_log}"], "sentences 0 to 0, but reference 0 has 120 lines"),
        (["--hypotheses", "{gap}"], "D-1 is missing, though D-2 is there"),
        (["--hypotheses", "{first}", "--", "--beam", "4", "--path", "x"], "--checkpoint"),
        (["--hypotheses", "{first}", "--", "--gen-subset=valid"], "--split"),
        (
            ["--hypotheses", "{first}", "--sentencepiece", "m", "--", "--remove-bpe"],
            "either it or --sentencepiece",
        ),
    ],
)
def test_mistakes_get_a_message_that_names_the_way_out(texts, tmp_path, capsys, arguments, message):
    files = {
        "pieces": ["▁a b"] * 120,
        "short": ["one line"],
        "blank": [""] * 120,
        "short_log": ["H-0\t-1\ta", "D-0\t-1\ta"],
        "gap": [f"{kind}-{index}\t-1\ta" for kind in "HD" for index in (0, 2)],
    }
    for name, lines in files.items():
        write_lines(tmp_path / name, lines)
    known = {**texts, **{name: tmp_path / name for name in files}}
    arguments = [argument.format_map(known) for argument in arguments]
    reference = ("--reference", texts["reference"])
    assert evaluate(*reference, *arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "does not exist"),
        ([], "is empty (0 lines)"),
        (["x"] * 119, "the references differ in their number of lines"),
    ],
)
def test_missing_references_are_named(texts, tmp_path, capsys, lines, message):
    path = tmp_path / "second_reference"
    if lines is not None:
        write_lines(path, lines)
    given = [path] if not lines else [texts["reference"], path]
    assert evaluate("--hypotheses", texts["first"], "--reference", *given) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert str(path) in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --reference --test-set is required"),
        (
            ["--reference", "r", "--test-set", "wmt14"],
            "--test-set: not allowed with argument --ref",
        ),
        (["--reference", "r", "--baseline", "a", "--baseline-checkpoint", "b"], "not allowed with"),
        (["--reference", "r", "--average", "0"], "--average: 0 is below 1"),
        (["--test-set", "wmt14", "--language-pair", "en"], "'en': expected SRC-TGT"),
    ],
)
def test_options_that_contradict_each_other_are_named(texts, capsys, arguments, message):
    with pytest.raises(SystemExit):
        evaluate("--hypotheses", texts["first"], *arguments)
    assert message in capsys.readouterr().err


def test_flags_after_two_dashes_go_to_fairseq_generate(decoding, binarized, fake_fairseq, tmp_path):
    scores = tmp_path / "scores.json"
    assert (
        evaluate(
            *("--checkpoint", binarized / "after.pt", *decoding, "--json", scores),
            *("--", "--beam", "2", "--lenpen", "0.6", "--remove-bpe", "sentencepiece"),
        )
        == 0
    )
    ((program, *flags),) = fake_fairseq.calls()
    assert program == "fairseq-generate"
    # fairseq takes the later of two values.
    assert flags.index("--lenpen") < len(flags) - 1 - flags[::-1].index("--lenpen")
    assert flags[flags.index("0.6") : flags.index("0.6") + 3] == [
        "0.6", "--remove-bpe", "sentencepiece",
    ]  # fmt: skip
    (system,) = json.loads(scores.read_text())["systems"].values()
    assert system["text"].endswith("after.test.beam2.lenpen0.6.en")


def test_only_evaluate_takes_flags_after_two_dashes():
    with pytest.raises(SystemExit):
        main(["list", "--", "--beam", "4"])


def test_probabilities_come_from_the_log_and_are_compared_with_the_baseline(
    decoding, binarized, tmp_path
):
    scores = tmp_path / "scores.json"
    arguments = (
        *("--checkpoint", binarized / "after.pt", "--baseline-checkpoint"),
        *(binarized / "before.pt", *decoding, "--json", scores),
    )
    assert evaluate(*arguments) == 0
    result = json.loads(scores.read_text())
    before, after = (result["systems"][str(binarized / f"{n}.pt")] for n in ("before", "after"))
    assert before["average_probability"] == after["average_probability"] == 0.5
    # The text of a checkpoint, and its log, can be scored again without decoding.
    again = tmp_path / "again.json"
    reference = ("--reference", *decoding[decoding.index("--reference") + 1 :])
    assert evaluate("--hypotheses", after["text"], after["log"], *reference, "--json", again) == 0
    for system in json.loads(again.read_text())["systems"].values():
        assert system["average_probability"] == 0.5
        assert system["scores"]["bleu"]["value"] == after["scores"]["bleu"]["value"]


def test_an_ensemble_is_one_system(decoding, binarized, fake_fairseq):
    ensemble = f"{binarized / 'before.pt'}:{binarized / 'after.pt'}"
    assert evaluate("--checkpoint", ensemble, *decoding) == 0
    (call,) = fake_fairseq.calls()
    assert call[call.index("--path") + 1] == ensemble


def test_the_last_checkpoints_of_a_folder_are_averaged(
    decoding, binarized, fake_fairseq, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "model"
    folder.mkdir()
    for epoch in range(1, 12):
        (folder / f"checkpoint{epoch}.pt").write_text(json.dumps(["words", epoch]))
    averaged = []

    def average(paths, output):
        averaged.extend(path.name for path in paths)
        output.write_text(paths[-1].read_text())

    monkeypatch.setattr("recipes.evaluating.average_checkpoints", average)
    assert evaluate("--checkpoint", folder, *decoding) == 1
    assert "--average N" in capsys.readouterr().err
    assert evaluate("--checkpoint", folder, *decoding, "--average", 12) == 1
    assert "fewer than 12 checkpoints" in capsys.readouterr().err
    assert evaluate("--checkpoint", folder, *decoding, "--average", 3) == 0
    assert averaged == ["checkpoint9.pt", "checkpoint10.pt", "checkpoint11.pt"]
    (call,) = fake_fairseq.calls()
    assert call[call.index("--path") + 1].endswith("model.average3.pt")


def test_another_split_than_the_reference_is_an_error(decoding, binarized, tmp_path, capsys):
    write_lines(tmp_path / "long", ["x"] * 30)
    arguments = [tmp_path / "long" if str(a).endswith("test.en") else a for a in decoding]
    assert evaluate("--checkpoint", binarized / "after.pt", *arguments) == 1
    assert "24 hypotheses for 30 references" in capsys.readouterr().err
    assert evaluate("--checkpoint", binarized / "after.pt", *decoding, "--split", "test9") == 1
    assert "no language pair for split 'test9'" in capsys.readouterr().err


def test_another_order_than_the_reference_is_an_error(
    decoding, binarized, data_dir, tmp_path, capsys
):
    write_lines(tmp_path / "turned", read_lines(data_dir / "test.en")[::-1])
    arguments = [tmp_path / "turned" if str(a).endswith("test.en") else a for a in decoding]
    assert evaluate("--checkpoint", binarized / "after.pt", *arguments) == 1
    assert "ids do not match: the target T-0 is line 24 of the reference" in capsys.readouterr().err


def test_normalised_targets_are_no_mismatch(tmp_path):
    log = tmp_path / "log"
    write_lines(log, ["T-0\ta  <unk>", "T-1\tb", "T-2\tc", "H-0\t0\tx"])
    check_targets(log, None, [["a z", "b", "b"]])
    with pytest.raises(RecipeError, match="T-1 is line 3"):
        check_targets(log, None, [["a z", "x", "b"]])
    # Any of several references will do; a log without targets tells nothing.
    check_targets(log, None, [["a z", "x", "b"], ["x", "b", "c"]])
    write_lines(log, ["H-0\t0\tx"])
    check_targets(log, None, [["y"]])


def test_sacrebleus_test_sets_give_the_references(texts, monkeypatch, capsys):
    references = [read_lines(texts["reference"]), read_lines(texts["paraphrase"])]
    asked = []

    def read_test_set(source, languages):
        asked.append((source.sacrebleu, source.language_pair, languages))
        return [("source", list(row)) for row in zip(*references, strict=True)]

    monkeypatch.setattr("recipes.evaluating.read_test_set", read_test_set)
    arguments = ("--hypotheses", texts["first"], "--metrics", "bleu")
    assert evaluate(*arguments, "--test-set", "wmt14", "--language-pair", "en-de") == 0
    assert asked == [("wmt14", "en-de", ("en", "de"))]
    shown = capsys.readouterr().out
    theirs = json.loads(
        sacrebleu_command(
            *(texts["reference"], texts["paraphrase"], "-i", texts["first"], "-m", "bleu"),
            *("-w", "2"),
        )
    )
    assert f"{theirs['score']:.2f}" in shown
    assert "sacrebleu -t wmt14 -l en-de -i" in shown
    assert "against sacrebleu's wmt14 en-de, sacrebleu's wmt14 en-de, reference 1" in shown


def test_table_tells_systems_apart_by_what_their_paths_do_not_share():
    names = ["/runs/a/b/last.pt", "/runs/c/b/last.pt"]
    assert short_names(names) == {names[0]: "a", names[1]: "c"}
    names = ["a/last.pt", "a/best.pt", "a/b/best.pt"]
    assert short_names(names) == {n: n.removeprefix("a/") for n in names}
    assert short_names(["a", "a/a"]) == {"a": "a", "a/a": "a/a"}
    assert short_names(["/x/y/z.pt"]) == {"/x/y/z.pt": "y/z.pt"}


def test_hypotheses_are_sorted_back_and_the_best_is_taken(tmp_path):
    log = tmp_path / "log"
    lines = ["INFO | H-9", "H-1\t-0.5\t▁b \u2028 c", "H-1\t-0.9\t▁worse", "T-1\t▁x", "H-0\t-1\t"]
    write_lines(log, [*lines, "D-0\t-1\ty", "D-1\t-1\tz"])
    assert parse_generate(log) == ["", "▁b \u2028 c"]
    # Without a SentencePiece model the text is what fairseq made of the pieces.
    assert detokenised(log, None) == ["y", "z"]


def test_missing_sentences_are_an_error(tmp_path):
    log = tmp_path / "log"
    write_lines(log, ["H-0\t-1\t▁a", "H-2\t-1\t▁b"])
    with pytest.raises(RecipeError, match="did not write every sentence: H-1 is missing"):
        parse_generate(log)


def test_figures_are_whole_beside_long_names_on_a_narrow_terminal():
    lines = [f"the cat sat on the mat number {number}" for number in range(20)]
    moved = [*lines[1:], lines[0]]
    texts = {"a/long/folder/[x]baseline.txt": moved, "another/long/folder/system.en": lines[::-1]}
    baseline, system = texts
    options = MetricOptions(["bleu"], bootstrap_samples=10, randomization_trials=0)
    result = compare(texts, [lines], baseline, options)
    describe(result, texts, [lines], baseline)
    result.systems[baseline].average_probability = 0.25
    result.systems[system].average_probability = 0.125
    console = Console(width=80, file=io.StringIO())
    print_comparison(result, baseline, "test.en", console)
    shown = console.file.getvalue()
    assert max(map(len, shown.split("BLEU by length")[0].splitlines())) <= 80
    statistics = shown[shown.index("Output statistics") : shown.index("BLEU by length")]
    found = result.systems[system]
    for precision in found.precisions:
        assert f"{precision:.1f}" in statistics
    assert "test.en, 2 systems: differences to a/long/folder/[x]baseline.txt" in shown
    for part in ("0.125", "(-0.125)", "0.250"):
        assert part in shown
