import pytest

from recipes.config import SentencePiece
from recipes.errors import RecipeError
from recipes.segmentation import (
    decode_pieces,
    encode_lines,
    load_sentencepiece,
    train_sentencepiece,
)
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
