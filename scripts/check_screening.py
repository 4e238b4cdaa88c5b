"""Does screening keep the winner, and what does it save? Grids drawn where the truth is known, and one that really ran.

    python -m scripts.check_screening --grids 2000
    python -m scripts.check_screening --run out/demo     # the answers of a full run, screened in many other orders

Over the grids of `scripts.raced_grids.likely`, the combination that wins when everything is asked should be kept in 95
of 100 for half of the answers at most; so should one that is truly the best or within a point of it; of 48 equal
combinations one should be called better in at most 5 of 100; effects should come back without bias. Where a rule falls
short that is said, and the exit code is 1. Of grids that are hard to screen nothing is promised; the table shows them.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.folder import load_results
from eval.gold import is_oracle
from eval.summary import scores
from retrieval.console import Parser, stop_politely
from retrieval.stats import ALPHA
from scripts.promises import Claim, judged
from scripts.raced_grids import (
    Bias,
    Outcome,
    World,
    biases,
    equal,
    likely,
    needle,
    outcome,
    outcome_of,
    slightly_better,
)

KEPT: Final = 0.95
CALLS: Final = 0.5
FURTHEST: Final = 3.5
"""Standard errors that a mean of draws may be off."""
PROCESSES: Final = 2
BLOCK: Final = 50
"""Grids drawn with one seed."""
SEED: Final = 20261127
"""Not one of those with which the looks were chosen."""

Drawer = Callable[[np.random.Generator], World]


@dataclass(frozen=True, slots=True)
class Kind:
    """Grids of one kind, and what became of them."""

    name: str
    outcomes: tuple[Outcome, ...]

    def share(self, what: str) -> float:
        """The mean of one figure."""
        return float(np.mean([getattr(one, what) for one in self.outcomes]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, show, judge; 1 when a claim does not hold."""
    parser = Parser(prog="python -m scripts.check_screening", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--grids", type=int, default=2000, help="grids to draw (default: 2000, some minutes)")
    parser.add_argument("--run", type=Path, help="the folder of a run in which everything was asked")
    chosen = parser.parse_args(arguments)
    if chosen.grids < 100:
        parser.error(f"--grids {chosen.grids}: fewer than 100 say nothing about one in twenty; take 1000 or more")
    stop_politely()
    console = Console(width=150)
    if chosen.run:
        console.print(_table("the answers of a real run, asked in other orders", [reordered(chosen.run, chosen.grids)]))
        return 0
    overall, *hard = draw(chosen.grids)
    effects = biases(chosen.grids)
    console.print(
        _table("grids as people may have them, by how many levers do anything", [overall, *by_levers(overall)])
    )
    console.print(_table("grids that are hard to screen; they do not count in the overall figures", hard))
    console.print(_effects(effects))
    return judged(claims(overall, hard, effects), console)


def draw(grids: int) -> list[Kind]:
    """The likely grids, then the hard ones, on two cores; the same number of grids gives the same figures."""
    kinds = {"overall": likely, "48 equal": equal, "48, one is better by 2 points": slightly_better, "a needle": needle}
    with ProcessPoolExecutor(PROCESSES) as pool:
        jobs = {
            name: [pool.submit(_some, drawer, block, min(BLOCK, grids - block)) for block in range(0, grids, BLOCK)]
            for name, drawer in kinds.items()
        }
        return [Kind(name, tuple(one for job in some for one in job.result())) for name, some in jobs.items()]


def by_levers(overall: Kind) -> Iterator[Kind]:
    """The same grids, apart."""
    for levers in range(4):
        yield Kind(f"  {levers} levers", tuple(one for one in overall.outcomes if one.levers == levers))


def reordered(folder: Path, orders: int) -> Kind:
    """A run's own answers, as if they had been asked in so many other orders; its scores stand in for the truth."""
    results = load_results(folder)
    cells = sorted(
        (cell for cell in results.records if not is_oracle(cell.retriever)), key=lambda cell: cell != results.baseline
    )
    rows = np.array([[scores(results, cell)[one.id] for one in results.examples] for cell in cells])
    world = World(dict(zip(cells, rows.mean(axis=1).tolist(), strict=True)), rows.shape[1])
    alike, draw = [one.cluster for one in results.examples], np.random.default_rng(orders)
    found = []
    for _ in range(orders):
        order = draw.permutation(world.n)
        found.append(outcome_of(world, rows[:, order], [alike[place] for place in order]))
    return Kind(str(folder), tuple(found))


def claims(overall: Kind, hard: Sequence[Kind], effects: Sequence[Bias]) -> Iterator[Claim]:
    """What is promised."""
    for text, what in (
        ("the winner of the full grid is kept in 95 of 100", "same"),
        ("the truly best, or one within a point of it, is kept in 95 of 100", "near"),
    ):
        yield Claim(text, overall.share(what) >= KEPT, _percent(overall.share(what)))
    yield Claim(
        "half of the answers at most are asked", overall.share("calls") <= CALLS, _percent(overall.share("calls"))
    )
    alarms = hard[0].share("adopted")
    yield Claim("of 48 equal combinations one is adopted in 5 of 100 at most", alarms <= ALPHA, _percent(alarms))
    off = max(abs(one.first - one.truth) / one.first_error for one in effects)
    yield Claim("effects come back without bias", off < FURTHEST, f"furthest {off:.1f} standard errors")


def _some(drawer: Drawer, seed: int, grids: int) -> list[Outcome]:
    draw = np.random.default_rng([SEED, seed])
    return [outcome(drawer(draw), draw) for _ in range(grids)]


def _table(title: str, kinds: Sequence[Kind]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    table.add_column("grids of")
    heads = (
        "grids",
        "same winner",
        "best or 1 pt",
        "truly best",
        "points lost",
        "in full",
        "calls",
        "p90",
        "with oracle",
    )
    for head in (*heads, "adopted"):
        table.add_column(head, justify="right")
    for kind in kinds:
        if not kind.outcomes:
            continue
        table.add_row(
            kind.name,
            str(len(kind.outcomes)),
            *(_percent(kind.share(what)) for what in ("same", "near", "best")),
            *(f"{100 * kind.share(what):.2f}" for what in ("loss", "loss_in_full")),
            _percent(kind.share("calls")),
            _percent(float(np.quantile([one.calls for one in kind.outcomes], 0.9))),
            *(_percent(kind.share(what)) for what in ("calls_with_oracle", "adopted")),
        )
    return table


def _effects(effects: Sequence[Bias]) -> Table:
    table = Table(
        title="effects of levers, in points", title_justify="left", box=None, header_style="dim", pad_edge=False
    )
    for head in ("level", "planted", "first round", "its error", "all that was asked", "its error"):
        table.add_column(head, justify="right")
    for one in effects:
        values = (one.truth, one.first, one.first_error, one.own, one.own_error)
        table.add_row(one.level, *(f"{100 * value:+.2f}" for value in values))
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
