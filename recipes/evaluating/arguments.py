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
    parser.set_defaults(search_flags=[])

    add = parser.add_argument_group("systems to score (at least one)").add_argument
    checkpoints = "decode with fairseq-generate; A.pt:B.pt is an ensemble, a folder needs --average"
    add("--checkpoint", nargs="+", default=[], type=Path, help=checkpoints)
    add("--average", type=int, metavar="N", help="of a folder, average the last N checkpoints")
    texts = "detokenised text, one line each, or a file of what fairseq-generate printed"
    add("--hypotheses", nargs="+", default=[], type=Path, help=texts)
    add("--baseline-checkpoint", type=Path, help="compare with this checkpoint's output")
    add("--baseline", type=Path, help="compare with these hypotheses")

    add = parser.add_argument_group("references (one of the two)").add_argument
    original = "the original text, never segmented; several files are several references"
    add("--reference", nargs="+", default=[], type=Path, help=original)
    add("--test-set", help="sacrebleu's, as in sacrebleu -t wmt14")
    add("--language-pair", help="of the test set, as in sacrebleu -l en-de")
    add("--source", type=Path, help="the source text, for metrics that read it")

    add = parser.add_argument_group("decoding (for checkpoints)").add_argument
    add("--data", type=Path, help="folder written by fairseq-preprocess")
    add("--split", default="test", help="valid, test, test1 ... (%(default)s)")
    add("--source-lang", help="default: from the file names in --data")
    add("--target-lang", help="default: from the file names in --data")
    model = (
        "model the target was segmented with; without it fairseq's own --remove-bpe, --bpe or "
        "--tokenizer after -- make the text"
    )
    add("--sentencepiece", type=Path, help=model)
    add("--beam", type=int, default=5, help="beam size (%(default)s)")
    add("--lenpen", type=float, default=1.0, help="length penalty (%(default)s)")
    add("--max-tokens", type=int, default=8000, help="per batch (%(default)s)")
    add("--generate-flags", default="", help="flags as after --, as one string, for scripts")
    add("--fp16", action="store_true", help="half precision, on a GPU")
    folder = "where the detokenised output goes (%(default)s)"
    add("--output-dir", type=Path, default=Path("runs/evaluate"), help=folder)

    add = parser.add_argument_group("scoring").add_argument
    metrics = "bleu, chrf, ter, comet, or module:function of your own (%(default)s)"
    add("--metrics", nargs="+", default=default.metrics, help=metrics)
    add("--comet-model", default=default.comet_model, help="name or checkpoint file (%(default)s)")
    add("--tokenize", help="BLEU's tokeniser, as in sacrebleu (13a)")
    add("--lowercase", action="store_true", help="BLEU without case, as in sacrebleu")
    order = "as in sacrebleu; 2 is chrF++ (%(default)s)"
    add("--chrf-word-order", type=int, default=default.chrf_word_order, help=order)
    resamples = "resamples of the bootstrap that gives the intervals (%(default)s)"
    add("--bootstrap-samples", type=int, default=default.bootstrap_samples, help=resamples)
    shuffles = "shuffles of approximate randomisation, 0 for no test (%(default)s)"
    add("--randomization-trials", type=int, default=default.randomization_trials, help=shuffles)
    longest = {"metavar": "WORDS", "help": "longest reference of each bucket but the last"}
    add("--length-buckets", nargs="+", type=int, default=default.length_buckets, **longest)
    merged = "sentences; smaller buckets are merged with a neighbour (%(default)s)"
    add("--smallest-bucket", type=int, default=default.smallest_bucket, help=merged)

    figures = "also write the figures to this file; - prints them alone"
    parser.add_argument("--json", type=Path, help=figures)


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
