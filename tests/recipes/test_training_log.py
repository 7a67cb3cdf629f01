from recipes.fairseq_commands.training_log import read_training_log, training_progress

HEAD = "2026-11-24 05:36:28 | INFO |"
LOG = f"""\
{HEAD} fairseq.trainer | begin training epoch 1
{HEAD} train_inner | epoch 001:     20 / 140 loss=11.377, nll_loss=11.157, ppl=2283, ups=0.72, \
num_updates=20, lr=4.0096e-05, train_wall=28, wall=64
{HEAD} valid | epoch 001 | valid on 'valid' subset | loss 8.238 | nll_loss 7.528 | bleu 3.1 | \
num_updates 20 | best_loss 8.238
{HEAD} train | epoch 001 | loss 10.188 | train_wall 232 | wall 246 | num_updates 40
{HEAD} valid | epoch 001 | valid on 'valid' subset | loss 7 | bleu 4.1 | num_updates 20
{HEAD} valid | epoch 002 | valid on 'valid' subset | loss nan | bleu 5.5 | num_updates 60
{HEAD} train | epoch 002 | loss 9 | train_wall 68 | wall 400 | num_updates 60
"""


def test_curves_and_time(tmp_path):
    (tmp_path / "log").write_text(LOG)
    log = read_training_log(tmp_path / "log")
    # The second line about update 20 is that of a run that resumed.
    assert log.curve("bleu") == [[20, 60], [4.1, 5.5]]
    assert log.curve("expected_bleu") == []
    assert log.inner[20]["lr"] == 4.0096e-05
    assert log.seconds_per_update() == (232 + 68) / 60


def test_missing_or_short_log_has_no_time(tmp_path):
    assert read_training_log(tmp_path / "absent").seconds_per_update() is None
    (tmp_path / "log").write_text(f"{HEAD} train | epoch 001 | train_wall 1 | num_updates 9\n")
    assert read_training_log(tmp_path / "log").seconds_per_update() is None


def test_progress_is_one_short_line_for_each_line_of_figures():
    said: list[str] = []
    handler = training_progress(said.append)
    for line in LOG.splitlines():
        handler(line)
    assert said[0] == "  train  epoch 1  updates 20  loss 11.377  nll_loss 11.157  ups 0.72"
    assert said[1] == "  valid  epoch 1  updates 20  loss 8.238  nll_loss 7.528  bleu 3.1"
    assert len(said) == 4


def test_progress_tells_the_time_that_is_left():
    said: list[str] = []
    seconds = iter(range(0, 10_000, 40))
    handler = training_progress(said.append, 100, lambda: next(seconds))
    for update in (20, 40, 90, 100):
        handler(f"{HEAD} {inner(update, loss=1)}")
    assert [line.partition("loss 1")[2] for line in said] == [
        "", "  2 min left", "  less than a minute left", "",
    ]  # fmt: skip


def resumed_log(*parts):
    """A log as fairseq-train leaves it: each part (updates loaded, lines)."""
    lines = []
    for loaded, entries in parts:
        found = f"Loaded checkpoint c.pt (epoch 1 @ {loaded} updates)"
        lines += [f"{HEAD} fairseq.trainer | {found}", *(f"{HEAD} {line}" for line in entries)]
    return "\n".join([*lines, ""])


def inner(update, **values):
    figures = ", ".join(f"{name}={value}" for name, value in values.items())
    return f"train_inner | epoch 001:   {update} / 90 {figures}, num_updates={update}, wall=1"


def valid(update, **values):
    figures = " | ".join(f"{name} {value}" for name, value in values.items())
    return f"valid | epoch 001 | valid on 'valid' subset | {figures} | num_updates {update}"


def test_curves_over_updates(tmp_path):
    lines = [
        inner(20, loss=1, reward=0.25, entropy=1.5, sample_length=9),
        valid(22, bleu=30.5, reward_greedy=0.375, sample_length=11),
        inner(40, loss=1, reward=0.5, entropy=1.25, sample_length=10),
        "train | epoch 001 | loss 1 | train_wall 20 | num_updates 44",
    ]
    (tmp_path / "log").write_text(resumed_log((0, lines)))
    assert read_training_log(tmp_path / "log").curves() == {
        "bleu": [[22], [30.5]],
        "reward_greedy": [[22], [0.375]],
        "reward": [[20, 40], [0.25, 0.5]],
        "entropy": [[20, 40], [1.5, 1.25]],
        "sample_length": [[22], [11]],  # validation logs it too
    }


def test_updates_that_a_resumed_run_makes_again_count_once(tmp_path):
    first = 0, [inner(20, reward=0.1), inner(40, reward=0.2), inner(60, reward=9)]
    second = 40, [inner(60, reward=0.3), inner(80, reward=0.4)]
    (tmp_path / "log").write_text(resumed_log(first, second))
    curves = read_training_log(tmp_path / "log").curves()
    assert curves["reward"] == [[20, 40, 60, 80], [0.1, 0.2, 0.3, 0.4]]


def test_updates_that_a_resumed_run_did_not_reach_are_forgotten(tmp_path):
    first = 0, [inner(20, reward=0.1), inner(40, reward=0.2), valid(40, bleu=3)]
    (tmp_path / "log").write_text(resumed_log(first, (20, [])))
    log = read_training_log(tmp_path / "log")
    assert log.curves() == {"reward": [[20], [0.1]]}
    # A finished run that is started again trains nothing, and loses nothing.
    (tmp_path / "log").write_text(resumed_log(first, (40, [])))
    assert read_training_log(tmp_path / "log").curve("bleu") == [[40], [3]]


def test_a_figure_whose_name_ends_with_that_of_another_is_not_taken_for_it(tmp_path):
    figures = "loss=7.5, nll_loss=6, length-loss=0.25, word_ins-loss=7.25, num_updates=20"
    line = f"2026-07-25 22:09:41 | INFO | train_inner | epoch 001:  20 / 90 {figures}, wall=1\n"
    (tmp_path / "log").write_text(line)
    values = read_training_log(tmp_path / "log").inner[20]
    assert (values["loss"], values["length-loss"]) == (7.5, 0.25)
