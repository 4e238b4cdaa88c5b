"""Everything a run has to say, computed once: the terminal, the report and verdict.json show the same figures.

Knows nothing of how they are shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.blame import blame, look
from eval.confidence import Stated, find_stated
from eval.effects import Clusters, Effect, Interaction, Scores, Square, interactions, main_effects, square
from eval.energy import Energy
from eval.enough import enough
from eval.finding import chosen, find
from eval.findings import Findings
from eval.folder import Results
from eval.headroom import Headroom, Place, find_headroom, find_places
from eval.judging.table import Section
from eval.leaks import UNCHECKED, Leaks
from eval.payback import NOTHING_KNOWN, Training, payback
from eval.remedies import Step, next_step
from eval.sentences import headline, sentences
from eval.summary import Row, clusters, lever_scores, ranked, scores, stopped_rows, summarise
from eval.tally import Blamed, Tally, tallies, weakest
from eval.unread import too_long
from eval.verdict import Verdict, verdict_of
from serve.combination import Combination


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """A run and what it means."""

    results: Results
    rows: tuple[Row, ...]
    best: Row | None
    """What the verdict is about."""
    stopped: tuple[Row, ...]
    """Those that screening stopped: no rank, no score, and why."""
    effects: tuple[Effect, ...]
    interactions: tuple[Interaction, ...]
    square: Square | None
    headroom: Headroom | None
    places: tuple[Place, ...]
    """Where each combination stands on the two axes, in the order of the rows."""
    blamed: Blamed
    """The leaf of every answer."""
    tallies: tuple[Tally, ...]
    """The same, counted, in the order of the rows."""
    verdict: Verdict
    headline: str
    said: tuple[str, ...]
    """The sentences of the verdict."""
    next_step: Step
    leaks: Leaks
    energy: Energy | None
    """Of the whole run: it is measured by GPU, and combinations share one."""
    judged: Section | None
    """What a judge has found; it decides nothing."""
    stated: tuple[Stated, ...]
    """The combinations that say how sure they are."""


def analyse(
    results: Results,
    leaks: Leaks = UNCHECKED,
    trained: Mapping[str, Training] = NOTHING_KNOWN,
    energy: Energy | None = None,
    judged: Section | None = None,
) -> Analysis:
    """From records to verdict."""
    rows = summarise(results)
    cells = [Combination.parse(row.combination) for row in ranked(rows)]
    table = lever_scores(results, cells)
    alike = clusters(results)
    effects = main_effects(table, results.baseline, alike)
    finding = find(results, rows, effects)
    best = chosen(finding, rows)
    room = find_headroom(results, rows, best)
    seen = look(results)
    blamed = blame(seen)
    found = Findings(
        results=results,
        rows=rows,
        finding=finding,
        effects=effects,
        room=room,
        blamed=blamed,
        fault=weakest(results, rows, blamed, best),
        enough=enough(results, rows),
        payback=payback(rows, finding.best, trained) if finding else None,
        trained=trained,
    )
    step, said = next_step(found), (*sentences(found), *too_long(results))
    return Analysis(
        results=results,
        rows=rows,
        best=best,
        stopped=stopped_rows(results),
        effects=effects,
        interactions=interactions(table, results.baseline, alike),
        square=_square({cell: scores(results, cell) for cell in cells}, cells, results.baseline, alike),
        headroom=room,
        places=find_places(results, rows, seen),
        blamed=blamed,
        tallies=tallies(results, rows, blamed),
        verdict=verdict_of(found, step, " ".join(said)),
        headline=headline(finding),
        said=said,
        next_step=step,
        leaks=leaks,
        energy=energy,
        judged=judged,
        stated=find_stated(results, rows),
    )


def _square(table: Scores, cells: Sequence[Combination], baseline: Combination, alike: Clusters) -> Square | None:
    """The 2x2 of the best combination that turns both levers, where all four corners have a score to be shown with."""
    return next(filter(None, (square(table, cell, baseline, alike) for cell in cells)), None)
