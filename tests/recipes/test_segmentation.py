import pytest

from recipes.data.segmentation import (
    decode_pieces,
    encode_lines,
    load_sentencepiece,
    segment_file,
    train_sentencepiece,
)
from recipes.errors import RecipeError
from recipes.schema.recipe import SentencePiece
from recipes.text import file_hash, read_lines, write_lines


@pytest.fixture(scope="module")
def model(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "sentencepiece.model"
    files = [data_dir / "train.de", data_dir / "train.en"]
    train_sentencepiece(files, path, SentencePiece(vocab_size=300))
    return path


def test_pieces_give_the_text_back(model, data_dir):
    processor = load_sentencepiece(model)
    lines = read_lines(data_dir / "train.en")
    assert [decode_pieces(processor, line) for line in encode_lines(processor, lines)] == lines
    assert decode_pieces(processor, "") == ""


def test_model_depends_on_text_alone(model, data_dir, tmp_path):
    for lang in ("de", "en"):
        write_lines(tmp_path / f"copy.{lang}", read_lines(data_dir / f"train.{lang}"))
    again = tmp_path / "again.model"
    files = [tmp_path / "copy.de", tmp_path / "copy.en"]
    train_sentencepiece(files, again, SentencePiece(vocab_size=300))
    assert file_hash(again) == file_hash(model)


def test_vocabulary_that_does_not_fit_names_the_key(data_dir, tmp_path):
    with pytest.raises(RecipeError, match=r"sentencepiece.vocab_size: 90000"):
        train_sentencepiece(
            [data_dir / "valid.de"], tmp_path / "m.model", SentencePiece(vocab_size=90000)
        )


def test_lines_are_split_at_newlines_only(tmp_path):
    write_lines(tmp_path / "text", ["a\u2028b", "c\x0cd", "e"])
    assert read_lines(tmp_path / "text") == ["a\u2028b", "c\x0cd", "e"]
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_model_of_a_sample_is_the_same_every_time_and_not_that_of_all_lines(data_dir, tmp_path):
    def model(lines):
        path = tmp_path / "model"
        settings = SentencePiece(120, training_lines=lines)
        train_sentencepiece([data_dir / "train.de", data_dir / "train.en"], path, settings)
        return path.read_bytes()

    assert model(150) == model(150) != model(None)
    assert model(10_000) == model(None)


def test_large_files_are_segmented_in_blocks(data_dir, tmp_path, monkeypatch):
    train_sentencepiece([data_dir / "train.en"], tmp_path / "model", SentencePiece(120))
    processor = load_sentencepiece(tmp_path / "model")
    segment_file(processor, data_dir / "train.en", tmp_path / "at_once")
    monkeypatch.setattr("recipes.data.segmentation._BLOCK", 7)
    segment_file(processor, data_dir / "train.en", tmp_path / "in_blocks")
    assert (tmp_path / "in_blocks").read_bytes() == (tmp_path / "at_once").read_bytes()
    assert len((tmp_path / "at_once").read_text(encoding="utf-8").splitlines()) == 200
