"""The same questions in two runs, combination by combination: what became better or worse, and is it chance.

    compared = compare(load_results(before), load_results(after))

Knows nothing of files or gates, or of what was changed between the runs.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.folder import Results
from eval.record import RunError
from eval.summary import Row, clusters, scores, summarise
from eval.wording import COLOURS, chance, counted, listed, number, p_value, percent, points, span
from retrieval.stats import Difference, Direction, direction, holm, paired
from serve.combination import Combination

NAMED: Final = 5
"""Questions, or combinations, that a line names; of the others it says how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One combination in both runs, on the questions that both were asked."""

    before: Row
    after: Row
    difference: Difference
    p_holm: float
    """Corrected for all combinations compared, the oracle arms among them."""
    gained: tuple[str, ...]
    """Ids of the questions with a better score than before."""
    lost: tuple[str, ...]

    @property
    def combination(self) -> str:
        """Its name, the same in both."""
        return self.after.combination

    @property
    def direction(self) -> Direction:
        """Whether it is clearly better or worse than before."""
        return direction(self.difference.estimate, self.p_holm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two runs, side by side."""

    changes: tuple[Change, ...]
    """The best of the second run first."""
    questions: int
    """How many both runs have."""
    alone: tuple[int, int]
    """How many only the first has, and only the second."""
    left_out: Mapping[str, str]
    """Combinations that are not compared, and why."""


def compare(before: Results, after: Results) -> Compared:
    """The second run against the first. RunError when a score of one does not mean what it means in the other."""
    common = _common(before, after)
    old, new = before.only(common), after.only(common)
    left_out = dict(_left_out(old, new))
    old_rows = {row.combination: row for row in summarise(old)}
    rows = [row for row in summarise(new) if row.combination not in left_out]
    found = [_difference(old, new, Combination.parse(row.combination)) for row in rows]
    corrected = holm([difference.p for difference, _ in found])
    return Compared(
        changes=tuple(
            Change(
                before=old_rows[row.combination],
                after=row,
                difference=difference,
                p_holm=p_holm,
                gained=tuple(item for item, change in moved.items() if change > 0),
                lost=tuple(item for item, change in moved.items() if change < 0),
            )
            for row, (difference, moved), p_holm in zip(rows, found, corrected, strict=True)
        ),
        questions=len(common),
        alone=(len(before.examples) - len(common), len(after.examples) - len(common)),
        left_out=left_out,
    )


def show_changes(compared: Compared, console: Console) -> None:
    """Print the table, the questions that changed, and what can be said."""
    console.print(_table(compared))
    console.print()
    for line in notes(compared):
        console.print(Text(line, style="dim"))
    console.print(Text(conclusion(compared)))


def notes(compared: Compared) -> Iterator[str]:
    """Which questions changed, and what was not compared: a line each, to stand below the table."""
    for one in compared.changes:
        sides = (("gained", one.gained), ("lost", one.lost))
        moved = [f"{side} {_some(ids)}" for side, ids in sides if ids]
        if moved:
            yield f"{one.combination}: {'; '.join(moved)}"
    for reason in dict.fromkeys(compared.left_out.values()):
        yield f"Not compared, {reason}: {_some([name for name, why in compared.left_out.items() if why == reason])}"
    if any(compared.alone):
        first, second = compared.alone
        yield f"Left out: {counted(first, 'question')} only in the first run, {second:,} only in the second."


def conclusion(compared: Compared) -> str:
    """The last line: what can be said, and how sure it is."""
    on = f"On {counted(compared.questions, 'question')} of both runs"
    if not compared.changes:
        return f"{on} there is nothing to compare: no combination has all its answers in both."
    ordered = sorted(compared.changes, key=lambda one: -one.difference.estimate.value)
    better = [one for one in ordered if one.direction > 0]
    worse = [one for one in reversed(ordered) if one.direction < 0]
    if not better and not worse:
        return f"{on} {_nothing_clear(compared.changes)}"
    parts = [_counted(side, word) for side, word in ((better, "better"), (worse, "worse")) if side]
    rest = len(compared.changes) - len(better) - len(worse)
    others = f"; {rest} cannot be told from before" if rest else ""
    return f"{on}, of {counted(len(compared.changes), 'combination')}, {listed(parts)}{others}."


def _ranked_by(results: Results) -> str:
    """The primary scorer as the task says it, and what computes it; the number of gold answers is the questions'."""
    task, signed = results.config.task, results.config.signatures
    computed = re.sub(r"nrefs:[^|]*\|", "", signed.get(task.primary, ""))
    return " ".join(filter(None, (str(task.scorers[task.primary]), computed)))


