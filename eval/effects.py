"""What each lever does on its own, and what two do together: effects over a whole grid, not a ranking of its cells.

Pure functions over scores by combination and example; knows nothing of records, verdicts or reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from retrieval.stats import Estimate, holm, sign_flip, t_interval
from serve.combination import Combination

Scores = Mapping[Combination, Mapping[str, float]]
"""Combination -> example id -> score."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """Neither lever, either, or both: do retrieval and an adapter add up?"""

    neither: Combination
    retrieval: Combination
    adapter: Combination
    both: Combination
    interaction: Estimate
    """How much more both bring than the sum of what each brings alone; below 0 they do part of the same work."""


def main_effects(scores: Scores, baseline: Combination) -> tuple[Effect, ...]:
    """The effect of every level of every factor against the baseline's, corrected for how many there are (Holm).

    Student's t interval over items, and a p-value that flips their signs: items are the sample, cells are not.
    """
    changes = {
        (factor, level): change
        for factor in LEVERS
        for level in dict.fromkeys(getattr(cell, factor) for cell in scores)
        if (change := _changes(scores, baseline, factor, level))
    }
    corrected = holm([sign_flip(change) for change in changes.values()])
    return tuple(
        Effect(
            factor=factor, level=level, against=getattr(baseline, factor), estimate=t_interval(change), p_holm=p_holm
        )
        for ((factor, level), change), p_holm in zip(changes.items(), corrected, strict=True)
    )


def square(scores: Scores, both: Combination, baseline: Combination) -> Square | None:
    """The 2x2 whose last corner is `both`, at its strategy; None unless it turns both levers and has four corners."""
    neither, retrieval, adapter = (
        replace(both, adapter=baseline.adapter, retriever=baseline.retriever),
        replace(both, adapter=baseline.adapter),
        replace(both, retriever=baseline.retriever),
    )
    corners = (neither, retrieval, adapter, both)
    if len(set(corners)) < 4 or not all(corner in scores for corner in corners):
        return None
    extra = [
        scores[both][item] - scores[retrieval][item] - scores[adapter][item] + scores[neither][item]
        for item in _common([scores[corner] for corner in corners])
    ]
    return Square(neither=neither, retrieval=retrieval, adapter=adapter, both=both, interaction=t_interval(extra))


def _changes(scores: Scores, baseline: Combination, factor: Factor, level: str) -> list[float]:
    """For each item, the mean change over all pairs of cells that differ only in this level, not the baseline's."""
    pairs = [
        (after, before)
        for after in scores
        if getattr(after, factor) == level and level != getattr(baseline, factor)
        if (before := _at(after, factor, getattr(baseline, factor))) in scores
    ]
    items = _common([scores[cell] for pair in pairs for cell in pair]) if pairs else []
    return [sum(scores[after][item] - scores[before][item] for after, before in pairs) / len(pairs) for item in items]


def _at(cell: Combination, factor: Factor, level: str) -> Combination:
    return replace(cell, **{factor: level})


def _common(tables: Sequence[Mapping[str, float]]) -> list[str]:
    """The examples that all of them have, in the first one's order."""
    return [item for item in tables[0] if all(item in table for table in tables[1:])]
