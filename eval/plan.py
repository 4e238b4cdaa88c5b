"""What a run would take before it is started, and what it could show: answers to ask, time, tokens, differences.

    made = plan(grid, read_earlier(grid, folder))

Starts nothing, writes nothing and asks nothing; what it foretells of time and tokens it has from earlier records of the
same run alone. Knows nothing of how it is shown.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eval.effects import LEVERS, Scores, main_effects
from eval.folder import asked_ids, planned, read_keys, scores_of, whole_records
from eval.gold import is_oracle
from eval.grid import Grid
from eval.keys import keys_of
from eval.record import Record, read_records
from eval.screening import Race, by_lot, screen
from retrieval.power import design_effect, items_needed, smallest_difference, spread_seen
from retrieval.stats import paired
from serve.combination import Combination

WANTED: Final = 0.05
"""A difference worth knowing of: 5 points."""
GUESSES: Final = (0.1, 0.2, 0.3)
"""Shares of questions on which two combinations may disagree, while too few records tell."""
ALIKE: Final = 0.2
"""How alike two questions of one cluster are taken to be, while too few records tell."""
ENOUGH: Final = 30
"""Questions answered by both sides before their records tell how much they disagree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The records of a run's folder."""

    good: Mapping[Combination, Mapping[str, Record]]
    """Those that the run would keep; only they count as answered."""
    stale: tuple[Record, ...] = ()
    """Those of the grid's combinations that it would ask again; they still tell of time and tokens."""
    parts: Mapping[Combination, int] = field(default_factory=dict)
    """How many answers there are to questions of which not every repeat is answered."""
    scored: bool = True
    """Whether the scores are by the scorers and gold answers of now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What is compared, and the smallest true difference that comes out clear with a power of 80 %."""

    name: str
    family: int
    """How many contrasts it is corrected for."""
    discordance: float | None
    """The share of questions on which both sides disagree; None for a lever that records tell of, an average."""
    smallest: float
    more: int
    """How many more questions it takes to see 5 points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything there is to say before a run."""

    cells: int
    questions: int
    clusters: int
    answers: int
    kept: int
    """Answers that have a record already."""
    stale: int
    """Answers that have a record which is out of date."""
    stopped: int | None
    """Combinations that screening has stopped already; None where the grid is not screened."""
    concurrency: int
    seconds: float | None
    """What the remaining answers take, without the start of an engine; None when no earlier record tells."""
    prompt_tokens: float | None
    """Of the remaining answers; None when no earlier record tells."""
    guessed: tuple[Contrast, ...]
    """Of combinations that too few records tell of, for several discordances."""
    measured: tuple[Contrast, ...]
    seen: int
    """The questions on which those were measured. A run asks in the order of the file, so they are no random sample."""

    @property
    def left(self) -> int:
        """How many answers remain."""
        return self.answers - self.kept


def plan(grid: Grid, earlier: Earlier) -> Plan:
    """What running this grid would take and could show."""
    repeats = grid.settings.repeats
    done = {cell: len(earlier.good.get(cell, ())) * repeats + earlier.parts.get(cell, 0) for cell in grid.cells}
    stopped = _stopped(grid, earlier)
    todo = {
        cell: done[cell] if cell in stopped else len(planned(cell, grid.task.examples)) * repeats for cell in grid.cells
    }
    left = {cell: count - done[cell] for cell, count in todo.items()}
    records = [*earlier.stale, *(one for cell in earlier.good.values() for one in cell.values())]
    seconds = _expected(left, [(one.combination, one.seconds) for one in records])
    tokens = _expected(left, [(one.combination, one.usage.prompt_tokens) for one in records])
    known = _scores(grid, earlier)
    return Plan(
        cells=len(todo),
        questions=len(grid.task.examples),
        clusters=len({one.cluster for one in grid.task.examples}),
        answers=sum(todo.values()),
        kept=sum(todo.values()) - sum(left.values()),
        stale=len({(one.combination, one.id, one.repeat) for one in earlier.stale}),
        stopped=len(stopped) if grid.settings.screen else None,
        concurrency=grid.settings.concurrency,
        # By Little's law: an answer's seconds are waited for beside those of all the others in flight.
        seconds=None if seconds is None else seconds / min(grid.settings.concurrency, max(1, sum(left.values()))),
        prompt_tokens=tokens,
        guessed=() if len(known) == len(choices(grid)) else tuple(_guessed(grid)),
        measured=tuple(_measured(grid, known)),
        seen=len(known.get(grid.baseline, ())),
    )


