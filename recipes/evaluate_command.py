"""``python -m recipes evaluate``: any fairseq checkpoint, or any text, scored with sacrebleu."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recipes.commands import generate_command
from recipes.decoding import decode
from recipes.errors import RecipeError
from recipes.evaluation import METRICS, Comparison, compare
from recipes.progress import generation_progress
from recipes.text import read_lines, write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate``."""
    systems = parser.add_argument_group("systems to score (at least one)")
    systems.add_argument(
        "--checkpoint", nargs="+", default=[], type=Path, help="decode with fairseq-generate"
    )
    systems.add_argument(
        "--hypotheses", nargs="+", default=[], type=Path, help="detokenised text, one line each"
    )
    systems.add_argument(
        "--baseline-checkpoint", type=Path, help="compare with this checkpoint's output"
    )
    systems.add_argument("--baseline", type=Path, help="compare with this detokenised text")
    parser.add_argument(
        "--reference",
        nargs="+",
        required=True,
        type=Path,
        help="the original text, never segmented; several files are several references",
    )
    decoding = parser.add_argument_group("decoding (for checkpoints)")
    decoding.add_argument("--data", type=Path, help="folder written by fairseq-preprocess")
    decoding.add_argument("--split", default="test", help="valid, test, test1 ... (%(default)s)")
    decoding.add_argument("--source-lang", help="default: from the file names in --data")
    decoding.add_argument("--target-lang", help="default: from the file names in --data")
    decoding.add_argument("--sentencepiece", type=Path, help="model the target was segmented with")
    decoding.add_argument("--beam", type=int, default=5, help="beam size (%(default)s)")
    decoding.add_argument("--lenpen", type=float, default=1.0, help="length penalty (%(default)s)")
    decoding.add_argument("--max-tokens", type=int, default=8000, help="per batch (%(default)s)")
    decoding.add_argument(
        "--generate-flags", default="", help="more flags of fairseq-generate, as one string"
    )
    decoding.add_argument("--fp16", action="store_true", help="half precision, on a GPU")
    decoding.add_argument(
        "--output-dir",
        type=Path,
        default=Path("runs/evaluate"),
        help="where the detokenised output goes (%(default)s)",
    )
    parser.add_argument(
        "--metrics", nargs="+", choices=list(METRICS), default=list(METRICS), help="%(default)s"
    )
    parser.add_argument(
        "--bootstrap-samples", type=int, default=1000, help="resamples of the test (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def main(args: argparse.Namespace, console: Console) -> None:
    """Decode what needs decoding, then score everything."""
    if args.baseline and args.baseline_checkpoint:
        raise RecipeError("give either --baseline or --baseline-checkpoint, not both")
    if not args.checkpoint and not args.hypotheses:
        raise RecipeError("nothing to score: give --checkpoint or --hypotheses")
    references = [read_lines(path) for path in args.reference]
    texts: dict[str, Path] = {}
    baseline = None
    if args.baseline_checkpoint:
        baseline = str(args.baseline_checkpoint)
        texts[baseline] = _decoded(args, args.baseline_checkpoint, len(references[0]), console)
    elif args.baseline:
        baseline = str(args.baseline)
        texts[baseline] = args.baseline
    for checkpoint in args.checkpoint:
        if str(checkpoint) not in texts:
            texts[str(checkpoint)] = _decoded(args, checkpoint, len(references[0]), console)
    texts.update({str(path): path for path in args.hypotheses})
    result = compare(
        {name: read_lines(path) for name, path in texts.items()},
        references,
        baseline,
        args.metrics,
        args.bootstrap_samples,
    )
    _print(result, baseline, console)
    scored = ", ".join(dict.fromkeys(str(path) for path in texts.values()))
    against = ", ".join(map(str, args.reference))
    console.print(
        f"scored: detokenised text {scored} against {against}", highlight=False, soft_wrap=True
    )
    if args.json:
        content = {
            "baseline": baseline,
            "signatures": result.signatures,
            "references": [str(path) for path in args.reference],
            "systems": {
                name: {"text": str(texts[name]), **scores.as_dict()}
                for name, scores in result.systems.items()
            },
        }
        write_text(args.json, json.dumps(content, indent=1) + "\n")


def _decoded(args: argparse.Namespace, checkpoint: Path, lines: int, console: Console) -> Path:
    """Decode with one checkpoint; returns the file of detokenised text."""
    for option in ("data", "sentencepiece"):
        if getattr(args, option) is None:
            raise RecipeError(f"--checkpoint needs --{option}")
    for path in (checkpoint, args.data, args.sentencepiece):
        if not path.exists():
            raise RecipeError(f"{path} does not exist")
    languages = _languages(args)
    command = generate_command(
        checkpoint,
        args.data,
        languages,
        args.split,
        args.beam,
        args.lenpen,
        ["--max-tokens", str(args.max_tokens), *shlex.split(args.generate_flags)],
        args.fp16,
    )
    # The whole path, so that checkpoint_best.pt of two runs do not write the same file.
    name = "_".join(part for part in checkpoint.with_suffix("").parts if part not in ("/", ".."))
    output = args.output_dir / f"{name}.{args.split}.beam{args.beam}.{languages[1]}"
    console.print(f"$ {command}", highlight=False, markup=False, soft_wrap=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    progress = generation_progress(say, lines)
    decode(command.argv(), output, args.sentencepiece, f"decode {checkpoint}", lines, progress)
    return output


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


def _labels(names: list[str]) -> dict[str, str]:
    """The shortest ends of the paths that tell them apart, two parts at least."""
    for count in range(2, max(len(Path(name).parts) for name in names)):
        short = {name: str(Path(*Path(name).parts[-count:])) for name in names}
        if len(set(short.values())) == len(names):
            return short
    return {name: name for name in names}


def _print(result: Comparison, baseline: str | None, console: Console) -> None:
    labels = _labels(list(result.systems))
    table = Table()
    table.add_column("system", overflow="fold")
    for name in result.signatures:
        table.add_column(name, justify="right")
    table.add_column("length ratio", justify="right")
    for system, row in result.systems.items():
        cells = []
        for name in result.signatures:
            score = row.scores[name]
            text = f"{score.value:.2f}"
            if score.p_value is not None and baseline is not None:
                difference = score.value - result.systems[baseline].scores[name].value
                text += f" ({difference:+.2f}, p={score.p_value:.3f})"
            cells.append(text)
        label = f"{labels[system]} (baseline)" if system == baseline else labels[system]
        table.add_row(label, *cells, f"{row.length_ratio:.3f}")
    console.print(table)
    for name, signature in result.signatures.items():
        console.print(f"{name}: {signature}", highlight=False, soft_wrap=True)
