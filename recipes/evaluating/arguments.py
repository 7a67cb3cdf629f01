"""The command line of ``python -m recipes evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from recipes.errors import RecipeError
from recipes.schema.evaluation import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate``."""
    default = Evaluation()
    parser.usage = "%(prog)s [options] [-- flags of fairseq-generate]"
    systems = parser.add_argument_group("systems to score (at least one)")
    systems.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        type=Path,
        help="decode with fairseq-generate; A.pt:B.pt is an ensemble, a folder needs --average",
    )
    systems.add_argument(
        "--average", type=int, metavar="N", help="of a folder, average the last N checkpoints"
    )
    systems.add_argument(
        "--hypotheses",
        nargs="+",
        default=[],
        type=Path,
        help="detokenised text, one line each, or a file of what fairseq-generate printed",
    )
    systems.add_argument(
        "--baseline-checkpoint", type=Path, help="compare with this checkpoint's output"
    )
    systems.add_argument("--baseline", type=Path, help="compare with these hypotheses")
    references = parser.add_argument_group("references (one of the two)")
    references.add_argument(
        "--reference",
        nargs="+",
        default=[],
        type=Path,
        help="the original text, never segmented; several files are several references",
    )
    references.add_argument("--test-set", help="sacrebleu's, as in sacrebleu -t wmt14")
    references.add_argument("--language-pair", help="of the test set, as in sacrebleu -l en-de")
    decoding = parser.add_argument_group("decoding (for checkpoints)")
    decoding.add_argument("--data", type=Path, help="folder written by fairseq-preprocess")
    decoding.add_argument("--split", default="test", help="valid, test, test1 ... (%(default)s)")
    decoding.add_argument("--source-lang", help="default: from the file names in --data")
    decoding.add_argument("--target-lang", help="default: from the file names in --data")
    decoding.add_argument(
        "--sentencepiece",
        type=Path,
        help="model the target was segmented with; without it fairseq's own --remove-bpe, --bpe "
        "or --tokenizer after -- make the text",
    )
    decoding.add_argument("--beam", type=int, default=5, help="beam size (%(default)s)")
    decoding.add_argument("--lenpen", type=float, default=1.0, help="length penalty (%(default)s)")
    decoding.add_argument("--max-tokens", type=int, default=8000, help="per batch (%(default)s)")
    decoding.add_argument(
        "--generate-flags", default="", help="flags as after --, as one string, for scripts"
    )
    decoding.add_argument("--fp16", action="store_true", help="half precision, on a GPU")
    decoding.add_argument(
        "--output-dir",
        type=Path,
        default=Path("runs/evaluate"),
        help="where the detokenised output goes (%(default)s)",
    )
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--metrics",
        nargs="+",
        default=default.metrics,
        help="bleu, chrf, ter, comet, or module:function of your own (%(default)s)",
    )
    scoring.add_argument("--source", type=Path, help="the source text, for metrics that read it")
    scoring.add_argument(
        "--comet-model", default=default.comet_model, help="name or checkpoint file (%(default)s)"
    )
    scoring.add_argument("--tokenize", help="BLEU's tokeniser, as in sacrebleu (13a)")
    scoring.add_argument(
        "--lowercase", action="store_true", help="BLEU without case, as in sacrebleu"
    )
    scoring.add_argument(
        "--chrf-word-order", type=int, default=0, help="as in sacrebleu; 2 is chrF++ (%(default)s)"
    )
    scoring.add_argument(
        "--bootstrap-samples",
        type=int,
        default=default.bootstrap_samples,
        help="resamples of the bootstrap that gives the intervals (%(default)s)",
    )
    scoring.add_argument(
        "--randomization-trials",
        type=int,
        default=default.randomization_trials,
        help="shuffles of approximate randomisation, 0 for no test (%(default)s)",
    )
    scoring.add_argument(
        "--length-buckets",
        nargs="+",
        type=int,
        default=default.length_buckets,
        metavar="WORDS",
        help="longest reference of each bucket but the last (%(default)s)",
    )
    scoring.add_argument(
        "--smallest-bucket",
        type=int,
        default=default.smallest_bucket,
        help="sentences; smaller buckets are merged with a neighbour (%(default)s)",
    )
    parser.add_argument(
        "--json", type=Path, help="also write the figures to this file; - prints them alone"
    )
    parser.set_defaults(search_flags=[])


def split_search_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """``evaluate``'s own arguments, and those after ``--``, which fairseq-generate gets."""
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    cut = arguments.index("--")
    return arguments[:cut], arguments[cut + 1 :]


def check_arguments(args: argparse.Namespace) -> None:
    """Check what argparse cannot.

    Raises:
        RecipeError: options that are missing, or contradict each other.
    """
    if args.baseline and args.baseline_checkpoint:
        raise RecipeError("give either --baseline or --baseline-checkpoint, not both")
    if not args.checkpoint and not args.hypotheses:
        raise RecipeError("nothing to score: give --checkpoint or --hypotheses")
    if bool(args.reference) == bool(args.test_set):
        raise RecipeError(
            "give the reference: either --reference FILE ... or --test-set NAME --language-pair "
            "SRC-TGT"
        )
    if args.average is not None and args.average < 1:
        raise RecipeError(f"--average {args.average}: at least 1 checkpoint")
    if bool(args.test_set) != bool(args.language_pair):
        raise RecipeError("--test-set NAME and --language-pair SRC-TGT go together")
    if args.language_pair and args.language_pair.count("-") != 1:
        raise RecipeError(f"--language-pair {args.language_pair}: expected SRC-TGT, as en-de")
