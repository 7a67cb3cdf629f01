"""Which stages run, and why."""

import fcntl
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from recipes.__main__ import main
from recipes.errors import CommandError, RecipeError
from recipes.pipeline import run_recipe
from recipes.reporting.report import load_results, print_results, write_report
from recipes.running.run import Run
from recipes.running.stages import Stage
from recipes.schema.reading import load_recipe
from recipes.steps.decoding import best_lenpen
from recipes.text import file_hash, write_lines


@pytest.fixture
def run(recipe_file, fake_fairseq, data_dir, finished_work, tmp_path):
    """Runs the small recipe with stand-ins; returns the programs called. ``said`` has the lines,
    ``finished()`` makes the work-dir that of a finished run."""

    def start(changes=None, settings=(), **options):
        recipe = load_recipe(recipe_file(**(changes or {})), list(settings))
        said: list[str] = []
        try:
            run_recipe(Run(recipe, tmp_path / "work", data_dir, said.append, **options))
        finally:
            start.said = said
        return fake_fairseq.programs()

    start.finished = lambda: shutil.copytree(finished_work, tmp_path / "work")
    return start


ALL = ["fairseq-preprocess"] + ["fairseq-train"] * 3 + ["fairseq-generate"] * 6


def test_second_run_does_nothing(run):
    assert run() == ALL
    assert run() == []
    assert sum(line.endswith("up to date") for line in run.said) == 3 + 3 + 6 + 1


def test_changed_arm_is_redone_alone_and_its_old_run_kept(run, tmp_path):
    run.finished()
    called = run(settings=["arms.other.flags+=--dropout 0.5"])
    assert called == ["fairseq-train"] + ["fairseq-generate"] * 0
    assert any("arm other: redone: command changed (+--dropout 0.5)" in s for s in run.said)
    # Its checkpoint is byte for byte the same (the stand-in ignores dropout): no new decoding.
    assert (tmp_path / "work/arms/other.old1/checkpoint_last.pt").exists()


def test_changed_start_reaches_arms_and_decoding(run):
    run.finished()
    called = run(settings=["cross_entropy.flags+=--lr 0.5"])
    # Arms retrain; the stand-in's arms come out equal, so only the start is decoded again.
    assert called == ["fairseq-train"] * 3 + ["fairseq-generate"] * 2


def test_new_arm_runs_alone(run):
    run.finished()
    assert (
        run(settings=["arms.third.flags=--criterion c"])
        == ["fairseq-train"] + ["fairseq-generate"] * 2
    )


def test_changed_text_is_redone(run, data_dir, tmp_path, recipe_file, fake_fairseq):
    run.finished()
    text = tmp_path / "other"
    text.mkdir()
    for file in data_dir.iterdir():
        (text / file.name).write_text(file.read_text())
    lines = (text / "train.de").read_text().splitlines()
    (text / "train.de").write_text("\n".join(["Anderer Satz.", *lines[1:]]) + "\n")
    recipe = load_recipe(recipe_file())
    said: list[str] = []
    run_recipe(Run(recipe, tmp_path / "work", text, said.append))
    assert "fairseq-preprocess" in fake_fairseq.programs()
    assert any("sentencepiece: redone: input train.de changed" in line for line in said)


def test_killed_training_continues_where_it_was(run, fake_fairseq, tmp_path):
    fake_fairseq.behave(kill_at=2)
    with pytest.raises(CommandError, match=r"stage 'cross_entropy stage'.* signal 9"):
        run()
    log = tmp_path / "work/cross_entropy/train.log"
    assert "num_updates 2" in log.read_text()
    assert json.loads((tmp_path / "work/cross_entropy.stage.json").read_text())["finished"] is False
    fake_fairseq.calls()
    fake_fairseq.behave()
    # Preprocessing is up to date; the log grows on, and no update is done twice.
    assert run() == ALL[1:]
    assert any(line.endswith("cross_entropy stage: continues") for line in run.said)
    updates = [s for s in log.read_text().splitlines() if "| valid |" in s]
    assert [line.split()[-1] for line in updates] == ["1", "2", "3", "4"]


def test_training_that_made_all_updates_is_not_started_again(run, fake_fairseq, tmp_path):
    run.finished()
    record = tmp_path / "work/arms/other.stage.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "finished": False}))
    assert run() == []
    assert json.loads(record.read_text())["finished"] is True


def test_save_dir_without_a_record_is_continued_not_moved(run, tmp_path):
    run.finished()
    (tmp_path / "work/cross_entropy.stage.json").unlink()
    assert run() == []
    assert not (tmp_path / "work/cross_entropy.old1").exists()


ANNEALING = {"annealing": {"flags": "--max-update 2 --lr 0.0005"}}


