"""Where in a prompt, and among how many passages, does a model still see the one that matters? A heat map of both.

    python -m scripts.needle write out/demo/world/grid.yaml --company lexical
    python -m eval run out/demo/world/needle_grid.yaml --out out/demo-needle
    python -m scripts.needle map out/demo-needle

What `write` makes is an ordinary grid beside the one it is given: oracle arms in company (`gold-NAME`), in which the
marked evidence stands at each depth among each number of passages. So the same questions are asked at every depth and
length, and pairs, cache, intervals and blame are the usual ones. After RULER (Hsieh et al. 2024, arXiv 2404.06654) and
Lost in the Middle (Liu et al. 2023, arXiv 2307.03172), with passages that the search itself takes for the evidence.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.folder import load_results
from eval.gold import AMONG
from eval.grid import load_grid
from eval.record import RunError
from eval.report import page
from eval.wording import counted, p_value, points, span
from retrieval.console import Parser
from retrieval.files import FileError, read_yaml, write_atomically
from retrieval.settings import Kind
from scripts.needle_map import Effect, Map, maps
from serve.chat import ServeError
from serve.combination import GOLD, NONE

LENGTHS: Final = (2, 4, 8, 16)
DEPTHS: Final = (0, 25, 50, 75, 100)
WRITTEN: Final = ("needle_stack.yaml", "needle_grid.yaml")


def write(grid: Path, company: str, kind: Kind | None, lengths: Sequence[int], depths: Sequence[int]) -> Path:
    """The stack and the grid of the sweep, beside the grid they are made from, whose paths they keep."""
    given = load_grid(grid)
    if company not in given.stack.retrievers or given.stack.file is None:
        known = ", ".join(given.stack.retrievers) or "none"
        raise RunError(f"{grid}: the stack has no retriever {company!r} to find company with; it has {known}")
    stack_file, grid_file = (given.stack.file.parent / WRITTEN[0], grid.parent / WRITTEN[1])
    stack: dict[str, Any] = read_yaml(given.stack.file, dict[str, Any])
    written: dict[str, Any] = read_yaml(grid, dict[str, Any])
    found = stack["retrievers"][company] | ({"kind": kind} if kind else {})
    needles = {
        f"{length}-at-{depth}": {**found, "k": length, "order": depth / 100} for length in lengths for depth in depths
    }
    # What strategies need stays: only what the grid searches is new.
    stack["retrievers"] = {**stack["retrievers"], **needles}
    adapters, strategies = written["adapters"], written["strategies"]
    written |= {
        "stack": str(Path(written["stack"]).parent / WRITTEN[0]),
        "retrievers": [NONE, GOLD, *(f"{AMONG}{name}" for name in needles)],
        "baseline": f"{adapters[0]}:{NONE}:{strategies[0]}",
    }
    written = {key: value for key, value in written.items() if key not in ("only", "screen")}
    write_atomically(stack_file, _HEAD + yaml.safe_dump(stack, sort_keys=False, allow_unicode=True))
    write_atomically(grid_file, _HEAD + yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    return grid_file


_HEAD: Final = "# Made by scripts.needle: the marked evidence at each depth (in percent) among so many passages.\n"


def show(found: Sequence[Map], console: Console) -> None:
    """Print each map and what it comes to."""
    for one in found:
        console.print(Text(f"{one.way}: right in percent, of {counted(one.n, 'question')} with marked evidence"))
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("passages", "tokens", *(f"at {depth}%" for depth in one.depths)):
            table.add_column(heading, justify="right", no_wrap=True)
        if one.alone:
            table.add_row("alone", f"{one.alone.tokens:.0f}", _figure(one.alone.score), *[""] * (len(one.depths) - 1))
        for length in one.lengths:
            row = [one.cells[length, depth] for depth in one.depths]
            table.add_row(f"{length}", f"{row[0].tokens:.0f}", *(_figure(cell.score) for cell in row))
        console.print(table)
        for sentence in map(said, one.effects):
            console.print(Text(sentence))
        console.print()


def _figure(score: Any) -> str:
    return f"{100 * score.value:.0f} ({100 * score.low:.0f} to {100 * score.high:.0f})"


def said(effect: Effect) -> str:
    """An effect as a sentence.

    >>> from retrieval.stats import paired
    >>> said(Effect("2 passages against 16", paired([1.0] * 9, [1.0] * 8 + [0.0]), 0.8))
    '2 passages against 16: +11.1 points (−16.6 to +34.8), Holm-corrected p = 0.80: not clear.'
    """
    clear = "" if effect.is_clear else ": not clear"
    figures = f"{points(effect.difference.estimate.value)} points ({span(effect.difference.estimate)})"
    return f"{effect.name}: {figures}, Holm-corrected {p_value(effect.p_holm)}{clear}."


def render(found: Sequence[Map], name: str) -> str:
    """The page: no script in it, and no request to any host."""
    here = Path(__file__).parent
    return page("needle.html.jinja", ("report.css",), here, maps=found, name=name, said=said)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        for line in options.command(options):
            print(line)
    except (FileError, RunError, ServeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _write(options: argparse.Namespace) -> Iterator[str]:
    made = write(options.grid, options.company, options.kind, options.lengths, options.depths)
    yield f"wrote {made}; next: python -m eval run {made} --out out/needle"


def _map(options: argparse.Namespace) -> Iterator[str]:
    results = load_results(options.run)
    found = maps(results)
    show(found, Console() if sys.stdout.isatty() else Console(width=120))
    written = options.run / "needle.html"
    write_atomically(written, render(found, results.config.task.name))
    yield f"Map: {written}"


def _parser() -> Parser:
    parser = Parser(
        description="Right answers by where the evidence stands in the prompt, and among how many passages.",
        epilog="example: python -m scripts.needle write out/demo/world/grid.yaml --company lexical",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    first = commands.add_parser(
        "write",
        help="the grid of the sweep",
        description="Write needle_stack.yaml and needle_grid.yaml beside a grid: its adapters and strategies, over "
        "oracle arms in which the evidence stands at each depth among each number of passages.",
        epilog="example: python -m scripts.needle write out/demo/world/grid.yaml --company lexical --lengths 4 16",
    )
    first.add_argument("grid", type=Path, metavar="GRID")
    first.add_argument("--company", required=True, metavar="NAME", help="a retriever of the stack: finds the others")
    first.add_argument("--kind", choices=get_args(Kind), help="search its index this way instead; `random` is by lot")
    first.add_argument("--lengths", type=_length, nargs="+", default=LENGTHS, metavar="N", help="passages in all")
    first.add_argument("--depths", type=_depth, nargs="+", default=DEPTHS, metavar="PERCENT", help="0 first, 100 last")
    first.set_defaults(command=_write)
    second = commands.add_parser(
        "map",
        help="the heat map of a run of it",
        description="Print the heat map of a run of that grid and write it as needle.html into the run's folder.",
        epilog="example: python -m scripts.needle map out/demo-needle",
    )
    second.add_argument("run", type=Path, metavar="RUN")
    second.set_defaults(command=_map)
    return parser


def _length(text: str) -> int:
    if int(text) < 2:
        raise argparse.ArgumentTypeError("the evidence and at least one other: 2 or more (alone it is `gold`)")
    return int(text)


def _depth(text: str) -> int:
    if not 0 <= int(text) <= 100:
        raise argparse.ArgumentTypeError("a depth is from 0 (first) to 100 (last)")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
