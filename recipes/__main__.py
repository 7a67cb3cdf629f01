"""``python -m recipes``: list, show, run, report, evaluate."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes import evaluating
from recipes.errors import RecipeError
from recipes.reporting.report import load_results, print_results, write_report
from recipes.schema.reading import load_recipe, recipe_names, recipe_text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="recipes that come with the package")
    a_name = "a recipe's name, or the path of your own .yaml file"
    setting = "change a key of the recipe, as arms.NAME.flags='--lr 1e-4'; KEY+=VALUE appends"
    settings: dict[str, Any] = {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": setting,
    }
    copies: dict[str, Any] = {"type": Path, "help": "also write the report here, as NAME.md"}

    show = commands.add_parser("show", help="print a recipe as YAML, with all that its bases give")
    show.add_argument("name", help=a_name)
    show.add_argument("--set", **settings)

    about = "run a recipe; what is up to date is skipped"
    add = commands.add_parser("run", help=about, parents=[_this_time()]).add_argument
    add("name", help=a_name)
    add("--data-dir", type=Path, help="folder of the text files PREFIX.LANG, not downloads")
    cache = "where downloads are kept ($XDG_CACHE_HOME/fairseq-sequence-training)"
    add("--cache-dir", type=Path, help=cache)
    add("--work-dir", type=Path, help="where everything goes (runs/NAME)")
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
    launcher = "start fairseq-train and fairseq-generate through it, as 'srun --gpus 1'"
    add("--launcher", type=shlex.split, default=(), metavar="COMMAND", help=launcher)
    add("--results-dir", **copies)

    report = commands.add_parser("report", help="write the report of a finished run again")
    report.add_argument("name", help=a_name)
    report.add_argument("--work-dir", type=Path, help="folder of the run (runs/NAME)")
    texts = "folder of the original text, for the examples, unless it lies in the run's folder"
    report.add_argument("--data-dir", type=Path, help=texts)
    report.add_argument("--results-dir", **copies)
    scores = "score checkpoints or text, and compare them"
    evaluating.add_arguments(commands.add_parser("evaluate", help=scores))
    return parser


def _this_time() -> argparse.ArgumentParser:
    """The options of ``run`` that say how it is done this time, not what is run."""
    options = argparse.ArgumentParser(add_help=False)
    add = options.add_argument
    add("--dry-run", action="store_true", help="print the commands, run nothing")
    jobs = "train and decode N arms side by side; CPU threads and GPUs are divided (%(default)s)"
    add("--jobs", type=int, default=1, metavar="N", help=jobs)
    redo = "redo a stage, as 'evaluate'"
    add("--redo", action="append", default=[], metavar="STAGE", help=redo)
    add("--until", metavar="STAGE", help="end after a stage, as 'preprocess'")
    taken = "take what is there, as commands of --dry-run wrote it, for made by this recipe"
    add("--take-over", action="store_true", help=taken)
    return options


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


def _list(console: Console) -> None:
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        recipe = load_recipe(name)
        data = recipe.data
        first = recipe.description.strip().split(". ")[0].rstrip(".")
        facts = [data.size, f"licence: {data.licence}" * bool(data.licence)]
        facts += [] if data.tried else ["download not tried"]
        console.print(f"{name:<{width}}  {first}")
        console.print(f"{'':<{width}}  {'; '.join(filter(None, facts))}")


def _run(args: argparse.Namespace, given: list[str], console: Console) -> None:
    from recipes.pipeline import run_recipe
    from recipes.running.run import Run

    recipe = load_recipe(args.name, args.set)
    work_dir = args.work_dir or Path("runs") / recipe.name
    names = ("dry_run", "redo", "cache_dir", "seeds", "arms", "jobs", "until", "take_over")
    options = {name: getattr(args, name) for name in (*names, "shared_start", "launcher")}
    options["constant_reward"] = args.control == "constant-reward"
    options["arguments"] = _this_time().parse_known_args(given)[1]
    run = Run(recipe, work_dir, args.data_dir, console.print, **options)
    if run_recipe(run) and not args.dry_run:
        _report(work_dir, args, console)


def _report(work_dir: Path, args: argparse.Namespace, console: Console) -> None:
    written = write_report(work_dir, args.results_dir, args.data_dir)
    print_results(load_results(work_dir / "results.json"), console)
    for path in written:
        console.print(str(path))
    console.print(f"everything lies in {work_dir}")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    command_line = shlex.join(["python", "-m", "recipes", *given])
    search_flags: list[str] = []  # of fairseq-generate, for evaluate
    if "--" in given:
        cut = given.index("--")
        given, search_flags = given[:cut], given[cut + 1 :]
    parser = _parser()
    args = parser.parse_args(given)
    if search_flags and args.command != "evaluate":
        parser.error(f"only evaluate takes flags after --, not {args.command}")
    # Names and paths of the user's are no markup.
    console = Console(markup=False, highlight=False, soft_wrap=True)
    # A SIGTERM unwinds like Ctrl-C, so that the running fairseq command is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.command == "list":
            _list(console)
        elif args.command == "show":
            console.print(recipe_text(args.name, args.set), end="")
        elif args.command == "run":
            _run(args, given, console)
        elif args.command == "report":
            _report(args.work_dir or Path("runs") / load_recipe(args.name).name, args, console)
        else:
            evaluating.main(args, search_flags, command_line, console)
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