def test_annealing_continues_from_cross_entropy_and_the_arms_from_it(run, tmp_path):
    def record(name):
        return json.loads((tmp_path / f"work/{name}.stage.json").read_text())

    def start(name, flag="--finetune-from-model"):
        command = record(name)["settings"]["command"]
        return command[command.index(flag) + 1]

    decoded = "decoded/start/test.beam1.lenpen1.en"
    assert run() == ALL
    first = record("cross_entropy")
    assert start("arms/other") == "{work}/cross_entropy/checkpoint_last.pt"
    assert start(decoded, "--path") == "{work}/cross_entropy/checkpoint_last.pt"

    run(ANNEALING)
    assert any(line.endswith("annealing stage: start") for line in run.said)
    assert record("cross_entropy") == first
    assert record("annealing")["stage"] == "annealing stage"
    assert record("annealing")["finished"] is True
    assert start("annealing") == "{work}/cross_entropy/checkpoint_last.pt"
    assert start("arms/cross_entropy") == "{work}/annealing/checkpoint_last.pt"
    assert start("arms/other") == "{work}/annealing/checkpoint_last.pt"
    assert start(decoded, "--path") == "{work}/annealing/checkpoint_last.pt"
    made = json.loads((tmp_path / "work/annealing/checkpoint_last.pt").read_text())
    assert made == ["0.0005", 2]


@pytest.mark.parametrize(("made", "trained"), [(2, 0), (1, 1)])
def test_annealing_started_by_hand_is_taken_over(run, tmp_path, made, trained):
    run.finished()
    folder = tmp_path / "work/annealing"
    folder.mkdir()
    (folder / "checkpoint_last.pt").write_text(json.dumps(["0.0005", made]))
    # The two arms, and annealing only where updates are missing.
    assert run(ANNEALING).count("fairseq-train") == 2 + trained
    record = json.loads((tmp_path / "work/annealing.stage.json").read_text())
    assert record["finished"] is True
    assert json.loads((folder / "checkpoint_last.pt").read_text())[-1] == 2
    assert not (tmp_path / "work/annealing.old1").exists()
    assert run(ANNEALING) == []


def test_changed_annealing_leaves_cross_entropy_alone(run):
    run(ANNEALING)
    called = run(ANNEALING, settings=["annealing.flags+=--lr 0.5"])
    assert called == ["fairseq-train"] * 3 + ["fairseq-generate"] * 2


def test_report_names_both_stages_before_the_arms(run, tmp_path):
    run(ANNEALING)
    write_report(tmp_path / "work")
    text = (tmp_path / "work/results.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `start`")]
    # 12 s of training in each stage: 4 updates, then 2.
    assert (
        "| `start` (baseline) | 4, then 2 | 2 (2) |  | 12, then 12 | 3.000, then 6.000 |  |" in text
    )
    assert rows[-1].endswith(
        "| cross_entropy: `--max-update 4 --lr 0.001`, "
        "then annealing: `--max-update 2 --lr 0.0005` |"
    )
    assert "annealing stage\nfairseq-train " in text


def test_time_is_that_of_each_arm_and_compared_with_the_control(run, fake_fairseq, tmp_path):
    fake_fairseq.behave(train_wall={"cross_entropy": 9, "other": 18})
    run()
    write_report(tmp_path / "work")
    text = (tmp_path / "work/results.md").read_text()
    assert "| `cross_entropy` (control, baseline) | 3 | 3 (3) |  | 9 | 3.000 | 1.00 |" in text
    assert "| `other` (best arm on valid) | 3 | 3 (3) |  | 18 | 6.000 | 2.00 |" in text
    console = Console(file=io.StringIO(), width=120)
    print_results(load_results(tmp_path / "work/results.json"), console)
    rows = re.findall(r"^ *other .* 6\.000 +2\.00 *$", console.file.getvalue(), re.MULTILINE)
    assert len(rows) == 2  # valid and test


def test_failing_command_names_stage_log_and_last_lines(run, fake_fairseq, tmp_path):
    fake_fairseq.behave(fail="fairseq-preprocess")
    with pytest.raises(CommandError) as error:
        run()
    message = str(error.value)
    assert "stage 'preprocess'" in message
    assert str(tmp_path / "work/logs/preprocess.log") in message
    assert "line before the end" in message
    assert "RuntimeError: out of luck" in message
    fake_fairseq.calls()
    fake_fairseq.behave()
    assert run() == ALL


def test_a_model_that_writes_nothing_yet_is_told_from_other_failures(run, fake_fairseq):
    fake_fairseq.behave(fail="fairseq-train", fail_with="KeyError: 'bleu'")
    with pytest.raises(CommandError, match="begin later: --validate-after-updates"):
        run()
    fake_fairseq.behave(fail="fairseq-train")
    with pytest.raises(CommandError) as error:
        run()
    assert "--validate-after-updates" not in str(error.value)


