"""SentencePiece through its Python library: training, encoding, decoding."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import sentencepiece

from recipes.errors import RecipeError
from recipes.schema.recipe import SentencePiece
from recipes.text import iterate_lines, replaced, written_together

_BLOCK = 20000  # lines


def train_sentencepiece(files: Iterable[Path], model: Path, settings: SentencePiece) -> None:
    """Train a model on all lines of ``files`` and write it to ``model``.

    The text is passed as an iterator, so the model's bytes do not depend on where files lie.
    """

    def lines() -> Iterator[str]:
        for file in files:
            yield from iterate_lines(file)

    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sample(lines, settings.training_lines),
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
    with replaced([model]) as (temporary,):
        temporary.write_bytes(buffer.getvalue())


def _sample(lines: Callable[[], Iterator[str]], size: int | None) -> Iterator[str]:
    """All lines, or ``size`` of them, the same ones every time."""
    if size is None:
        return lines()
    total = sum(1 for _ in lines())
    chosen = set(random.Random(1).sample(range(total), min(size, total)))
    return (line for number, line in enumerate(lines()) if number in chosen)


def load_sentencepiece(model: Path | str) -> sentencepiece.SentencePieceProcessor:
    """Load a SentencePiece model file."""
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"{model} cannot be read as a SentencePiece model: {error}") from error


def segment_file(processor: sentencepiece.SentencePieceProcessor, text: Path, output: Path) -> None:
    """Write the pieces of all lines of ``text`` to ``output``, some thousand lines at a time."""
    with written_together([output]) as (file,):
        lines = iterate_lines(text)
        while block := list(islice(lines, _BLOCK)):
            file.writelines(f"{line}\n" for line in encode_lines(processor, block))


def encode_lines(processor: sentencepiece.SentencePieceProcessor, lines: list[str]) -> list[str]:
    """Pieces of each line, joined by spaces (the format fairseq-preprocess reads)."""
    return [" ".join(pieces) for pieces in processor.encode(lines, out_type=str)]


def decode_pieces(processor: sentencepiece.SentencePieceProcessor, pieces: str) -> str:
    """Detokenised text of a line of space-separated pieces."""
    return processor.decode(pieces.split(" ")) if pieces else ""