def _common(before: Results, after: Results) -> frozenset[str]:
    """The ids of the questions that both have; RunError when they, or what is right, are not the same."""
    task, other = before.config.task, after.config.task
    if task.primary != other.primary:
        raise RunError(
            f"The first run is ranked by {task.primary!r}, the second by {other.primary!r}: their scores cannot be "
            "compared. Give both tasks the same `primary` and run again; nothing is asked twice."
        )
    if _ranked_by(before) != _ranked_by(after):
        raise RunError(
            f"{task.primary!r} is not the same scorer in both runs ({_ranked_by(before)}; {_ranked_by(after)}). "
            "Make it the same in both tasks and run again; nothing is asked twice."
        )
    first, second = ({one.id: one for one in results.examples} for results in (before, after))
    common = [item for item in first if item in second]
    if not common:
        raise RunError("The two runs have no question in common (ids are compared), so there is nothing to compare.")
    if changed := [item for item in common if first[item] != second[item]]:
        raise RunError(
            f"{len(changed)} of {counted(len(common), 'question')} with the same id differ between the runs, e.g. "
            f"{_some(changed)}: in wording, answers, evidence or meta (examples.jsonl in each run's folder). Run the "
            "older grid again with the test set of today; only changed questions are asked."
        )
    return frozenset(common)


def _left_out(before: Results, after: Results) -> Iterator[tuple[str, str]]:
    for cell in dict.fromkeys((*after.records, *before.records, *after.stopped, *before.stopped)):
        if halted := [name for name, one in (("first", before), ("second", after)) if cell in one.stopped]:
            yield str(cell), f"stopped early in the {' and the '.join(halted)} run"
        elif cell not in after.records or cell not in before.records:
            yield str(cell), f"only in the {'first' if cell in before.records else 'second'} run"
        elif gaps := [name for name, one in (("first", before), ("second", after)) if one.missing(cell)]:
            yield str(cell), f"answers are missing in the {' and the '.join(gaps)} run"
        elif not after.records[cell]:
            yield str(cell), "neither run was asked any of these questions this way"


def _difference(before: Results, after: Results, cell: Combination) -> tuple[Difference, dict[str, float]]:
    """The change over all questions, and by question."""
    ours, theirs, alike = scores(after, cell), scores(before, cell), clusters(after)
    new, old = [*ours.values()], [theirs[item] for item in ours]
    return paired(new, old, [alike[item] for item in ours]), {item: ours[item] - theirs[item] for item in ours}


def _table(compared: Compared) -> Table:
    shown = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("combination", "before", "after", "points", "95% interval", "p Holm", "gained", "lost"):
        shown.add_column(heading, justify="left" if heading == "combination" else "right", no_wrap=True)
    for heading in ("tokens", "p50 s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in compared.changes:
        shown.add_row(one.combination, *_figures(one), style=COLOURS[one.direction])
    return shown


def _figures(one: Change) -> tuple[str, ...]:
    return (
        percent(one.before.score),
        percent(one.after.score),
        points(one.difference.estimate.value),
        span(one.difference.estimate),
        "" if math.isnan(one.p_holm) else chance(one.p_holm),
        str(len(one.gained)),
        str(len(one.lost)),
        f"{number(one.before.tokens)} → {number(one.after.tokens)}",
        f"{one.before.latency_p50_s:.2f} → {one.after.latency_p50_s:.2f}",
    )


def _nothing_clear(changes: Sequence[Change]) -> str:
    if not any(one.gained or one.lost for one in changes):
        return "every answer scores the same in both."
    most = max(changes, key=lambda one: abs(one.difference.estimate.value))
    apart = f"{points(most.difference.estimate.value)} points, 95% interval {span(most.difference.estimate)}"
    return (
        f"no combination can be told from before. The largest change is {most.combination}: {apart}. "
        "That is no proof that nothing changed: the intervals say what may have."
    )


def _counted(side: Sequence[Change], word: str) -> str:
    """How many became so, and the one that did most."""
    most, gain = side[0], side[0].difference.estimate
    verb = "is" if len(side) == 1 else "are"
    figures = f"{points(gain.value)} points, 95% interval {span(gain)}, Holm-corrected {p_value(most.p_holm)}"
    return f"{len(side)} {verb} {word} ({'' if len(side) == 1 else 'most: '}{most.combination}, {figures})"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return f"{', '.join(names[:NAMED])} and {rest:,} more" if rest > 0 else listed(names)
