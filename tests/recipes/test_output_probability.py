import pytest

from recipes.errors import RecipeError
from recipes.scoring.output_statistics import average_probability
from recipes.text import read_lines, write_lines


def test_every_output_token_weighs_the_same(tmp_path):
    log = tmp_path / "log"
    write_lines(log, ["P-1\t-1.0000 -2.0000 0.0000", "H-1\t-1\t▁a ▁b", "P-0\t-3.0000"])
    assert average_probability(log) == (0.5 + 0.25 + 1 + 0.125) / 4


def test_the_best_of_several_hypotheses_counts(tmp_path):
    log = tmp_path / "log"
    write_lines(log, ["P-0\t-1.0000", "P-0\t-8.0000", "P-10\t-1.0000"])
    assert average_probability(log) == 0.5


def test_without_such_lines_it_is_not_known(tmp_path):
    write_lines(tmp_path / "log", ["H-0\t-1\t▁a", "INFO | P-0"])
    assert average_probability(tmp_path / "log") is None


def test_sentence_marks_whose_place_is_given_do_not_count(tmp_path):
    lines = ["P-0\t0.0000 -1.0000 -2.0000 0.0000", "P-1\t0.0000 0.0000"]
    for settings in ("{'task': {'_name': 'translation_lev', 'data': 'x'}}", "task='x'"):
        write_lines(tmp_path / "log", [f"2026-01-01 | INFO | fairseq_cli.generate | {settings}"])
        before = read_lines(tmp_path / "log")
        write_lines(tmp_path / "log", [*before, *lines])
        iterative = "translation_lev" in settings
        expected = (0.5 + 0.25) / 2 if iterative else (4 + 0.5 + 0.25) / 6
        assert average_probability(tmp_path / "log") == expected


@pytest.mark.parametrize("scores", ["-1.0 nan", "-1.0 2.5", "-1.0 x"])
def test_what_is_no_log_probability_is_refused(tmp_path, scores):
    write_lines(tmp_path / "log", [f"P-7\t{scores}"])
    with pytest.raises(RecipeError, match="P-7"):
        average_probability(tmp_path / "log")
