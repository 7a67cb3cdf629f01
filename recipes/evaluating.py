"""``python -m recipes evaluate``: any fairseq checkpoint, or any text, scored and compared."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from rich.console import Console

from recipes.data.test_sets import read_test_set
from recipes.errors import RecipeError
from recipes.fairseq_commands import decoding
from recipes.fairseq_commands.checkpoints import average_checkpoints, last_checkpoints
from recipes.fairseq_commands.commands import generate_command
from recipes.reporting import tables
from recipes.schema.checks import check_evaluation
from recipes.schema.flags import flag_value
from recipes.schema.recipe import Evaluation, TextSource
from recipes.scoring.comparison import Comparison, evaluate
from recipes.scoring.metrics import METRICS, MetricOptions, metric_facts
from recipes.text import Say, file_hash, read_lines, write_lines, write_text

_SCHEMA = 5  # it says what command made it, of which files
_STDOUT = Path("-")
_FEW_DIFFERENCES = 20  # lines
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate``."""
    default = Evaluation()
    parser.usage = "%(prog)s [options] [-- flags of fairseq-generate]"

    systems = parser.add_argument_group("systems to score (at least one)")
    add = systems.add_argument
    checkpoints = "decode with fairseq-generate; A.pt:B.pt is an ensemble, a folder needs --average"
    add("--checkpoint", nargs="+", default=[], type=Path, help=checkpoints)
    add(
        "--average",
        type=_at_least_one,
        metavar="N",
        help="of a folder, average the last N checkpoints",
    )
    texts = "detokenised text, one line each, or a file of what fairseq-generate printed"
    add("--hypotheses", nargs="+", default=[], type=Path, help=texts)
    add = systems.add_mutually_exclusive_group().add_argument
    add("--baseline-checkpoint", type=Path, help="compare with this checkpoint's output")
    add("--baseline", type=Path, help="compare with these hypotheses")

    references = parser.add_argument_group("references (one of the two)")
    add = references.add_mutually_exclusive_group(required=True).add_argument
    original = "the original text, never segmented; several files are several references"
    add("--reference", nargs="+", default=[], type=Path, help=original)
    add("--test-set", help="sacrebleu's, as in sacrebleu -t wmt14")
    add = references.add_argument
    add("--language-pair", type=_language_pair, help="of the test set, as in sacrebleu -l en-de")
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
    longest = "longest reference (words) of each bucket but the last"
    add("--length-buckets", nargs="+", type=int, default=default.length_buckets, help=longest)
    merged = "sentences; smaller buckets are merged with a neighbour (%(default)s)"
    add("--smallest-bucket", type=int, default=default.smallest_bucket, help=merged)

    figures = "also write the figures to this file; - prints them alone"
    parser.add_argument("--json", type=Path, help=figures)


