"""Do the statistics keep their word? Answers drawn where the truth is known, and how often it is found.

    python -m scripts.check_statistics --runs 4000

95 % intervals should hold the truth in at least 92 of 100 draws of every setting and in 94 to 98 on average; of 48
equal combinations one should be called better in at most 5 of 100 draws; planted effects should come back without
bias. Where a rule falls short that is said, and the exit code is 1. Knows nothing of how anything is drawn or judged.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby, product
from operator import attrgetter
from statistics import fmean
from typing import Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from retrieval.console import Parser, stop_politely
from retrieval.stats import ALPHA
from scripts.known_truth import (
    Family,
    Kept,
    Planted,
    Power,
    Price,
    Setting,
    coverage,
    effects,
    family,
    graded,
    power,
    prices,
    settings,
)
from scripts.promises import Claim, judged

LEAST: Final = 0.92
ON_AVERAGE: Final = (0.94, 0.98)
FURTHEST: Final = 3.5
"""Standard errors that a mean of draws may be off: one of 18 would be further in less than one of 100 checks."""
OFTEN: Final = 0.3
"""Where fewer are right, and in clusters, a price hangs on a few of them and its interval is too short."""
PROCESSES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was drawn."""

    kept: list[Kept]
    graded: list[Kept]
    families: list[Family]
    planted: list[Planted]
    prices: list[Price]
    powers: list[Power]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, show, judge; 1 when a claim does not hold."""
    parser = Parser(prog="python -m scripts.check_statistics", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=4000, help="draws of each setting (default: 4000, some minutes)")
    runs = parser.parse_args(arguments).runs
    if runs < 100:
        parser.error(f"--runs {runs}: fewer than 100 draws say nothing about one in twenty; take 1000 or more")
    stop_politely()
    seen = draw(runs)
    console = Console(width=150)
    for table in tables(seen):
        console.print(table)
        console.print()
    return judged(claims(seen), console)


def draw(runs: int) -> Seen:
    """Everything, on two cores; the seeds are fixed, so the same number of runs gives the same figures."""
    fewer, both = max(100, runs // 4), (False, True)
    with ProcessPoolExecutor(PROCESSES) as pool:
        kept = [pool.submit(coverage, one, runs) for one in settings()]
        halves = [pool.submit(graded, one, runs) for one in settings() if one.share == 0.5]
        families = [pool.submit(family, n, clustered, fewer) for n, clustered in product((100, 300), both)]
        planted = [pool.submit(effects, clustered, fewer) for clustered in both]
        costs = [
            pool.submit(prices, n, p, c, fewer) for n, p, c in product((50, 100, 300), (0.05, 0.3, 0.6, 0.95), both)
        ]
        powers = [pool.submit(power, n, q, runs) for n, q in product((100, 300, 1000), (0.1, 0.2, 0.3))]
        jobs: list[Future[object]] = [*kept, *halves, *families, *planted, *costs, *powers]  # type: ignore[list-item]
        for job in track(jobs, description="drawing", console=Console(stderr=True)):
            job.result()
    return Seen(
        kept=[job.result() for job in kept],
        graded=[job.result() for job in halves],
        families=[job.result() for job in families],
        planted=[one for job in planted for one in job.result()],
        prices=[job.result() for job in costs],
        powers=[job.result() for job in powers],
    )


def tables(seen: Seen) -> Iterator[Table]:
    """The figures, in per cent."""
    yield _coverage("95 % intervals, right or wrong: how often they hold the score and the difference", seen.kept)
    yield _coverage("95 % intervals, graded: a change is a quarter of a point, a score 1 or a half", seen.graded)
    yield _table(
        "48 ways: alarms when all are equal (Holm), and whether the best is among the tied",
        ("n", "clustered", "false alarms", "best kept"),
        [(str(one.n), _word(one.clustered), _percent(one.alarms), _percent(one.kept)) for one in seen.families],
    )
    yield _table(
        "planted effects, 100 questions, 12 combinations",
        ("effect", "clustered", "planted", "came back", "its error", "interval holds it"),
        [
            (
                one.name,
                _word(one.clustered),
                *(f"{100 * x:+.2f}" for x in (one.truth, one.found)),
                f"{100 * one.error:.2f}",
                _percent(one.covered),
            )
            for one in seen.planted
        ],
    )
    yield _table(
        "tokens per right answer: how often the interval holds it",
        ("n", "right", "clustered", "ours", "BCa bootstrap"),
        [(str(x.n), str(x.right), _word(x.clustered), _marked(x.ours), _marked(x.bca)) for x in seen.prices],
    )
    yield _table(
        "the smallest difference, and how often it is seen (planned: 80 %)",
        ("n", "discordance", "points", "seen"),
        [(str(x.n), str(x.discordance), f"{100 * x.gain:.1f}", _percent(x.found)) for x in seen.powers],
    )


def claims(seen: Seen) -> Iterator[Claim]:
    """What is promised."""
    yield from _floors("right or wrong", seen.kept)
    yield _average("right or wrong", seen.kept)
    yield from _floors("graded", seen.graded)
    equal = [one for one in (*seen.kept, *seen.graded) if one.setting.gained == 0.5]
    loud = max(equal, key=attrgetter("found"))
    figures = f"most {_percent(loud.found)} ({_said(loud.setting)})"
    text = "two equal ways differ clearly in 5 of 100 at most (and 1 for the luck of the draw)"
    yield Claim(text, loud.found <= ALPHA + 0.01, figures)
    most, fewest = max(one.alarms for one in seen.families), min(one.kept for one in seen.families)
    yield Claim("of 48 equal ways one is called better in 5 of 100 at most", most <= ALPHA, f"most {_percent(most)}")
    yield Claim("the best is among the tied in 95 of 100", fewest >= 1 - ALPHA, f"fewest {_percent(fewest)}")
    off = max(abs(one.found - one.truth) / one.error for one in seen.planted)
    yield Claim("planted effects come back without bias", off < FURTHEST, f"furthest {off:.1f} standard errors")
    short = min(seen.planted, key=attrgetter("covered"))
    yield Claim("their intervals hold in 92 of 100", short.covered >= LEAST, f"lowest {_percent(short.covered)}")
    often, rarely = (min(x.ours for x in seen.prices if (x.right >= OFTEN) == many) for many in (True, False))
    figures = f"lowest {_percent(often)}, and {_percent(rarely)} where fewer are right"
    text = f"intervals of tokens per right answer hold in 92 of 100 where {OFTEN:.0%} or more are right"
    yield Claim(text, often >= LEAST, figures)


def _parts(kept: Sequence[Kept]) -> dict[str, dict[Setting, float]]:
    return {
        f"{part}{', clustered' if clustered else ''}": {
            one.setting: float(getattr(one, part)) for one in kept if one.setting.clustered == clustered
        }
        for part, clustered in product(("score", "difference"), (False, True))
    }


def _floors(name: str, kept: Sequence[Kept]) -> Iterator[Claim]:
    for part, found in _parts(kept).items():
        worst = min(found, key=found.__getitem__)
        wide = sum(value > ON_AVERAGE[1] for value in found.values())
        figures = f"lowest {_percent(found[worst])} ({_said(worst)}); {wide} of {len(found)} are above 98"
        yield Claim(f"{name}, {part}: intervals hold in 92 of 100 of every setting", found[worst] >= LEAST, figures)


def _average(name: str, kept: Sequence[Kept]) -> Claim:
    averages = {part: fmean(found.values()) for part, found in _parts(kept).items()}
    average, (least, most) = fmean(averages.values()), ON_AVERAGE
    figures = f"{_percent(average)} ({'; '.join(f'{part} {_percent(one)}' for part, one in averages.items())})"
    return Claim(f"{name}: intervals hold in 94 to 98 of 100 on average", least <= average <= most, figures)


def _coverage(title: str, kept: Sequence[Kept]) -> Table:
    sizes = sorted({one.setting.n for one in kept})
    rows = []
    for same, group in groupby(sorted(kept, key=lambda one: _kind(one.setting)), key=lambda one: _kind(one.setting)):
        by_size = {one.setting.n: one for one in group}
        figures = (_marked(getattr(by_size[n], part)) for part in ("score", "difference") for n in sizes)
        rows.append((_word(same[0]), f"{same[1]:g}", f"{same[2]:g}", f"{same[3]:.1%}", *figures))
    heads = [f"{part} {n}" for part in ("score", "diff") for n in sizes]
    return _table(title, ("clustered", "right", "discordance", "gain", *heads), rows)


def _kind(setting: Setting) -> tuple[bool, float, float, float]:
    return setting.clustered, setting.share, setting.discordance, setting.gain


def _said(setting: Setting) -> str:
    return (
        f"n {setting.n}, right {setting.share:g}, discordance {setting.discordance:g}, gain {setting.gain:.1%}"
        f"{', clustered' if setting.clustered else ''}"
    )


def _marked(value: float) -> str:
    """Too short with an exclamation mark, conservative with a plus."""
    return f"{_percent(value)}{'!' if value < LEAST else '+' if value > ON_AVERAGE[1] else ' '}"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _word(clustered: bool) -> str:
    return "yes" if clustered else "no"


if __name__ == "__main__":
    sys.exit(main())
