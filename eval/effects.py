"""What each lever does on its own, and what two do together: effects over a whole grid, not a ranking of its cells.

Pure functions over scores by combination and example; knows nothing of records, verdicts or reports.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

from retrieval.stats import Difference, Direction, Estimate, benjamini_hochberg, change, direction, holm
from serve.combination import Combination

Scores = Mapping[Combination, Mapping[str, float]]
"""Combination -> example id -> score."""
Clusters = Mapping[str, str]
"""Example id -> what it shares its luck with; an example that is not in it stands alone."""
Factor = Literal["adapter", "retriever", "strategy"]
Lever = Literal["prompt", "retrieval", "adapter"]

LEVERS: Final[Mapping[Factor, Lever]] = {"strategy": "prompt", "retriever": "retrieval", "adapter": "adapter"}
"""The three factors of a combination, and what people call turning them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What changing one factor from the baseline's level to another does, averaged over everything else."""

    factor: Factor
    level: str
    against: str
    estimate: Estimate
    p_holm: float

    @property
    def direction(self) -> Direction:
        """Whether it clearly helps or hurts."""
        return direction(self.estimate, self.p_holm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """How much more two changes bring together than the sum of what each brings, averaged over the third factor."""

    factors: tuple[Factor, Factor]
    levels: tuple[str, str]
    against: tuple[str, str]
    estimate: Estimate
    q: float
    """Of all interactions with this or a smaller one, the share that is expected to be chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """Neither lever, either, or both: do retrieval and an adapter add up?"""

    neither: Combination
    retrieval: Combination
    adapter: Combination
    both: Combination
    interaction: Estimate
    """How much more both bring than the sum of what each brings alone; below 0 they do part of the same work."""


def main_effects(scores: Scores, baseline: Combination, clusters: Clusters) -> tuple[Effect, ...]:
    """The effect of every level of every factor against the baseline's, corrected for how many there are (Holm).

    Paired by item, since items are the sample and cells are not.
    """
    found = {
        (factor, level): _judged(values, clusters, most=1)
        for factor, level in _turns(scores, baseline)
        if (values := _contrast(scores, _pairs(scores, baseline, factor, level)))
    }
    corrected = holm([one.p for one in found.values()])
    return tuple(
        Effect(factor=factor, level=level, against=getattr(baseline, factor), estimate=one.estimate, p_holm=p_holm)
        for ((factor, level), one), p_holm in zip(found.items(), corrected, strict=True)
    )


def interactions(scores: Scores, baseline: Combination, clusters: Clusters) -> tuple[Interaction, ...]:
    """Every two changes of different factors, wherever the grid has all four corners. For looking around: what stands
    out is a question for the next test set, so it is corrected by Benjamini and Hochberg and decides nothing."""
    found = {
        (one, other): _judged(values, clusters, most=2)
        for one, other in combinations(_turns(scores, baseline), 2)
        if one[0] != other[0] and (values := _contrast(scores, list(_squares(scores, baseline, one, other))))
    }
    shares = benjamini_hochberg([one.p for one in found.values()])
    return tuple(
        Interaction(
            factors=(one[0], other[0]),
            levels=(one[1], other[1]),
            against=(getattr(baseline, one[0]), getattr(baseline, other[0])),
            estimate=judged.estimate,
            q=q,
        )
        for ((one, other), judged), q in zip(found.items(), shares, strict=True)
    )


def square(scores: Scores, both: Combination, baseline: Combination, clusters: Clusters) -> Square | None:
    """The 2x2 whose last corner is `both`, at its strategy; None unless it turns both levers and has four corners."""
    neither, retrieval, adapter = (
        replace(both, adapter=baseline.adapter, retriever=baseline.retriever),
        replace(both, adapter=baseline.adapter),
        replace(both, retriever=baseline.retriever),
    )
    corners = (neither, retrieval, adapter, both)
    if len(set(corners)) < 4 or not all(corner in scores for corner in corners):
        return None
    extra = _contrast(scores, [((both, neither), (retrieval, adapter))])
    interaction = _judged(extra, clusters, most=2).estimate
    return Square(neither=neither, retrieval=retrieval, adapter=adapter, both=both, interaction=interaction)


Turn = tuple[Factor, str]
"""A factor, and a level of it that is not the baseline's."""
Sides = tuple[tuple[Combination, ...], tuple[Combination, ...]]
"""What is added, and what is taken away."""


def _turns(scores: Scores, baseline: Combination) -> list[Turn]:
    return [
        (factor, level)
        for factor in LEVERS
        for level in dict.fromkeys(getattr(cell, factor) for cell in scores)
        if level != getattr(baseline, factor)
    ]


def _pairs(scores: Scores, baseline: Combination, factor: Factor, level: str) -> list[Sides]:
    """All two cells that differ in nothing but this: the level, and the baseline's."""
    return [
        ((cell,), (before,))
        for cell in scores
        if getattr(cell, factor) == level
        if (before := _at(cell, factor, getattr(baseline, factor))) in scores
    ]


def _squares(scores: Scores, baseline: Combination, one: Turn, other: Turn) -> Iterator[Sides]:
    """All four cells that differ in nothing but these two: both and neither, against one each."""
    for both in scores:
        if getattr(both, one[0]) != one[1] or getattr(both, other[0]) != other[1]:
            continue
        without, other_alone = (_at(both, turn[0], getattr(baseline, turn[0])) for turn in (other, one))
        neither = _at(without, one[0], getattr(baseline, one[0]))
        if all(corner in scores for corner in (without, other_alone, neither)):
            yield (both, neither), (without, other_alone)


def _contrast(scores: Scores, sides: Sequence[Sides]) -> dict[str, float]:
    """For each item that all these cells have, what is added less what is taken away, on average over the sides."""
    tables = [
        (scores[cell], sign) for pair in sides for sign, cells in zip((1, -1), pair, strict=True) for cell in cells
    ]
    return {
        item: sum(sign * table[item] for table, sign in tables) / len(sides)
        for item in (tables[0][0] if tables else ())
        if all(item in table for table, _ in tables)
    }


def _judged(values: Mapping[str, float], clusters: Clusters, most: float) -> Difference:
    return change([*values.values()], [clusters.get(item, item) for item in values], most)


def _at(cell: Combination, factor: Factor, level: str) -> Combination:
    return replace(cell, **{factor: level})
