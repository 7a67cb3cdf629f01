"""fairseq-generate, and turning what it prints into text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from recipes.data.segmentation import decode_pieces, load_sentencepiece
from recipes.errors import RecipeError
from recipes.fairseq_commands.process import run_command
from recipes.text import Say, read_lines, write_lines

_OUTPUT = re.compile(r"^(?P<kind>[HTD])-(?P<index>\d+)\t(?P<rest>.*)$")
_SCORED = "HD"  # lines with a score before the text
_SEGMENTED = re.compile("▁|@@( |$)")
_SHARE = 0.05  # of lines that look segmented, from which on it is no accident


def parse_generate(log: Path, kind: str = "H") -> list[str]:
    """Text of all hypotheses, sorted back into corpus order.

    Args:
        kind: ``H``, the hypotheses in the model's tokens; ``D``, the same put together by
            fairseq's ``--bpe`` and ``--tokenizer``; ``T``, the targets.

    With several hypotheses a sentence (``--nbest``) the first, the best, is taken.

    Raises:
        RecipeError: the sentences are not numbered 0..n-1, so that some are missing.
    """
    found: dict[int, str] = {}
    for line in read_lines(log):
        match = _OUTPUT.match(line)
        if match is not None and match["kind"] == kind:
            rest = match["rest"]
            text = rest.partition("\t")[2] if kind in _SCORED else rest
            found.setdefault(int(match["index"]), text)
    if not found:
        raise RecipeError(
            f"{log}: fairseq-generate did not write every sentence: there is no {kind}- line "
            "(--quiet leaves them out)"
        )
    missing = next((index for index in range(len(found)) if index not in found), None)
    if missing is not None:
        raise RecipeError(
            f"{log}: fairseq-generate did not write every sentence: {kind}-{missing} is missing, "
            f"though {kind}-{max(found)} is there. Sentences are left out by "
            "--skip-invalid-size-inputs-valid-test, by --required-batch-size-multiple above 1 and "
            "by --num-shards"
        )
    return [found[index] for index in range(len(found))]


def is_generate_log(path: Path) -> bool:
    """Whether a file holds what fairseq-generate printed, rather than text."""
    return any((m := _OUTPUT.match(line)) and m["kind"] == "H" for line in read_lines(path))


def detokenised(log: Path, model: Path | None, kind: str = "H") -> list[str]:
    """Hypotheses (or targets) in corpus order, as text.

    With a SentencePiece model, its pieces are put together. Without one, fairseq did that itself:
    D- lines are taken as they are.

    Raises:
        RecipeError: sentences are missing; or, without a model, they are still in pieces.
    """
    if model is None:
        lines = parse_generate(log, "D" if kind == "H" else kind)
        check_whole_words(lines, str(log))
        return lines
    processor = load_sentencepiece(model)
    return [decode_pieces(processor, pieces) for pieces in parse_generate(log, kind)]


def check_whole_words(lines: Sequence[str], name: str) -> None:
    """Check that text is not in subwords.

    Raises:
        RecipeError: many lines hold SentencePiece's or subword-nmt's marks.
    """
    segmented = [line for line in lines if _SEGMENTED.search(line)]
    if len(segmented) > _SHARE * len(lines):
        raise RecipeError(
            f"{name} is in subwords ({segmented[0][:40]!r} ...); scores are of detokenised text: "
            "give --sentencepiece MODEL for what fairseq-generate printed or, after --, fairseq's "
            "own flags that undo the segmentation (--remove-bpe, --bpe, --tokenizer)"
        )


def check_targets(log: Path, model: Path | None, references: Sequence[Sequence[str]]) -> None:
    """Check that the split that was decoded has the references' sentences in their order.

    The targets fairseq-generate printed (T- lines, if any) are looked for in the references. A
    target that is none of them says nothing: binarised text can be normalised, or have unknown
    words. One that is the reference of another sentence tells of another order.

    Args:
        references: one list of lines for each reference set, as long as the split.

    Raises:
        RecipeError: more targets are found at other lines than at their own.
    """
    if not any((m := _OUTPUT.match(line)) and m["kind"] == "T" for line in read_lines(log)):
        return
    targets = [" ".join(line.split()) for line in detokenised(log, model, "T")]
    sets = [[" ".join(line.split()) for line in reference] for reference in references]
    first = {line: n for lines in sets[::-1] for n, line in [*enumerate(lines)][::-1]}
    own = [any(lines[n : n + 1] == [target] for lines in sets) for n, target in enumerate(targets)]
    elsewhere = {n: first[t] for n, t in enumerate(targets) if t in first and not own[n]}
    if len(elsewhere) > sum(own):
        number, line = next(iter(elsewhere.items()))
        raise RecipeError(
            f"{log}: ids do not match: the target T-{number} is line {line + 1} of the reference, "
            f"not line {number + 1} ({len(elsewhere)} such sentences, {sum(own)} in their place); "
            "the binarised split is in another order than the reference"
        )


def decode(
    argv: list[str],
    output: Path,
    sentencepiece_model: Path | None,
    stage: str,
    lines: int | None = None,
    on_line: Say | None = None,
    launch: Callable[..., None] = run_command,
) -> None:
    """Run fairseq-generate (``argv``) and write the detokenised hypotheses to ``output``.

    What it printed stays beside ``output``, as ``OUTPUT.log``; for the model see
    :func:`detokenised`.

    Args:
        launch: runs a command; :func:`~recipes.fairseq_commands.process.run_command`, or one like
            it.

    Raises:
        RecipeError: the number of hypotheses is not ``lines``.
    """
    log = generate_log(output)
    launch(argv, log, stage, on_line)
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


def generation_progress(say: Say, lines: int) -> Say:
    """A line handler for fairseq-generate: sentences done, every quarter of a large set."""
    done = 0
    step = max(lines // 4, 200)

    def on_line(line: str) -> None:
        nonlocal done
        if line.startswith("H-"):
            done += 1
            if done % step == 0:
                say(f"  {done} / {lines} sentences")

    return on_line