def test_redo_names_a_stage(run):
    run.finished()
    assert run(redo=("decode other test beam 1",)) == ["fairseq-generate"]
    with pytest.raises(RecipeError, match="no stage 'decode othr'"):
        run(redo=("decode othr",))


def test_dry_run_runs_and_writes_nothing(run, tmp_path):
    assert run(dry_run=True) == []
    first_words = [Path(line.split()[0]).name for line in run.said]
    assert [word for word in first_words if word.startswith("fairseq-")] == ALL
    assert not (tmp_path / "work").exists()


def test_two_runs_in_one_folder_are_refused(run, tmp_path):
    (tmp_path / "work").mkdir()
    with open(tmp_path / "work/.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RecipeError, match="in use by another run"):
            run()


def test_length_penalty_is_chosen_on_valid_for_every_arm(run, tmp_path):
    called = run({"decoding": {"beams": [1, 2], "lenpen": [1.0, 0.0]}})
    # Beam 2: valid twice, test once; greedy: one each.
    assert called.count("fairseq-generate") == 3 * (2 + 3)
    systems = load_results(tmp_path / "work/results.json")["systems"]
    # The stand-in drops one word with 0, three with 1.
    assert list(systems) == ["start", "cross_entropy", "other"]
    assert all(system["lenpen"] == {"1": 1.0, "2": 0.0} for system in systems.values())


def test_greedy_search_has_no_length_penalty_to_choose(run, tmp_path):
    run({"decoding": {"beams": [1, 2], "lenpen": [0.5, 0.0]}})
    systems = load_results(tmp_path / "work/results.json")["systems"]
    assert all(system["lenpen"] == {"1": 1.0, "2": 0.0} for system in systems.values())


BEST = {"finetune": {"flags": "--max-update 3 --lr 1 --eval-bleu", "checkpoint": "best"}}


def test_best_checkpoint_on_valid_is_decoded_and_named(run, fake_fairseq, tmp_path):
    fake_fairseq.behave(best_at=2)
    run(BEST)
    record = tmp_path / "work/decoded/other/test.beam1.lenpen1.en.stage.json"
    command = json.loads(record.read_text())["settings"]["command"]
    assert command[command.index("--path") + 1] == "{work}/arms/other/checkpoint_best.pt"
    system = load_results(tmp_path / "work/results.json")["systems"]["other"]
    assert (system["updates"], system["checkpoint_update"], system["validations"]) == (3, 2, 3)


def test_length_penalty_is_chosen_by_the_recipes_own_bleu(recipe_file, data_dir, tmp_path):
    recipe = load_recipe(
        recipe_file(decoding={"beams": [2], "lenpen": [0.0, 1.0]}), ["evaluation.lowercase=true"]
    )
    text = tmp_path / "text"
    lines = [f"This Is Sentence Number {number} Here" for number in range(20)]
    for split in recipe.data.splits:
        for lang in recipe.languages:
            write_lines(text / f"{split}.{lang}", lines)
    # Several references count as well: these two differ.
    write_lines(text / "valid.en.0", lines)
    write_lines(text / "valid.en.1", ["nothing of that", *lines[1:]])
    cased = Run(recipe, tmp_path / "work", text, lambda line: None)
    layout = cased.layout
    write_lines(layout.hypotheses("start", "valid", 2, 0.0), [*lines[:18], "A", "B"])
    write_lines(layout.hypotheses("start", "valid", 2, 1.0), [line.lower() for line in lines])
    assert best_lenpen(cased, "start", 2, [0.0, 1.0]) == 1
    recipe.evaluation.lowercase = False
    assert best_lenpen(cased, "start", 2, [0.0, 1.0]) == 0
    write_lines(layout.hypotheses("start", "valid", 2, 0.0), lines)
    write_lines(layout.hypotheses("start", "valid", 2, 1.0), ["nothing of that", *lines[1:]])
    assert best_lenpen(cased, "start", 2, [0.0, 1.0]) == 0  # equal: the first
    (text / "valid.en.0").unlink()
    (text / "valid.en.1").rename(text / "valid.en.0")
    assert best_lenpen(cased, "start", 2, [0.0, 1.0]) == 1


def test_report_has_all_arms_signatures_and_commands(run, tmp_path):
    run.finished()
    written = write_report(tmp_path / "work", tmp_path / "docs")
    assert {path.name for path in written} == {
        *("results.html", "results.md", "gains.svg"),
        *("small.md", "small.svg", "small.json"),
    }
    text = (tmp_path / "docs/small.md").read_text()
    results = load_results(tmp_path / "docs/small.json")
    for system in ("start", "cross_entropy", "other"):
        score = results["systems"][system]["scores"]["test"]["1"]["scores"]["bleu"]
        assert f"{score['value']:.2f}" in text
    assert "`other` (best arm on valid)" in text
    assert "bs:50|seed:12345" in results["signatures"]["bleu"]
    assert results["signatures"]["bleu"] in text
    assert "| 12 | 4.000 |" in text  # 12 s of training, 3 updates
    assert text.count("fairseq-train ") == 3
    assert results["curves"]["other"]["bleu"] == [[1, 2, 3], [1.0, 2.0, 3.0]]


def test_arms_with_different_updates_are_refused_unless_they_have_the_same_time(run, tmp_path):
    run.finished()
    checkpoint = tmp_path / "work/arms/other/checkpoint_last.pt"
    checkpoint.write_text(json.dumps(["0.0001", 2]))
    record = tmp_path / "work/arms/other.stage.json"
    made = json.loads(record.read_text())
    made["outputs"] = {"other/checkpoint_last.pt": file_hash(checkpoint)}
    record.write_text(json.dumps(made))
    with pytest.raises(RecipeError, match="different numbers of updates"):
        run()
    run(settings=["arms.other.flags=--criterion b", "arms.other.budget=time"])


def test_data_dir_is_required(recipe_file, tmp_path):
    with pytest.raises(RecipeError, match=r"--data-dir \(train.de, train.en"):
        Run(load_recipe(recipe_file()), tmp_path / "work")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a", " ", "c"], "line 2 is empty"),
        (["a"], "same number of lines"),
        (None, "does not exist"),
    ],
)
def test_bad_text_is_refused(run, data_dir, tmp_path, recipe_file, fake_fairseq, lines, message):
    text = tmp_path / "bad"
    text.mkdir()
    for file in data_dir.iterdir():
        (text / file.name).write_text(file.read_text())
    (text / "valid.en").unlink()
    if lines is not None:
        (text / "valid.en").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(RecipeError, match=message):
        run_recipe(Run(load_recipe(recipe_file()), tmp_path / "work", text, lambda line: None))


