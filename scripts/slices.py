"""Slices of a test set, and whether one of two groups of scores is clearly lower than the other.

Pure functions over scores and metadata. Knows nothing of runs, files or models.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import fisher_exact

from retrieval.stats import LEVEL, Estimate, holm, wilson

MOST_VALUES: Final = 20
"""A key of the metadata with more values than these names things, not groups; `slice` may have as many as it likes."""
FEWEST: Final = 5
"""Examples inside a slice and outside it, below which nothing could be clear."""
CLEAR: Final = 0.05


@dataclass(frozen=True, slots=True)
class Slice:
    """The examples whose metadata say `value` under `key`."""

    key: str
    value: Any

    def holds(self, meta: Mapping[str, Any]) -> bool:
        return self.key in meta and bool(meta[self.key] == self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A slice against the rest of the test set."""

    slice: Slice
    n: int
    score: float
    difference: Estimate
    """Below 0 where the slice does worse."""
    p_holm: float

    @property
    def is_weak(self) -> bool:
        """Clearly worse than the rest, after correction for every slice that was looked at."""
        return self.difference.value < 0 and self.p_holm < CLEAR


def slices_of(metas: Sequence[Mapping[str, Any]]) -> list[Slice]:
    """Every slice worth a look, in the order of appearance; of two with the same examples only the first."""
    found: dict[tuple[bool, ...], Slice] = {}
    for key in dict.fromkeys(key for meta in metas for key in meta):
        values = dict.fromkeys(meta[key] for meta in metas if isinstance(meta.get(key), str | bool | int))
        if key != "slice" and len(values) > MOST_VALUES:
            continue
        for value in values:
            one = Slice(key, value)
            inside = tuple(map(one.holds, metas))
            if FEWEST <= sum(inside) <= len(metas) - FEWEST:
                found.setdefault(inside, one)
    return list(found.values())


def findings(metas: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> tuple[Finding, ...]:
    """Every slice against the rest, the weakest first. Two halves of one whole are one question, asked once."""
    asked: dict[frozenset[tuple[bool, ...]], tuple[Slice, list[float], list[float]]] = {}
    for one in slices_of(metas):
        inside = tuple(map(one.holds, metas))
        ours = [score for score, is_in in zip(scores, inside, strict=True) if is_in]
        rest = [score for score, is_in in zip(scores, inside, strict=True) if not is_in]
        halves = frozenset({inside, tuple(not is_in for is_in in inside)})
        if halves not in asked or math.fsum(ours) / len(ours) < math.fsum(rest) / len(rest):
            asked[halves] = (one, ours, rest)
    compared = [(one, ours, *independent(ours, rest)) for one, ours, rest in asked.values()]
    corrected = holm([p for *_, p in compared])
    found = [
        Finding(slice=one, n=len(ours), score=math.fsum(ours) / len(ours), difference=difference, p_holm=p_holm)
        for (one, ours, difference, _), p_holm in zip(compared, corrected, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: one.difference.value))


def independent(ours: Sequence[float], rest: Sequence[float]) -> tuple[Estimate, float]:
    """How much higher our mean is than that of other items, and how surprising that is if both are alike.

    Right or wrong: Newcombe's interval and Fisher's exact test. Graded: Welch's t (1947, Biometrika 34:28).
    """
    if {*ours, *rest} <= {0.0, 1.0}:
        right, theirs = round(sum(ours)), round(sum(rest))
        table = [[right, len(ours) - right], [theirs, len(rest) - theirs]]
        return newcombe(right, len(ours), theirs, len(rest)), float(fisher_exact(table).pvalue)
    return welch(ours, rest)


def newcombe(right: int, n: int, other_right: int, other_n: int) -> Estimate:
    """Difference of two independent shares from their Wilson intervals (Newcombe 1998, Stat. Med. 17:873, method 10).

    >>> newcombe(56, 70, 48, 80)
    Estimate(value=0.2..., low=0.0524..., high=0.3338...)
    """
    ours, other = wilson(right, n), wilson(other_right, other_n)
    change = ours.value - other.value
    down = math.hypot(ours.value - ours.low, other.high - other.value)
    up = math.hypot(ours.high - ours.value, other.value - other.low)
    return Estimate(change, change - down, change + up)


def welch(ours: Sequence[float], rest: Sequence[float]) -> tuple[Estimate, float]:
    """Difference of two means with its interval and two-sided p-value, without assuming equal spread.

    >>> welch([0.0, 0.5, 1.0], [0.0, 0.5, 1.0])[1]
    1.0
    """
    change = float(np.mean(ours) - np.mean(rest))
    parts = [float(np.var(group, ddof=1)) / len(group) for group in (ours, rest)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return Estimate(change, change, change), float(change == 0)
    freedom = sum(parts) ** 2 / sum(p * p / (len(g) - 1) for p, g in zip(parts, (ours, rest), strict=True))
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Estimate(change, change - reach, change + reach), 2 * float(stdtr(freedom, -abs(change) / error))
