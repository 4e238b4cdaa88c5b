"""The report: one HTML file made from a run's folder alone, with no request to any host, and every answer beside it.

Only the table of answers runs a script (`browse`). Turns an Analysis into what the page needs to be drawn; knows
nothing of how any figure was computed.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import yaml

from eval.analysis import Analysis
from eval.blame import FAULTS, MEANING, fault_of, untold
from eval.browse import in_table, remove_outdated, write_answers
from eval.confidence import told, worth
from eval.effects import LEVERS
from eval.folder import Results
from eval.gold import is_oracle
from eval.leaks import LEAKS, said, to_json
from eval.peek import blamed, varied, wrong_answers
from eval.plots import NARROW, SECONDS, TOKENS, WIDE, coverage, pareto, scatter, two_axes
from eval.summary import Row, cells, ranked, scores, stopped, to_csv
from eval.tally import by_slice
from eval.tally import to_csv as blame_csv
from eval.wording import chance, number, percent, points, span
from retrieval.files import plain, write_atomically
from retrieval.stats import ALPHA, known
from serve.combination import Combination

HERE: Final = Path(__file__).parent
OPEN: Final = 14
"""Rows of the heat map and of the table that are open at once; the rest unfold."""
SAID: Final = 2
"""Combinations whose confidence is put into words; a table has them all."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A horizontal scale, in per cent of its width."""

    low: float
    high: float
    step: float

    @property
    def ticks(self) -> list[float]:
        """Where the labels stand."""
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [n * self.step for n in range(first, last + 1)]

    def at(self, value: float) -> str:
        """The place of a value, for CSS."""
        inside = min(max(value, self.low), self.high)
        return f"{100 * (inside - self.low) / (self.high - self.low):.2f}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Scores by combination and slice."""

    slices: dict[str, int]
    """Each slice with its number of questions."""
    rows: list[tuple[Row, list[float | None]]]


def save(analysis: Analysis, folder: Path) -> Path:
    """Write summary.csv, blame.csv, verdict.json, leaks.json, report_data, report.html (its path is returned), and
    confidence.json where answers state one."""
    write_atomically(folder / "summary.csv", to_csv([*analysis.rows, *analysis.stopped]))
    write_atomically(folder / "blame.csv", blame_csv(analysis.tallies))
    write_atomically(folder / "verdict.json", json.dumps(asdict(analysis.verdict), indent=2, ensure_ascii=False) + "\n")
    leaks = json.dumps(to_json(analysis.leaks), indent=2, ensure_ascii=False)
    write_atomically(folder / "leaks.json", leaks + "\n")
    if analysis.stated:
        stated = json.dumps([known(asdict(one)) for one in analysis.stated], indent=1)
        write_atomically(folder / "confidence.json", stated + "\n")
    written = write_answers(analysis, folder)
    write_atomically(folder / "report.html", render(analysis, written.scripts))
    remove_outdated(folder, written)
    return folder / "report.html"


def render(analysis: Analysis, scripts: Sequence[str] = ()) -> str:
    """The page; `scripts` bring the answers, without which it says that they are not there."""
    return page(
        "report.html.jinja",
        ("report.css", "browse.css"),
        analysis=analysis,
        scripts=scripts,
        answers=_link,
        in_table={one.id for one in in_table(analysis.results.examples)},
        **_verdict(analysis),
        **_combinations(analysis),
        **_levers(analysis),
        **_cost(analysis),
        **_stated(analysis),
        **_blame(analysis),
        **_wrong(analysis),
        **_leaks(analysis),
        **_provenance(analysis),
    )