def main(
    args: argparse.Namespace, search_flags: Sequence[str], command: str, console: Console
) -> None:
    """Decode what needs decoding, then score everything.

    Args:
        search_flags: what came after ``--``, for fairseq-generate.
        command: the shell line of all this, for the JSON.

    Raises:
        RecipeError: something is missing, contradictory, or does not fit together.
    """
    if args.json == _STDOUT:
        console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    if not args.checkpoint and not args.hypotheses:
        raise RecipeError("nothing to score: give --checkpoint or --hypotheses")
    if bool(args.test_set) != bool(args.language_pair):
        raise RecipeError("--test-set NAME and --language-pair SRC-TGT go together")
    metric_facts(args.metrics)  # a wrong name is told before anything is decoded
    known = {f.name for f in dataclasses.fields(Evaluation)} & vars(args).keys()
    target = args.language_pair.split("-")[1] if args.language_pair else None
    options = MetricOptions(**{name: getattr(args, name) for name in known}, target_lang=target)
    check_evaluation(options)
    args.search_flags = [*shlex.split(args.generate_flags), *search_flags]
    _check_search_flags(args.search_flags, args.sentencepiece)
    references, sources = _references(args)
    say, lines = console.print, list(references.values())
    baseline, systems = _systems(args, lines, say)
    texts = {name: read_lines(system.text) for name, system in systems.items()}
    logs = {name: system.log for name, system in systems.items()}
    result = evaluate(texts, lines, baseline, options, sources, logs)
    print_comparison(result, baseline, next(iter(references)), console)
    for line in _notes(texts, references, baseline):
        say(line)
    scored = _scored(list(systems.values()), list(references), len(lines[0]))
    say(scored)
    check = _sacrebleu_command(args, [s.text for s in systems.values()], options, lines)
    if check is not None:
        say(f"the same scores: {check}")
    if args.json:
        read = [*args.reference, *([args.source] if args.source else [])]
        read += [system.text for system in systems.values()]
        rows = {
            name: {
                "text": str(system.text),
                "log": None if system.log is None else str(system.log),
                **dataclasses.asdict(result.systems[name]),
            }
            for name, system in systems.items()
        }
        content = {
            "schema": _SCHEMA,
            "baseline": baseline,
            **vars(result),
            "systems": rows,
            "command": command,
            "sha256": {str(path): file_hash(path) for path in read},
            "references": list(references),
            "bootstrap_samples": args.bootstrap_samples,
            "randomization_trials": args.randomization_trials,
            "scored": scored,
            "sacrebleu": check,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        if args.json == _STDOUT:
            print(text, end="")
        else:
            write_text(args.json, text)


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _language_pair(text: str) -> str:
    if text.count("-") != 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected SRC-TGT, as en-de")
    return text


def _check_search_flags(flags: list[str], sentencepiece: Path | None) -> None:
    """Refuse flags of fairseq-generate that contradict this command's own."""
    for name in (flag.split("=")[0] for flag in flags):
        if name in _REFUSED:
            raise RecipeError(f"{name} after --: {_REFUSED[name]}")
        if name in _WHOLE_WORDS and sentencepiece is not None:
            raise RecipeError(
                f"{name} after --: give either it or --sentencepiece; both undo the segmentation"
            )


def _references(args: argparse.Namespace) -> tuple[dict[str, list[str]], list[str] | None]:
    """Lines of each reference set, by the name it is shown with; and the sources, if known."""
    sources = read_lines(args.source) if args.source else None
    if args.test_set:
        source, target = args.language_pair.split("-")
        test_set = TextSource(sacrebleu=args.test_set, language_pair=args.language_pair)
        pairs = read_test_set(test_set, (source, target))
        name = f"sacrebleu's {args.test_set} {args.language_pair}"
        sets = [list(lines) for lines in zip(*(row for _, row in pairs), strict=True)]
        named = {f"{name}, reference {i}" if i else name: lines for i, lines in enumerate(sets)}
        return named, sources or [line for line, _ in pairs]
    references = {str(path): read_lines(path) for path in args.reference}
    if len(references) < len(args.reference):
        raise RecipeError("--reference names the same file twice")
    counts = {name: len(lines) for name, lines in references.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RecipeError(f"the references differ in their number of lines: {shown}")
    for name, lines in references.items():
        if not any(line.strip() for line in lines):
            raise RecipeError(
                f"{name} is empty ({len(lines)} lines): no reference to score against"
            )
        if sources is not None and len(sources) != len(lines):
            raise RecipeError(
                f"--source {args.source} has {len(sources)} lines, but {name} has {len(lines)}"
            )
    return references, sources


# Systems


@dataclass
class _System:
    """One system: its detokenised text, where that comes from, in words, and fairseq's log."""

    text: Path
    origin: str = ""
    log: Path | None = None


def _systems(
    args: argparse.Namespace, references: list[list[str]], say: Say
) -> tuple[str | None, dict[str, _System]]:
    """The baseline's name, and all systems by name, each only once, the baseline first."""
    baseline = args.baseline_checkpoint or args.baseline
    checkpoints = [args.baseline_checkpoint, *args.checkpoint]
    checkpoints = list(dict.fromkeys(filter(None, checkpoints)))
    paths = dict.fromkeys(filter(None, (baseline, *checkpoints, *args.hypotheses)))
    systems = {
        str(path): _decoded(path, args, references, say)
        if path in checkpoints
        else _given(path, args, references)
        for path in paths
    }
    return None if baseline is None else str(baseline), systems


def _given(path: Path, args: argparse.Namespace, references: list[list[str]]) -> _System:
    """A file of detokenised text, or what fairseq-generate printed.

    A log beside a text of this command's or of a recipe's is used for the probabilities.

    Raises:
        RecipeError: the file does not exist, is in subwords, or its ids are not the references'.
    """
    if not decoding.is_generate_log(path):
        lines, log = read_lines(path), decoding.generate_log(path)
        decoding.check_whole_words(lines, str(path))
        beside = log.is_file() and decoding.is_generate_log(log)
        same = beside and len(decoding.parse_generate(log)) == len(lines)
        return _System(path, log=log if same else None)
    lines = decoding.detokenised(path, args.sentencepiece)
    for number, reference in enumerate(references):
        if len(lines) != len(reference):
            raise RecipeError(
                f"{path}: ids do not match: sentences 0 to {len(lines) - 1}, but reference {number}"
                f" has {len(reference)} lines"
            )
    decoding.check_targets(path, args.sentencepiece, references)
    output = args.output_dir / f"{_file_name(path)}.txt"
    write_lines(output, lines)
    return _System(output, _origin(path, args.sentencepiece), path)


def _decoded(
    checkpoint: Path, args: argparse.Namespace, references: list[list[str]], say: Say
) -> _System:
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
    model = Path(":".join(map(str, files)))
    search = (languages, args.split, args.beam, args.lenpen, flags, args.fp16)
    command = generate_command(model, args.data, *search)
    # Of a flag given twice, fairseq takes the later.
    beam = flag_value(flags, "--beam") or str(args.beam)
    lenpen = float(flag_value(flags, "--lenpen") or args.lenpen)
    name = f"{_file_name(checkpoint)}{f'.average{args.average}' * checkpoint.is_dir()}"
    name += f".{args.split}.beam{beam}" + f".lenpen{lenpen:g}" * (lenpen != 1)
    output = args.output_dir / f"{name}.{languages[1]}"
    say(f"$ {command}")
    lines = len(references[0])
    stage, progress = f"decode {checkpoint}", decoding.generation_progress(say, lines)
    decoding.decode(command.argv(), output, args.sentencepiece, stage, lines, progress)
    log = decoding.generate_log(output)
    decoding.check_targets(log, args.sentencepiece, references)
    return _System(output, _origin(log, args.sentencepiece), log)


def _origin(log: Path, model: Path | None) -> str:
    if model is None:
        return f"D- lines of {log}, as fairseq put them together"
    return f"H- lines of {log}, put together by {model}"


def _averaged(folder: Path, args: argparse.Namespace, say: Say) -> Path:
    """The average of the last checkpoints in ``folder``."""
    if args.average is None:
        raise RecipeError(
            f"{folder} is a folder; name one of its checkpoints, or give --average N for the mean "
            "of its last N"
        )
    paths = last_checkpoints(folder, args.average)
    output: Path = args.output_dir / f"{_file_name(folder)}.average{args.average}.pt"
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


# What is printed


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Paths without the folders, and the file name, that all of them share."""
    parts = [Path(name).parts for name in names]
    if len(names) == 1:
        return {names[0]: str(Path(*parts[0][-2:]))}
    front = _shared(parts)
    rest = [path[front:] for path in parts]
    back = _shared([path[::-1] for path in rest])
    if back == min(map(len, rest)):
        return {name: name for name in names}
    shown = (str(Path(*path[: len(path) - back])) for path in rest)
    return dict(zip(names, shown, strict=True))


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """How many parts all paths begin with."""
    columns = zip(*paths, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def print_comparison(
    result: Comparison, baseline: str | None, reference: str, console: Console
) -> None:
    """Scores and tests, statistics of the outputs, BLEU by length, and the signatures."""
    labels = short_names(list(result.systems))
    to = None if baseline is None else labels[baseline]
    name = Path(reference).name
    # As the results of a recipe with one split and one search.
    view = {
        **vars(result),
        "baseline": to,
        "control": None,
        "selected": None,
        "metrics": metric_facts(list(result.signatures)),
        "searches": {"1": f"{len(result.systems)} systems"},
        f"reference_{tables.REPEATS}": {name: result.reference_consecutive_repeats_per_100_tokens},
        "systems": {
            labels[system]: {
                "arm": labels[system],
                "scores": {name: {"1": {**dataclasses.asdict(scores), "baseline": to}}},
            }
            for system, scores in result.systems.items()
        },
    }
    for table in (tables.score_table, tables.statistics_table, tables.length_table):
        shown = table(view, (name, "1"))
        shown.header[0] = "system"
        tables.print_table(shown, console)
    for line in tables.signatures(view):
        console.print(line, highlight=False, soft_wrap=True)


def _notes(
    texts: dict[str, list[str]], references: dict[str, list[str]], baseline: str | None
) -> list[str]:
    """What a reader of the scores should know: empty lines, and outputs that are nearly equal."""
    notes = []
    others = "; there the other references count" * (len(references) > 1)
    for kind, sides, remark in (("hypotheses", texts, ""), ("references", references, others)):
        for name, lines in sides.items():
            empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
            if empty:
                notes.append(
                    f"note: {len(empty)} of {len(lines)} {kind} of {name} are empty, the first in "
                    f"line {empty[0]}{remark}"
                )
    if baseline is None:
        return notes
    for name, lines in texts.items():
        count = sum(line != other for line, other in zip(lines, texts[baseline], strict=True))
        if 0 < count < _FEW_DIFFERENCES:
            notes.append(
                f"note: {name} and the baseline differ in {count} of {len(lines)} lines; from so "
                "few, the test cannot tell a difference from chance"
            )
    return notes


def _scored(systems: list[_System], references: list[str], lines: int) -> str:
    """One line: which text was scored against what."""
    texts = (f"{system.text}" + f" ({system.origin})" * bool(system.origin) for system in systems)
    kind = f"{len(references)} references" if len(references) > 1 else "1 reference"
    against = f"{', '.join(references)} ({lines} lines, {kind})"
    return f"scored: detokenised text {', '.join(texts)} against {against}"


def _sacrebleu_command(
    args: argparse.Namespace, texts: list[Path], options: MetricOptions, references: list[list[str]]
) -> str | None:
    """The command line of sacrebleu that gives these scores, as far as it has the metrics.

    It has no way to say that a sentence has fewer references than others.
    """
    metrics = [name for name in args.metrics if name in METRICS and METRICS[name].by_sacrebleu]
    fewer = not all(line.strip() for lines in references for line in lines)
    if not metrics or (len(references) > 1 and fewer):
        return None
    test_set = ["-t", args.test_set, "-l", args.language_pair]
    source = test_set if args.test_set else map(str, args.reference)
    command = ["sacrebleu", *source, "-i", *map(str, texts), "-m", *metrics, *options.flags()]
    compared = args.baseline or args.baseline_checkpoint
    if compared and len(texts) > 1 and args.randomization_trials:
        command += ["--paired-ar", "--paired-ar-n", str(args.randomization_trials)]
    return shlex.join(command)