def read_earlier(grid: Grid, folder: Path) -> Earlier:
    """The records that a run of this grid into this folder would find; raises what the run would raise."""
    new = keys_of(grid)
    if not (folder / "config.yaml").exists():
        return Earlier(good={})
    old = read_keys(folder)
    asked = asked_ids(grid.cells, grid.task.examples)
    good: dict[tuple[Combination, str, int], Record] = {}
    stale = []
    for record in read_records(folder / "records.jsonl"):
        if record.id in asked.get(record.combination, ()) and record.repeat < grid.settings.repeats:
            if new.keep(record, old):
                good[record.combination, record.id, record.repeat] = record
            else:
                stale.append(record)
    whole = whole_records(asked, good.values(), grid.settings.repeats)
    return Earlier(
        good=whole,
        stale=tuple(stale),
        parts=Counter(cell for cell, item, _ in good if item not in whole[cell]),
        scored=old.scoring == new.scoring,
    )


def choices(grid: Grid) -> tuple[Combination, ...]:
    """What could be chosen, the baseline included. The oracle arms cannot: nothing is corrected for them."""
    return tuple(cell for cell in grid.cells if not is_oracle(cell.retriever))


def _stopped(grid: Grid, earlier: Earlier) -> list[Combination]:
    """Those that a run would ask no further, as far as the records tell."""
    if not grid.settings.screen or not earlier.scored or not earlier.good:
        return []
    scores = scores_of(earlier.good, grid.task.settings.primary)
    race = Race(order=by_lot(grid.task.examples), scores=scores, failed={}, baseline=grid.baseline)
    return [cell for cell in screen(race).stops if len(scores[cell]) < len(planned(cell, grid.task.examples))]


def _families(grid: Grid) -> tuple[int, int]:
    """How many combinations are compared with the baseline, and how many levels with those of the baseline."""
    cells = choices(grid)
    return len(cells) - 1, sum(len({getattr(cell, factor) for cell in cells}) - 1 for factor in LEVERS)


def _expected(left: Mapping[Combination, int], seen: Sequence[tuple[Combination, float]]) -> float | None:
    """What is left, at each combination's mean so far; one never seen is taken to be like the mean of those that were.

    >>> a, b = Combination.parse("base:none:a"), Combination.parse("base:none:b")
    >>> _expected({a: 2, b: 1}, [(a, 3.0), (a, 5.0)])
    12.0
    """
    if not any(left.values()):
        return 0.0
    values = defaultdict[Combination, list[float]](list)
    for cell, value in seen:
        values[cell].append(value)
    means = {cell: sum(found) / len(found) for cell, found in values.items()}
    if not means:
        return None
    usual = sum(means.values()) / len(means)
    return sum(count * means.get(cell, usual) for cell, count in left.items())


def _scores(grid: Grid, earlier: Earlier) -> Scores:
    """The primary scores of what could be chosen, on the questions that all of it answered; none without the baseline.

    A combination with too few records is left out, so that one that is new to the grid does not hide the others.
    """
    primary = grid.task.settings.primary
    tables = {cell: earlier.good.get(cell, {}) for cell in choices(grid) if earlier.scored}
    tables = {cell: table for cell, table in tables.items() if len(table) >= ENOUGH}
    common = set.intersection(*map(set, tables.values())) if tables else set()
    if len(common) < ENOUGH or grid.baseline not in tables:
        return {}
    items = [one.id for one in grid.task.examples if one.id in common]
    return {cell: {item: table[item].scores[primary] for item in items} for cell, table in tables.items()}


def _guessed(grid: Grid) -> Iterator[Contrast]:
    """Each kind of contrast at several discordances.

    A lever's difference is an average over pairs, which varies no more than one pair does: its line is a bound.
    """
    sizes = [*Counter(one.cluster for one in grid.task.examples).values()]
    dilution, n = design_effect(sizes, ALIKE), sum(sizes)
    kinds = ("a combination against the baseline", "a lever, averaged over the grid")
    for name, family in zip(kinds, _families(grid), strict=True):
        for discordance in GUESSES if family else ():
            yield _contrast(name, n, discordance * dilution, family, discordance)


def _measured(grid: Grid, known: Scores) -> Iterator[Contrast]:
    """Each contrast that the records tell of: an interval says how exact it was, with clusters and all."""
    if not known:
        return
    of_cells, of_levers = _families(grid)
    before, n = known[grid.baseline], len(grid.task.examples)
    alike = {one.id: one.cluster for one in grid.task.examples}
    labels = [alike[item] for item in before]
    for cell, after in known.items():
        if cell != grid.baseline:
            seen = paired([*after.values()], [*before.values()], labels)
            spread = spread_seen(seen.estimate, seen.n)
            yield _contrast(str(cell), n, spread, of_cells, (seen.gained + seen.lost) / seen.n)
    for effect in main_effects(known, grid.baseline, alike):
        name = f"{LEVERS[effect.factor]}: {effect.level} for {effect.against}"
        yield _contrast(name, n, spread_seen(effect.estimate, len(before)), of_levers, None)


def _contrast(name: str, n: int, spread: float, family: int, discordance: float | None) -> Contrast:
    return Contrast(
        name=name,
        family=family,
        discordance=discordance,
        smallest=smallest_difference(n, spread, family),
        more=max(0, items_needed(WANTED, spread, family) - n),
    )