def page(template: str, styles: Sequence[str], beside: Path = HERE, **values: Any) -> str:
    """A page with styles of this room inside, whose template lies in this room or `beside` another program."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(beside)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters.update(percent=percent, points=points, span=span, chance=chance, number=number, worth=worth)
    css = "".join((HERE / name).read_text(encoding="utf-8") for name in styles)
    return pages.get_template(template).render(css=css, **values)


def _link(**view: str) -> str:
    """A view of the table of answers, as its address has it."""
    return f"#answers?{urlencode(view)}"


def _verdict(analysis: Analysis) -> dict[str, Any]:
    rows = {row.combination: row for row in analysis.rows}
    verdict = analysis.verdict
    return {
        "verdict": verdict,
        "rows": rows,
        "best": rows.get(verdict.best or ""),
        "base": rows[verdict.baseline],
        "alpha": ALPHA,
        "missing": analysis.results.lacking,
        "asked": analysis.results.config.grid.repeats * sum(row.n for row in analysis.rows),
    }


def _combinations(analysis: Analysis) -> dict[str, Any]:
    choices = ranked(analysis.rows)
    oracles = [row for row in analysis.rows if is_oracle(row.retriever) and not row.n_infra]
    heat = heat_map(analysis.results, _telling_first(analysis, choices, oracles))
    return {
        "choices": choices,
        "oracles": oracles,
        "gaps": [row for row in analysis.rows if row.n_infra],
        "stopped": [(row.combination, stopped(row)) for row in analysis.stopped],
        "axis": axis_around([bound for row in (*choices, *oracles) for bound in (row.ci_low, row.ci_high)]),
        "heat": heat if len(heat.slices) > 1 else None,
        "open_rows": OPEN,
        "table": [cells(row) for row in analysis.rows],
    }


def _telling_first(analysis: Analysis, choices: list[Row], oracles: list[Row]) -> list[Row]:
    """The best, the baseline and the best oracle within the rows that are open; the others after them."""
    baseline = [row for row in choices if row.combination == analysis.verdict.baseline]
    rows = [*choices[: OPEN - 2], *baseline, *oracles[:1], *choices[OPEN - 2 :], *oracles[1:]]
    return [row for place, row in enumerate(rows) if row not in rows[:place]]


def _levers(analysis: Analysis) -> dict[str, Any]:
    effects = {lever: [one for one in analysis.effects if one.factor == factor] for factor, lever in LEVERS.items()}
    bounds = [bound for one in analysis.effects for bound in (one.estimate.low, one.estimate.high, 0.0)]
    return {
        "effects": {lever: found for lever, found in effects.items() if found},
        "effect_axis": axis_around(bounds),
        "left": _left(analysis),
        "axes": {size: two_axes(analysis.places, size) for size in (WIDE, NARROW)} if analysis.places else {},
        "wide_size": WIDE,
        "narrow_size": NARROW,
    }


def _left(analysis: Analysis) -> list[tuple[str, str, float]]:
    """The bar of what is left, as (kind, label, share): won, lost to what is retrieved, lost to behaviour."""
    room = analysis.headroom
    if room is None:
        return []
    knowledge = min(max(0.0, room.knowledge.estimate.value), room.ceiling.value)
    return [
        ("won", "right now", room.ceiling.value - knowledge),
        ("knowledge", "lost to what is retrieved: right with the marked evidence and nothing else", knowledge),
        ("behaviour", "lost to behaviour: wrong even so", 1 - room.ceiling.value),
    ]


def _cost(analysis: Analysis) -> dict[str, Any]:
    choices = ranked(analysis.rows)
    return {
        "costs": [
            (
                price,
                {size: scatter(analysis.rows, analysis.verdict.baseline, price, size) for size in (WIDE, NARROW)},
                [(choices.index(row) + 1, row) for row in pareto(choices, price)],
            )
            for price in (TOKENS, SECONDS)
            if choices
        ]
    }


def _stated(analysis: Analysis) -> dict[str, Any]:
    """Answering only when sure; the first that says how sure it is has the figure."""
    return {
        "stated_said": [list(told(one)) for one in analysis.stated[:SAID]],
        "coverage": {size: coverage(analysis.stated[0], size) for size in (WIDE, NARROW)} if analysis.stated else {},
    }


def _blame(analysis: Analysis) -> dict[str, Any]:
    """Every combination by fault; the one that the verdict looks at by leaf, and by slice."""
    looked = analysis.verdict.blame.combination if analysis.verdict.blame else None
    told = {fault: words for fault, words in FAULTS.items() if any(fault in one.faults for one in analysis.tallies)}
    slices = by_slice(analysis.results, analysis.blamed[Combination.parse(looked)]) if looked else ()
    return {
        "told": told,
        "looked": next((one for one in analysis.tallies if one.combination == looked), None),
        "blame_slices": slices if len(slices) > 1 else (),
        "fault_of": {leaf: (fault_of(leaf) or "right").replace(" ", "-") for leaf in MEANING},
        "untold": list(untold(analysis.results)),
        "meaning": MEANING,
    }


def _wrong(analysis: Analysis) -> dict[str, Any]:
    cell = Combination.parse(analysis.best.combination) if analysis.best else None
    wrong = wrong_answers(analysis.results, cell, analysis.blamed[cell]) if cell else []
    return {"wrong": wrong, "blamed": blamed(wrong), "peeks": varied(wrong)}


def _leaks(analysis: Analysis) -> dict[str, Any]:
    leaks = analysis.leaks
    seen = {row.combination: row for row in leaks.seen}
    return {
        "leaks": leaks,
        "leaks_said": said(leaks, len(analysis.results.examples)),
        "leak_kinds": LEAKS,
        "flagged": len(leaks.flagged),
        "parted": [(row, seen[row.combination]) for row in leaks.clean if row.combination in seen],
    }


def _provenance(analysis: Analysis) -> dict[str, Any]:
    results = analysis.results
    reasons = Counter(failure.reason for cell in results.failures.values() for failure in cell.values())
    used = asdict(results.config)
    del used["keys"]  # of a run that has them there: hashes, of use to the next run, not to a reader
    return {
        "results": results,
        "reasons": reasons.most_common(10),
        "config": yaml.safe_dump(plain(used), sort_keys=False, allow_unicode=True, width=100),
    }


def heat_map(results: Results, rows: Sequence[Row]) -> HeatMap:
    """The primary score of each row in each slice of the test set."""
    slices = Counter(example.slice for example in results.examples)
    members = {name: {one.id for one in results.examples if one.slice == name} for name in slices}
    tables = [(row, scores(results, Combination.parse(row.combination))) for row in rows]
    return HeatMap(
        slices=dict(slices),
        rows=[
            (row, [_mean([table[item] for item in table if item in members[name]]) for name in slices])
            for row, table in tables
        ],
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def axis_around(values: Sequence[float]) -> Axis:
    """A scale around the values that begins and ends at a round number; at most ten labels."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    step = next(size for size in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / size <= 7 or size == 0.5)
    return Axis(math.floor(low / step + 1e-9) * step, max(math.ceil(high / step - 1e-9) * step, low + step), step)
