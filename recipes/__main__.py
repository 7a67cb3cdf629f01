"""``python -m recipes``: list, show, run, report, evaluate."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from recipes import evaluate_command
from recipes.config import load_recipe, recipe_names, recipe_text
from recipes.errors import RecipeError
from recipes.report import load_results, print_table, write_report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="recipes that come with the package")
    show = commands.add_parser("show", help="print a recipe's file")
    show.add_argument("name")
    run = commands.add_parser("run", help="run a recipe; what is up to date is skipped")
    run.add_argument("name", help="a recipe's name, or the path of your own .yaml file")
    run.add_argument(
        "--data-dir", type=Path, help="folder of the text files PREFIX.LANG, in place of downloads"
    )
    run.add_argument(
        "--cache-dir",
        type=Path,
        help="where downloads are kept ($XDG_CACHE_HOME/fairseq-sequence-training)",
    )
    run.add_argument("--work-dir", type=Path, help="where everything goes (runs/NAME)")
    run.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the recipe, as arms.NAME.flags='--lr 1e-4'; KEY+=VALUE appends",
    )
    run.add_argument(
        "--redo", action="append", default=[], metavar="STAGE", help="redo a stage, as 'evaluate'"
    )
    run.add_argument("--results-dir", type=Path, help="also write the report here, as NAME.md")
    report = commands.add_parser("report", help="write the report of a finished run again")
    report.add_argument("name")
    report.add_argument("--work-dir", type=Path, help="folder of the run (runs/NAME)")
    report.add_argument("--results-dir", type=Path, help="also write the report here, as NAME.md")
    evaluate = commands.add_parser("evaluate", help="score checkpoints or text with sacrebleu")
    evaluate_command.add_arguments(evaluate)
    return parser


def _list(console: Console) -> None:
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        recipe = load_recipe(name)
        data = recipe.data
        first = recipe.description.strip().split(". ")[0].rstrip(".")
        facts = [
            text for text in (data.size, f"licence: {data.licence}" * bool(data.licence)) if text
        ]
        console.print(f"{name:<{width}}  {first}", highlight=False, soft_wrap=True)
        if facts:
            console.print(f"{'':<{width}}  {'; '.join(facts)}", highlight=False, soft_wrap=True)


def _run(args: argparse.Namespace, console: Console) -> None:
    from recipes.run import Run
    from recipes.runner import run_recipe

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    recipe = load_recipe(args.name, args.set)
    work_dir = args.work_dir or Path("runs") / recipe.name
    redo = tuple(args.redo)
    run_recipe(Run(recipe, work_dir, args.data_dir, say, args.dry_run, redo, args.cache_dir))
    if not args.dry_run:
        _report(work_dir, args.results_dir, console)


def _report(work_dir: Path, results_dir: Path | None, console: Console) -> None:
    written = write_report(work_dir, results_dir)
    print_table(load_results(work_dir / "results.json"), console)
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)
    console.print(f"everything lies in {work_dir}", highlight=False, soft_wrap=True)


def _terminated(number: int, frame: object) -> None:
    """Let a SIGTERM unwind like Ctrl-C, so that the running fairseq command is ended too."""
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv, search_flags = evaluate_command.split_search_flags(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "evaluate":
        args.search_flags = search_flags
    elif search_flags:
        parser.error(f"only evaluate takes flags after --, not {args.command}")
    console = Console()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if args.command == "list":
            _list(console)
        elif args.command == "show":
            console.print(recipe_text(args.name), end="", markup=False, soft_wrap=True)
        elif args.command == "run":
            _run(args, console)
        elif args.command == "report":
            name = load_recipe(args.name).name
            _report(args.work_dir or Path("runs") / name, args.results_dir, console)
        else:
            evaluate_command.main(args, console)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
