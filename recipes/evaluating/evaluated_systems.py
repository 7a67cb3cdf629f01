"""What ``python -m recipes evaluate`` scores: text from checkpoints, logs or files."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recipes.errors import RecipeError
from recipes.fairseq_commands.checkpoints import average_checkpoints, last_checkpoints
from recipes.fairseq_commands.commands import generate_command
from recipes.fairseq_commands.decoding import (
    check_targets,
    check_whole_words,
    decode,
    detokenised,
    generate_log,
    generation_progress,
    is_generate_log,
    parse_generate,
)
from recipes.schema.flags import flag_value
from recipes.text import read_lines, write_lines

_LONGEST_NAME = 180  # bytes of a file name, short of the 255 that file systems take
# Flags of fairseq-generate that this command sets, or that take away what it reads.
_REFUSED = {
    "--path": "name the model with --checkpoint, before the --",
    "--gen-subset": "choose it with --split, before the --",
    "--source-lang": "give it before the --",
    "--target-lang": "give it before the --",
    "-s": "give --source-lang before the --",
    "-t": "give --target-lang before the --",
    "--results-path": "choose the folder with --output-dir, before the --",
    "--quiet": "the hypotheses are read from what fairseq-generate prints",
}
_WHOLE_WORDS = ("--remove-bpe", "--post-process", "--bpe")


@dataclass
class EvaluatedSystem:
    """One system: a name, its detokenised text, and where that text comes from, in words."""

    name: str
    text: Path
    origin: str = ""
    log: Path | None = None


def check_search_flags(flags: list[str], sentencepiece: Path | None) -> None:
    """Refuse flags of fairseq-generate that contradict this command's own.

    Raises:
        RecipeError: names the flag, and what to do instead.
    """
    for flag in flags:
        name = flag.split("=")[0]
        if name in _REFUSED:
            raise RecipeError(f"{name} after --: {_REFUSED[name]}")
        if name in _WHOLE_WORDS and sentencepiece is not None:
            raise RecipeError(
                f"{name} after --: give either it or --sentencepiece; both undo the segmentation"
            )


def from_file(path: Path, args: argparse.Namespace, references: list[list[str]]) -> EvaluatedSystem:
    """A file of detokenised text, or what fairseq-generate printed.

    A log beside a text of this command's or of a recipe's is used for the probabilities.

    Raises:
        RecipeError: the file does not exist, is in subwords, or its ids are not the references'.
    """
    if is_generate_log(path):
        output = args.output_dir / f"{_file_name(path)}.txt"
        write_lines(output, _text_of_log(path, args.sentencepiece, references))
        return EvaluatedSystem(str(path), output, _origin(path, args.sentencepiece), path)
    lines = read_lines(path)
    check_whole_words(lines, str(path))
    log = generate_log(path)
    beside = log.is_file() and is_generate_log(log) and len(parse_generate(log)) == len(lines)
    return EvaluatedSystem(str(path), path, log=log if beside else None)


def from_checkpoint(
    checkpoint: Path,
    args: argparse.Namespace,
    references: list[list[str]],
    say: Callable[[str], None],
) -> EvaluatedSystem:
    """Decode with a checkpoint, with several of them (``A.pt:B.pt``), or with the average of the
    last ``--average`` in a folder.

    Raises:
        RecipeError: something is missing that decoding needs, or its ids are not the references'.
    """
    if args.data is None:
        raise RecipeError("--checkpoint needs --data, the folder that fairseq-preprocess wrote")
    files = [Path(part) for part in str(checkpoint).split(":")]
    for path in (*files, args.data, args.sentencepiece):
        if path is not None and not path.exists():
            raise RecipeError(f"{path} does not exist")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    files = [_averaged(path, args, say) if path.is_dir() else path for path in files]
    languages = _languages(args)
    flags = ["--max-tokens", str(args.max_tokens), *args.search_flags]
    command = generate_command(
        Path(":".join(map(str, files))),
        args.data,
        languages,
        args.split,
        args.beam,
        args.lenpen,
        flags,
        args.fp16,
    )
    # Of a flag given twice, fairseq takes the later.
    beam = flag_value(flags, "--beam") or str(args.beam)
    lenpen = float(flag_value(flags, "--lenpen") or args.lenpen)
    name = f"{_file_name(checkpoint)}{f'.average{args.average}' * checkpoint.is_dir()}"
    name += f".{args.split}.beam{beam}" + f".lenpen{lenpen:g}" * (lenpen != 1)
    output = args.output_dir / f"{name}.{languages[1]}"
    say(f"$ {command}")
    lines = len(references[0])
    progress = generation_progress(say, lines)
    decode(command.argv(), output, args.sentencepiece, f"decode {checkpoint}", lines, progress)
    log = generate_log(output)
    check_targets(log, args.sentencepiece, references)
    return EvaluatedSystem(str(checkpoint), output, _origin(log, args.sentencepiece), log)


def _text_of_log(log: Path, model: Path | None, references: list[list[str]]) -> list[str]:
    lines = detokenised(log, model)
    for number, reference in enumerate(references):
        if len(lines) != len(reference):
            raise RecipeError(
                f"{log}: ids do not match: sentences 0 to {len(lines) - 1}, but reference {number} "
                f"has {len(reference)} lines"
            )
    check_targets(log, model, references)
    return lines


def _origin(log: Path, model: Path | None) -> str:
    if model is None:
        return f"D- lines of {log}, as fairseq put them together"
    return f"H- lines of {log}, put together by {model}"


def _averaged(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> Path:
    """The average of the last checkpoints in ``folder``."""
    if args.average is None:
        raise RecipeError(
            f"{folder} is a folder; name one of its checkpoints, or give --average N for the mean "
            "of its last N"
        )
    paths = last_checkpoints(folder, args.average)
    output = args.output_dir / f"{_file_name(folder)}.average{args.average}.pt"
    say(f"average of {', '.join(path.name for path in paths)}: {output}")
    average_checkpoints(paths, output)
    return output


def _file_name(path: Path) -> str:
    """A file name from a whole path, so that checkpoint_best.pt of two runs do not meet."""
    if path.suffix == ".pt":
        path = path.with_suffix("")
    name = "_".join(part for part in path.parts if part not in ("/", "..")).replace(":", "+")
    if len(name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{digest}_{name.encode()[-_LONGEST_NAME + 9 :].decode(errors='ignore')}"
    return name


def _languages(args: argparse.Namespace) -> tuple[str, str]:
    """Source and target language, read off ``SPLIT.SRC-TGT.SRC.idx`` where not given."""
    if args.source_lang and args.target_lang:
        return args.source_lang, args.target_lang
    pairs = {p.name.split(".")[1] for p in args.data.glob(f"{args.split}.*-*.*.idx")}
    if len(pairs) != 1:
        raise RecipeError(
            f"{args.data} holds {'no' if not pairs else 'more than one'} language pair for split "
            f"{args.split!r}; check --split, or give --source-lang and --target-lang"
        )
    source, _, target = pairs.pop().partition("-")
    return args.source_lang or source, args.target_lang or target