def test_stage_that_writes_nothing_is_an_error(recipe_file, data_dir, tmp_path):
    stage = Stage("s", tmp_path / "s.stage.json", [tmp_path / "output"], {}, lambda: None)
    with pytest.raises(RecipeError, match="ended without writing"):
        Run(load_recipe(recipe_file()), tmp_path, data_dir).run_stage(stage)


def test_outputs_that_were_changed_or_cut_are_made_again(run, tmp_path):
    run.finished()
    for name, called in (
        ("segmented/train.de", []),
        ("sentencepiece.model", []),
        ("binarized/train.de-en.de.bin", ["fairseq-preprocess"]),
        ("decoded/other/test.beam1.lenpen1.en", ["fairseq-generate"]),
        ("decoded/other/test.beam1.lenpen1.en.log", ["fairseq-generate"]),
        ("results.json", []),
    ):
        path = tmp_path / "work" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-5])
        assert run() == called
        reason = f"redone: {path.name} was changed or cut off after it was made"
        assert sum(line.endswith(reason) for line in run.said) == 1
        assert path.suffix == ".json" or path.read_bytes() == whole
        assert run() == []


def test_a_finished_training_that_was_changed_is_not_taken_for_whole(run, tmp_path):
    run.finished()
    checkpoint = tmp_path / "work/arms/other/checkpoint_last.pt"
    checkpoint.write_text(checkpoint.read_text()[:-1])
    message = r"checkpoint_last.pt was changed or cut off .* with --redo 'arm other'"
    with pytest.raises(RecipeError, match=message):
        run()
    assert run(redo=("arm other",)) == ["fairseq-train"]


def test_records_of_former_versions_are_taken_as_they_are(run, tmp_path):
    run.finished()
    for record in (tmp_path / "work").rglob("*.stage.json"):
        made = json.loads(record.read_text())
        del made["outputs"]
        record.write_text(json.dumps(made))
    assert run() == []


def test_nothing_is_written_through_a_link_that_leads_out_of_the_work_dir(run, tmp_path):
    work, outside = tmp_path / "work", tmp_path / "outside"
    work.mkdir()
    outside.mkdir()
    kept = outside / "kept"
    kept.write_text("mine")
    for name, target in ((".lock", kept), ("segmented", outside), ("logs", outside)):
        (work / name).symlink_to(target)
        with pytest.raises(RecipeError, match=rf"{name}.* (is a|remove the) symbolic link"):
            run()
        (work / name).unlink()
    assert run() == ALL
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert kept.read_text() == "mine"


def test_a_work_dir_that_is_a_link_itself_is_fine(run, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "disk")
    assert run() == ALL


def test_a_work_dir_that_cannot_be_used_is_named(recipe_file, data_dir, tmp_path, capsys):
    (tmp_path / "work").write_text("a file")
    options = ["--data-dir", str(data_dir), "--work-dir", str(tmp_path / "work")]
    assert main(["run", recipe_file(), *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/work: File exists")
