"""Right answers by the depth of the evidence and the number of passages, from a run; pure, but for reading its names.

Every cell has the same questions, so that depths and lengths are compared in pairs. Knows nothing of pages.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from eval.folder import Results
from eval.record import Record, RunError
from eval.summary import clusters, scores
from retrieval.stats import ALPHA, Difference, Estimate, holm, mean, paired
from serve.combination import GOLD, Combination

NEEDLE: Final = re.compile(rf"{GOLD}-(?P<length>\d+)-at-(?P<depth>\d+)")

Scores = Mapping[str, float]
"""Of each question with marked evidence."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The evidence at one depth among so many passages."""

    score: Estimate
    tokens: float
    """Of a prompt, on average."""
    passages: float
    """That were shown, on average: a search may find fewer than it is asked for."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change of depth or length does to the same questions."""

    name: str
    difference: Difference
    p_holm: float

    @property
    def is_clear(self) -> bool:
        return self.p_holm < ALPHA


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """One adapter with one strategy."""

    way: str
    n: int
    lengths: tuple[int, ...]
    depths: tuple[int, ...]
    cells: Mapping[tuple[int, int], Cell]
    alone: Cell | None
    """The evidence and nothing else."""
    effects: tuple[Effect, ...]


def maps(results: Results) -> tuple[Map, ...]:
    """A map for each adapter and strategy. RunError when the run has no such cells, or answers are missing."""
    places = {cell: _place(cell) for cell in results.records}
    ways = dict.fromkeys((cell.adapter, cell.strategy) for cell, place in places.items() if place)
    if not ways:
        raise RunError("this run has no evidence at a depth; make its grid with: python -m scripts.needle write GRID")
    if missing := sum(results.missing(cell) for cell, place in places.items() if place):
        raise RunError(f"{missing} answers are missing; the same `eval run` asks only for those")
    return tuple(_map(results, adapter, strategy) for adapter, strategy in ways)


def _place(cell: Combination) -> tuple[int, int] | None:
    found = NEEDLE.fullmatch(cell.retriever)
    return (int(found["length"]), int(found["depth"])) if found else None


def _map(results: Results, adapter: str, strategy: str) -> Map:
    asked = [cell for cell in results.records if (cell.adapter, cell.strategy) == (adapter, strategy)]
    found = {place: cell for cell in asked if (place := _place(cell))}
    tables, alike = {place: _scores(results, cell) for place, cell in found.items()}, clusters(results)
    alone = Combination(adapter, GOLD, strategy)
    whole = alone in results.records and not results.missing(alone)
    return Map(
        way=f"{adapter}:{strategy}",
        n=len(next(iter(tables.values()))),
        lengths=tuple(sorted({length for length, _ in found})),
        depths=tuple(sorted({depth for _, depth in found})),
        cells={place: _cell(results.records[cell], tables[place], alike) for place, cell in found.items()},
        alone=_cell(results.records[alone], _scores(results, alone), alike) if whole else None,
        effects=effects(tables, alike),
    )


def effects(tables: Mapping[tuple[int, int], Scores], alike: Mapping[str, str]) -> tuple[Effect, ...]:
    """The shortest prompt against the longest, the first place against the last, and both ends against the middle;
    each averaged over the other axis, question by question, and corrected for how many there are."""
    lengths, depths = sorted({length for length, _ in tables}), sorted({depth for _, depth in tables})
    inner = [depth for depth in depths if 0 < depth < 100]
    ends = [depth for depth in depths if depth in (0, 100)]
    asked: list[tuple[str, Sequence[tuple[int, int]], Sequence[tuple[int, int]]]] = []
    if len(lengths) > 1:
        few, many = lengths[0], lengths[-1]
        asked.append((f"{few} passages against {many}", [(few, d) for d in depths], [(many, d) for d in depths]))
    if len(ends) == 2:
        asked.append(("First against last", [(n, 0) for n in lengths], [(n, 100) for n in lengths]))
    if ends and inner:
        # Of two passages there is no middle.
        long = [n for n in lengths if n > 2] or lengths
        asked.append(
            ("Ends against the middle", [(n, d) for n in long for d in ends], [(n, d) for n in long for d in inner])
        )
    found = [(name, _against(tables, ours, theirs, alike)) for name, ours, theirs in asked]
    corrected = holm([difference.p for _, difference in found])
    return tuple(Effect(name, difference, p) for (name, difference), p in zip(found, corrected, strict=True))


def _against(
    tables: Mapping[tuple[int, int], Scores],
    ours: Sequence[tuple[int, int]],
    theirs: Sequence[tuple[int, int]],
    alike: Mapping[str, str],
) -> Difference:
    items = list(next(iter(tables.values())))
    after, before = ([fmean(tables[place][item] for place in places) for item in items] for places in (ours, theirs))
    return paired(after, before, [alike[item] for item in items])


def _scores(results: Results, cell: Combination) -> Scores:
    found = scores(results, cell)
    return {one.id: found[one.id] for one in results.examples if one.evidence and one.id in found}


def _cell(answers: Mapping[str, Record], table: Scores, alike: Mapping[str, str]) -> Cell:
    records = [answers[item] for item in table]
    return Cell(
        score=mean(list(table.values()), [alike[item] for item in table]),
        tokens=fmean(one.usage.prompt_tokens for one in records),
        passages=fmean(len(one.sources) for one in records),
    )
