"""fairseq-generate, and turning what it prints into text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from recipes.errors import RecipeError
from recipes.process import run_command
from recipes.segmentation import decode_pieces, load_sentencepiece
from recipes.text import read_lines, write_lines

_OUTPUT = re.compile(r"^(?P<kind>[HT])-(?P<index>\d+)\t(?P<rest>.*)$")


def parse_generate(log: Path, kind: str = "H") -> list[str]:
    """Pieces of all hypotheses (``H``) or targets (``T``), sorted back into corpus order.

    With several hypotheses a sentence (``--nbest``) the first, the best, is taken.

    Raises:
        RecipeError: the sentences are not numbered 0..n-1, so that some are missing.
    """
    found: dict[int, str] = {}
    for line in read_lines(log):
        match = _OUTPUT.match(line)
        if match is not None and match["kind"] == kind:
            rest = match["rest"]
            found.setdefault(int(match["index"]), rest.partition("\t")[2] if kind == "H" else rest)
    if not found or sorted(found) != list(range(len(found))):
        raise RecipeError(f"{log}: fairseq-generate did not write every sentence ({len(found)})")
    return [found[index] for index in range(len(found))]


def detokenised(log: Path, model: Path, kind: str = "H") -> list[str]:
    """Hypotheses (or targets) in corpus order, their SentencePiece pieces put together."""
    processor = load_sentencepiece(model)
    return [decode_pieces(processor, pieces) for pieces in parse_generate(log, kind)]


def decode(
    argv: list[str],
    output: Path,
    sentencepiece_model: Path,
    stage: str,
    lines: int | None = None,
    on_line: Callable[[str], None] | None = None,
    keep_open: tuple[int, ...] = (),
) -> None:
    """Run fairseq-generate (``argv``) and write the detokenised hypotheses to ``output``.

    What it printed stays beside ``output``, as ``OUTPUT.log``.

    Raises:
        RecipeError: the number of hypotheses is not ``lines``.
    """
    log = generate_log(output)
    run_command(argv, log, stage, on_line, keep_open=keep_open)
    hypotheses = detokenised(log, sentencepiece_model)
    if lines is not None and len(hypotheses) != lines:
        raise RecipeError(
            f"{log}: {len(hypotheses)} hypotheses for {lines} references; is the binarized split "
            "made from the same text as the reference?"
        )
    write_lines(output, hypotheses)


def generate_log(output: Path) -> Path:
    """Where :func:`decode` keeps what fairseq-generate printed."""
    return output.with_name(f"{output.name}.log")
