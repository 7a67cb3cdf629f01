"""SentencePiece through its Python library: training, encoding, decoding."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from recipes.config import SentencePiece
from recipes.errors import RecipeError
from recipes.text import read_lines, write_bytes


def train_sentencepiece(files: Iterable[Path], model: Path, settings: SentencePiece) -> None:
    """Train a model on all lines of ``files`` and write it to ``model``.

    The text is passed as an iterator, so the model's bytes do not depend on where files lie.
    """

    def lines() -> Iterator[str]:
        for file in files:
            yield from read_lines(file)

    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=buffer,
            vocab_size=settings.vocab_size,
            model_type=settings.model_type,
            character_coverage=settings.character_coverage,
            num_threads=2,  # the sums of EM depend on it in the last digits: fixed
            minloglevel=2,
        )
    except RuntimeError as error:
        raise RecipeError(
            f"sentencepiece.vocab_size: {settings.vocab_size} does not suit this text: {error}"
        ) from error
    write_bytes(model, buffer.getvalue())


def load_sentencepiece(model: Path | str) -> sentencepiece.SentencePieceProcessor:
    """Load a SentencePiece model file."""
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"{model} cannot be read as a SentencePiece model: {error}") from error


def encode_lines(processor: sentencepiece.SentencePieceProcessor, lines: list[str]) -> list[str]:
    """Pieces of each line, joined by spaces (the format fairseq-preprocess reads)."""
    return [" ".join(pieces) for pieces in processor.encode(lines, out_type=str)]


def decode_pieces(processor: sentencepiece.SentencePieceProcessor, pieces: str) -> str:
    """Detokenised text of a line of space-separated pieces."""
    return processor.decode(pieces.split(" ")) if pieces else ""
