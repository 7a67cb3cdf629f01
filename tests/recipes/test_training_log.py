from recipes.progress import training_progress
from recipes.training_log import read_training_log

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
    assert log.curve("bleu") == ([20, 60], [4.1, 5.5])
    assert log.curve("expected_bleu") == ([], [])
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
