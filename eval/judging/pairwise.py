"""From which of two answers a judge preferred, in both orders, to who is best: Bradley-Terry strengths with intervals.

    standing(2, contests)

Pure functions over contests. Knows nothing of judges, or of what the answers were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.stats import Estimate, wilson

Choice = Literal["A", "B", "tie"]
Numbers = NDArray[np.float64]

SAMPLES: Final = 1_000
TAILS: Final = (0.025, 0.975)
STEPS: Final = 1_000
CLOSE: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Two answers to one question, judged twice: `one` as A before `other` as B, then the other way round."""

    one: int
    other: int
    cluster: str
    first: Choice
    """Said when `one` was A."""
    second: Choice
    """Said when `other` was A."""
    same: bool = False
    """Equal texts: a tie that nobody needs to judge."""

    @property
    def won(self) -> float:
        """What `one` gets of the point: a win counts only when both orders agree (MT-Bench, Zheng et al. 2023,
        arXiv 2306.05685); all else is a tie, half each.

        >>> Contest(one=0, other=1, cluster="q", first="A", second="B").won
        1.0
        >>> Contest(one=0, other=1, cluster="q", first="A", second="A").won
        0.5
        """
        return {("A", "B"): 1.0, ("B", "A"): 0.0}.get((self.first, self.second), 0.5)

    @property
    def flipped(self) -> bool:
        """Whether the order changed what was said."""
        return self.second != {"A": "B", "B": "A", "tie": "tie"}[self.first]


@dataclass(frozen=True, slots=True)
class Bias:
    """What the order did."""

    flipped: Estimate
    """The share of contests in which it changed what was said."""
    first: Estimate
    """How often the answer that stood first was preferred, where one was; 0.5 is fair."""


def bias(contests: Sequence[Contest]) -> Bias:
    """The judge's bias for a place, over all contests that it has judged."""
    judged = [one for one in contests if not one.same]
    said = [choice for one in judged for choice in (one.first, one.second) if choice != "tie"]
    return Bias(_share(sum(one.flipped for one in judged), len(judged)), _share(said.count("A"), len(said)))


def standing(count: int, contests: Sequence[Contest]) -> list[Estimate]:
    """For each of so many contestants, the chance to be preferred to another one, drawn by lot.

    Bradley and Terry's strengths (1952, Biometrika 39:324) with a tie as half a win for each. One tie more for every
    two contestants keeps a strength finite where somebody never loses. Intervals by bootstrap over clusters of
    questions, with a fixed seed, after adding one question on which all goes one way and one on which it goes the
    other: where somebody always wins, samples of what was seen know no doubt. (The two are ours, after Wilson.)
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(one.cluster for one in contests))}
    each = np.zeros((len(names), count, count))
    for one in contests:
        each[names[one.cluster], one.one, one.other] += one.won
        each[names[one.cluster], one.other, one.one] += 1 - one.won
    value = _chances(strengths(each.sum(axis=0) + _ties(count)))
    if len(names) < 2:
        return [Estimate(float(one), 0.0, 1.0) for one in value]
    whole = each.sum(axis=(1, 2)).mean() / (count * (count - 1) / 2)  # contests of a pair in one cluster
    one_way = whole * np.triu(np.ones((count, count)), 1)
    each = np.concatenate([each, [one_way, one_way.T]])
    weights = np.random.default_rng(0).multinomial(len(each), [1 / len(each)] * len(each), SAMPLES).astype(np.float64)
    drawn = [_chances(strengths(wins + _ties(count))) for wins in np.tensordot(weights, each, axes=1)]
    low, high = np.quantile(drawn, TAILS, axis=0)
    return [
        Estimate(float(one), min(float(one), float(least)), max(float(one), float(most)))
        for one, least, most in zip(value, low, high, strict=True)
    ]


def strengths(wins: Numbers) -> Numbers:
    """The most likely strengths, which sum to 1, when row has beaten column so often.

    By MM (Hunter 2004, Ann. Stat. 32:384). They exist when nobody can be split off who only wins or only
    loses (Ford 1957).

    >>> strengths(np.array([[0.0, 3.0], [1.0, 0.0]])).round(6)
    array([0.75, 0.25])
    """
    played, won = wins + wins.T, wins.sum(axis=1)
    found: Numbers = np.full(len(wins), 1 / len(wins))
    for _ in range(STEPS):
        raised: Numbers = won / (played / np.add.outer(found, found)).sum(axis=1)
        after: Numbers = raised / raised.sum()
        if np.abs(after - found).max() < CLOSE:
            return after
        found = after
    return found


def _chances(strength: Numbers) -> Numbers:
    """Of each, the mean chance against one of the others."""
    chance = strength[:, None] / np.add.outer(strength, strength)
    mean: Numbers = (chance.sum(axis=1) - 0.5) / (len(strength) - 1)
    return mean


def _ties(count: int) -> Numbers:
    return 0.5 * (1 - np.eye(count))


def _share(hits: int, of: int) -> Estimate:
    return wilson(hits, of) if of else Estimate(math.nan, 0.0, 1.0)
