"""``python -m recipes``: list, show, run, report, evaluate."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from rich.console import Console

from recipes.errors import RecipeError
from recipes.evaluating import command as evaluate_command
from recipes.evaluating.arguments import add_arguments, split_search_flags
from recipes.reporting.report import load_results, print_results, write_report
from recipes.schema.reading import load_recipe, recipe_names, recipe_text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="recipes that come with the package")
    a_name = "a recipe's name, or the path of your own .yaml file"
    setting = "change a key of the recipe, as arms.NAME.flags='--lr 1e-4'; KEY+=VALUE appends"
    settings = {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": setting}
    copies = {"type": Path, "help": "also write the report here, as NAME.md"}

    show = commands.add_parser("show", help="print a recipe as YAML, with all that its bases give")
    show.add_argument("name", help=a_name)
    show.add_argument("--set", **settings)

    run = commands.add_parser("run", help="run a recipe; what is up to date is skipped")
    add = run.add_argument
    add("name", help=a_name)
    add("--data-dir", type=Path, help="folder of the text files PREFIX.LANG, not downloads")
    cache = "where downloads are kept ($XDG_CACHE_HOME/fairseq-sequence-training)"
    add("--cache-dir", type=Path, help=cache)
    add("--work-dir", type=Path, help="where everything goes (runs/NAME)")
    add("--dry-run", action="store_true", help="print the commands, run nothing")
    add("--set", **settings)
    seeds = (
        "train everything, from cross-entropy to the arms, with each of these seeds; one that is "
        "not the recipe's own makes start.seedN and NAME.seedN (default: the recipe's own)"
    )
    add("--seeds", type=_numbers, default=(), metavar="N,N", help=seeds)
    shared = "with --seeds: the arms of all seeds start from the recipe's own start"
    add("--shared-start", action="store_true", help=shared)
    arms = "train these arms and the control alone; others count if they are finished (all)"
    add("--arms", type=_names, default=(), metavar="NAME,NAME", help=arms)
    control = "beside every arm with a reward, train NAME.constant_reward, whose reward is always 1"
    add("--control", choices=["constant-reward"], help=control)
    jobs = "train and decode N arms side by side; CPU threads and GPUs are divided (%(default)s)"
    add("--jobs", type=int, default=1, metavar="N", help=jobs)
    launcher = "start fairseq-train and fairseq-generate through it, as 'srun --gpus 1'"
    add("--launcher", type=shlex.split, default=(), metavar="COMMAND", help=launcher)
    redo = "redo a stage, as 'evaluate'"
    add("--redo", action="append", default=[], metavar="STAGE", help=redo)
    add("--until", metavar="STAGE", help="end after a stage, as 'preprocess'")
    taken = "take what is there, as commands of --dry-run wrote it, for made by this recipe"
    add("--take-over", action="store_true", help=taken)
    add("--results-dir", **copies)

    report = commands.add_parser("report", help="write the report of a finished run again")
    report.add_argument("name", help=a_name)
    report.add_argument("--work-dir", type=Path, help="folder of the run (runs/NAME)")
    texts = "folder of the original text, for the examples, unless it lies in the run's folder"
    report.add_argument("--data-dir", type=Path, help=texts)
    report.add_argument("--results-dir", **copies)
    evaluate = commands.add_parser("evaluate", help="score checkpoints or text, and compare them")
    add_arguments(evaluate)
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (-1,)
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers with commas between, as 1,2")
    return numbers


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def run_arguments(args: argparse.Namespace) -> list[str]:
    """The arguments that say what is run, and through which launcher."""
    said = ["run", args.name]
    for option in ("data_dir", "cache_dir", "work_dir", "control", "results_dir"):
        if getattr(args, option, None) is not None:
            said += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    for option in ("seeds", "arms"):
        if getattr(args, option):
            said += [f"--{option}", ",".join(map(str, getattr(args, option)))]
    said += ["--shared-start"] * args.shared_start
    if args.launcher:
        said += ["--launcher", shlex.join(args.launcher)]
    for setting in args.set:
        said += ["--set", setting]
    return said


def _list(console: Console) -> None:
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        recipe = load_recipe(name)
        data = recipe.data
        first = recipe.description.strip().split(". ")[0].rstrip(".")
        facts = [data.size, f"licence: {data.licence}" * bool(data.licence)]
        facts += [] if data.tried else ["download not tried"]
        console.print(f"{name:<{width}}  {first}", highlight=False, soft_wrap=True)
        known = "; ".join(filter(None, facts))
        console.print(f"{'':<{width}}  {known}", highlight=False, soft_wrap=True)


def _run(args: argparse.Namespace, console: Console) -> None:
    from recipes.pipeline import run_recipe
    from recipes.running.run import Run

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    recipe = load_recipe(args.name, args.set)
    work_dir = args.work_dir or Path("runs") / recipe.name
    run = Run(
        recipe,
        work_dir,
        args.data_dir,
        say,
        dry_run=args.dry_run,
        redo=tuple(args.redo),
        cache_dir=args.cache_dir,
        seeds=args.seeds,
        arms=args.arms,
        constant_reward=args.control == "constant-reward",
        jobs=args.jobs,
        until=args.until,
        take_over=args.take_over,
        arguments=run_arguments(args),
        shared_start=args.shared_start,
        launcher=args.launcher,
    )
    if run_recipe(run) and not args.dry_run:
        _report(work_dir, args.results_dir, args.data_dir, console)


def _report(
    work_dir: Path, results_dir: Path | None, data_dir: Path | None, console: Console
) -> None:
    written = write_report(work_dir, results_dir, data_dir)
    print_results(load_results(work_dir / "results.json"), console)
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)
    console.print(f"everything lies in {work_dir}", highlight=False, soft_wrap=True)


def _terminated(number: int, frame: object) -> None:
    """Let a SIGTERM unwind like Ctrl-C, so that the running fairseq command is ended too."""
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    argv, search_flags = split_search_flags(given)
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "evaluate":
        args.search_flags = search_flags
        args.command_line = shlex.join(["python", "-m", "recipes", *given])
    elif search_flags:
        parser.error(f"only evaluate takes flags after --, not {args.command}")
    console = Console()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if args.command == "list":
            _list(console)
        elif args.command == "show":
            console.print(recipe_text(args.name, args.set), end="", markup=False, soft_wrap=True)
        elif args.command == "run":
            _run(args, console)
        elif args.command == "report":
            name = load_recipe(args.name).name
            work_dir = args.work_dir or Path("runs") / name
            _report(work_dir, args.results_dir, args.data_dir, console)
        else:
            evaluate_command.main(args, console)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"error: {named}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
