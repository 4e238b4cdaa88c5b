"""The front door: `python -m eval plan GRID [--out DIR] | run GRID [--out DIR] | report RUN [--embedder MODEL]`.

Turns what people type into calls, and what goes wrong into sentences.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from eval.analysis import analyse
from eval.folder import load_results
from eval.grid import load_grid
from eval.leaks import find_leaks
from eval.plan import plan, read_earlier
from eval.plan_terminal import show_plan
from eval.record import RunError
from eval.report import save
from eval.run import run
from eval.shown import refuse_test_questions
from eval.terminal import show
from retrieval.console import Parser, stop_politely, tell_progress
from retrieval.embed import PACKAGED, Embedder, locate
from retrieval.files import FileError
from retrieval.passage import RetrievalError
from serve.chat import ServeError

log = logging.getLogger(__name__)

USUAL: Final = (FileError, RetrievalError, ServeError, RunError, OSError)
"""What a person can mend; anything else is our mistake and keeps its traceback."""
WIDE: Final = 120
"""Columns of a table that goes to a file or a pipe; a terminal says itself how wide it is."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when something is wrong or answers are missing."""
    tell_progress("eval", "serve", "retrieval")
    stop_politely()  # in-flight questions are dropped, the engine is stopped, every answer is kept
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except USUAL as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. Every answer so far is kept; the same command goes on from here.", file=sys.stderr)
    return 1


def _plan(options: argparse.Namespace) -> int:
    grid = load_grid(options.grid)
    refuse_test_questions(grid)
    place = ["--out", str(options.out)] if options.out else []
    command = ["python", "-m", "eval", "run", str(options.grid), *place]
    show_plan(plan(grid, read_earlier(grid, _folder(options))), command, _console())
    return 0


def _run(options: argparse.Namespace) -> int:
    grid, folder = load_grid(options.grid), _folder(options)
    results = run(grid, folder)
    _report(folder)
    if missing := sum(map(results.missing, results.records)):
        log.error(
            "%d answers missing; %s/failures.jsonl says why. The same command asks only for those.", missing, folder
        )
    return int(missing > 0)


def _report(folder: Path, embedder: str = "") -> int:
    results = load_results(folder)
    embed = Embedder(locate(embedder)).passages if embedder else None
    analysis = analyse(results, find_leaks(results, folder, embed))
    show(analysis, save(analysis, folder), _console())
    return 0


def _folder(options: argparse.Namespace) -> Path:
    """The run's folder."""
    chosen: Path | None = options.out
    return chosen or Path("out", options.grid.stem)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m eval",
        description="Find out which lever moves your model: a prompt, retrieval, or an adapter.",
        epilog="example: python -m eval run out/demo/world/grid.yaml --out out/demo",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ahead = commands.add_parser(
        "plan",
        help="what a run would take, and what difference it could see",
        description="Say what a run would ask and take, and the smallest difference it can show. Asks nothing.",
        epilog="example: python -m eval plan out/demo/world/grid.yaml --out out/demo",
    )
    ask = commands.add_parser(
        "run",
        help="answer what is not answered yet, and report",
        description="Ask every question of the task in every combination of the grid. The same command resumes.",
        epilog="example: python -m eval run out/demo/world/grid.yaml --out out/demo",
    )
    for command, does in ((ahead, _plan), (ask, _run)):
        command.add_argument("grid", type=Path, metavar="GRID", help="a grid.yaml")
        command.add_argument(
            "--out", type=Path, metavar="DIR", help="the run's folder (default: out/<name of the grid file>)"
        )
        command.set_defaults(command=does)
    report = commands.add_parser(
        "report",
        help="make the report of a run again",
        description="Make a run's report and the files beside it again from its folder, asking nothing.",
        epilog="example: python -m eval report out/demo",
    )
    report.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    report.add_argument(
        "--embedder",
        default="",
        metavar="MODEL",
        help=f"look for test questions in other words too, by a folder or {PACKAGED} (minutes for 10,000 texts)",
    )
    report.set_defaults(command=lambda options: _report(options.folder, options.embedder))
    return parser


if __name__ == "__main__":
    sys.exit(main())
