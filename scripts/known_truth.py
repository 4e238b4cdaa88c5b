"""Tests that never happened, drawn where the truth is known; what judges them is the code that judges a real run.

Each function draws one thing many times and says how often it was found. Knows nothing of what would be good enough:
that is `scripts.check_statistics`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from eval.effects import Scores, interactions, main_effects
from retrieval.power import smallest_difference
from retrieval.resampling import bca
from retrieval.stats import ALPHA, Estimate, holm, mean, paired, per, tied
from serve.combination import Combination

CELLS: Final = 48
SIZES: Final = (1, 3, 5, 7, 9)
"""Of clusters, in turn; a test set of 20 has five of them."""
ALIKE: Final = 0.3
"""The correlation of two items of one cluster."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A test set, and two ways of answering it."""

    n: int
    share: float
    """Right before."""
    discordance: float
    """On how many items the two ways differ."""
    gained: float
    """Which share of those gets better: a half when the ways are equal."""
    clustered: bool

    @property
    def chances(self) -> tuple[float, float, float, float]:
        """That an item is right both times, gained, lost, or wrong both times."""
        up, down = self.discordance * self.gained, self.discordance * (1 - self.gained)
        return self.share - down, up, down, 1 - self.share - up

    @property
    def gain(self) -> float:
        """The true difference."""
        return self.discordance * (2 * self.gained - 1)


@dataclass(frozen=True, slots=True)
class Kept:
    """How often intervals held the truth, and how often a test spoke."""

    setting: Setting
    score: float
    difference: float
    found: float
    """The share of p-values below 0.05: false alarms where there is no gain."""


@dataclass(frozen=True, slots=True)
class Family:
    """Many equal ways: how often one is called better than the first, and how often the best stays among the tied."""

    n: int
    clustered: bool
    alarms: float
    kept: float


@dataclass(frozen=True, slots=True)
class Planted:
    """An effect of a factor, or an interaction: what was planted, what came back on average, with its own error."""

    name: str
    clustered: bool
    truth: float
    found: float
    error: float
    covered: float


@dataclass(frozen=True, slots=True)
class Price:
    """How often an interval of tokens per right answer held the truth."""

    n: int
    right: float
    clustered: bool
    ours: float
    bca: float


@dataclass(frozen=True, slots=True)
class Power:
    """A difference that a test set of n should just see, and how often it did."""

    n: int
    discordance: float
    gain: float
    found: float


def settings() -> list[Setting]:
    """Every setting that can be: none has more losses than right answers, or more gains than wrong ones."""
    every = product((20, 50, 100, 300), (0.05, 0.5, 0.95), (0.02, 0.1, 0.3), (0.5, 0.75), (False, True))
    found = [
        Setting(n=n, share=share, discordance=discordance, gained=gained, clustered=clustered)
        for n, share, discordance, gained, clustered in every
    ]
    return [one for one in found if min(one.chances) >= 0]


def labels(n: int, clustered: bool) -> list[str]:
    """The cluster of each item; none where all stand alone."""
    sizes = [SIZES[place % len(SIZES)] for place in range(n)] if clustered else []
    return [str(cluster) for cluster, size in enumerate(sizes) for _ in range(size)][:n]


def coverage(setting: Setting, runs: int) -> Kept:
    """Draw the same test many times, judge each draw, count."""
    draw, alike = np.random.default_rng([runs, setting.n]), labels(setting.n, setting.clustered)
    kinds = _copied(draw, draw.choice(4, (2, runs, setting.n), p=setting.chances), alike)
    before, after = np.isin(kinds, (0, 2)).astype(float), np.isin(kinds, (0, 1)).astype(float)
    judged = [paired(a.tolist(), b.tolist(), alike) for a, b in zip(after, before, strict=True)]
    return Kept(
        setting,
        score=share(holds(mean(row.tolist(), alike), setting.share) for row in before),
        difference=share(holds(one.estimate, setting.gain) for one in judged),
        found=share(one.p < ALPHA for one in judged),
    )


def graded(setting: Setting, runs: int) -> Kept:
    """The same where an item is worth any part of a point: a change is a quarter, and the score is 1 or, where the two
    ways differ, a half."""
    draw, alike = np.random.default_rng([runs, setting.n]), labels(setting.n, setting.clustered)
    kinds = _copied(draw, draw.choice(4, (2, runs, setting.n), p=setting.chances), alike)
    before = draw.random(kinds.shape) / 2 + 0.25
    after = before + 0.25 * (1.0 * (kinds == 1) - (kinds == 2))
    judged = [paired(a.tolist(), b.tolist(), alike) for a, b in zip(after, before, strict=True)]
    scores = 1 - 0.5 * np.isin(kinds, (1, 2))
    return Kept(
        setting,
        score=share(holds(mean(row.tolist(), alike), 1 - setting.discordance / 2) for row in scores),
        difference=share(holds(one.estimate, setting.gain / 4) for one in judged),
        found=share(one.p < ALPHA for one in judged),
    )


def family(n: int, clustered: bool, runs: int) -> Family:
    """48 ways, all right in 70 of 100; then one of them in 72."""
    draw, alike = np.random.default_rng([runs, n]), labels(n, clustered)
    equal, better = np.full(CELLS, 0.7), np.full(CELLS, 0.7)
    better[7] = 0.72
    alarms, kept = [], []
    for _ in range(runs):
        first, *others = answers(draw, equal, n, alike).tolist()
        alarms.append(min(holm([paired(other, first, alike).p for other in others])) < ALPHA)
        rows = answers(draw, better, n, alike)
        best = int(rows.sum(axis=1).argmax())
        kept.append(best == 7 or tied(rows[best].tolist(), [row.tolist() for row in rows], alike)[7])
    return Family(n, clustered, share(alarms), share(kept))


def effects(clustered: bool, runs: int) -> list[Planted]:
    """A grid of 2 x 3 x 2 in which an adapter, two retrievers and a prompt have effects, and two pairs interact."""
    n, chances = 100, planted()
    grid, baseline = list(chances), next(iter(chances))
    truth = _estimates({cell: {"x": chance} for cell, chance in chances.items()}, baseline, [])
    draw, alike = np.random.default_rng([runs, n]), labels(n, clustered)
    found: list[dict[str, Estimate]] = []
    for _ in range(runs):
        rows = answers(draw, np.array([*chances.values()]), n, alike)
        table = {
            cell: dict(zip(map(str, range(n)), row.tolist(), strict=True)) for cell, row in zip(grid, rows, strict=True)
        }
        found.append(_estimates(table, baseline, alike))
    return [_planted(name, clustered, one.value, [run[name] for run in found]) for name, one in truth.items()]


def planted() -> dict[Combination, float]:
    """The true scores of that grid, the baseline's first."""
    grid = product(("base", "lora"), ("none", "dense", "hybrid"), ("direct", "shots"))
    return {cell: _chance(cell) for cell in (Combination(*names) for names in grid)}


def prices(n: int, right: float, clustered: bool, runs: int) -> Price:
    """Tokens per right answer, where wrong answers are longer: the rule in use, and the bootstrap it replaces."""
    draw, alike = np.random.default_rng([runs, n]), labels(n, clustered)
    scores = (_copied(draw, draw.random((2, runs, n)), alike) < right).astype(float)
    tokens = draw.gamma(4, 50, scores.shape) + 100 * (1 - scores)
    truth = (200 + 100 * (1 - right)) / right
    sums = [_by_cluster(np.stack(pair), alike) for pair in zip(scores, tokens, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):  # a sample without a right answer
        rates = [bca(got, spent) for got, spent in sums]
    return Price(
        n,
        right,
        clustered,
        ours=share(holds(per(t.tolist(), s.tolist(), alike), truth) for t, s in zip(tokens, scores, strict=True)),
        bca=share(low <= 1 / truth <= high for low, high in rates),
    )


def power(n: int, discordance: float, runs: int) -> Power:
    """The smallest difference that is promised to be seen, and how often it is seen when it is there."""
    gain = smallest_difference(n, discordance)
    gained = 0.5 + gain / (2 * discordance)
    one = Setting(n=n, share=0.5, discordance=discordance, gained=gained, clustered=False)
    return Power(n, discordance, gain, coverage(one, runs).found)


def answers(
    draw: np.random.Generator, chances: Numbers, n: int, alike: Sequence[str], correlation: float = 0.6
) -> Numbers:
    """Right and wrong by way and item: what is hard for one way is hard for all, and more so within a cluster."""

    groups = np.array(alike or range(n), int)

    def luck(rows: int) -> Numbers:
        own, shared = draw.normal(size=(2, rows, n))
        return np.asarray(ALIKE**0.5 * shared[:, groups] + (1 - ALIKE) ** 0.5 * own)

    return np.asarray(
        ndtr(correlation**0.5 * luck(1) + (1 - correlation) ** 0.5 * luck(len(chances))) < chances[:, None]
    ).astype(float)


def holds(one: Estimate, truth: float) -> bool:
    """Whether the interval has the truth in it."""
    return one.low - 1e-9 <= truth <= one.high + 1e-9


def share(seen: Iterator[bool] | Sequence[bool]) -> float:
    """How many of these are so."""
    return float(np.mean(list(seen)))


def _copied(draw: np.random.Generator, drawn: NDArray[Any], alike: Sequence[str]) -> NDArray[Any]:
    """Some items repeat what is drawn for their whole cluster: each keeps its chances, two are correlated."""
    own, common = drawn
    if not alike:
        return np.asarray(own)
    return np.asarray(np.where(draw.random(own.shape) < ALIKE**0.5, common[:, np.array(alike, int)], own))


def _by_cluster(rows: Numbers, alike: Sequence[str]) -> Numbers:
    if not alike:
        return rows
    return np.stack([np.bincount(np.array(alike, int), row) for row in rows])


def _chance(cell: Combination) -> float:
    tuned, shown = cell.adapter == "lora", cell.strategy == "shots"
    found = {"none": 0.0, "dense": 0.2, "hybrid": 0.25}[cell.retriever]
    return 0.3 + 0.15 * tuned + found - 0.05 * shown + 0.1 * (tuned and found > 0) - 0.08 * (shown and found > 0.2)


def _estimates(table: Scores, baseline: Combination, alike: Sequence[str]) -> dict[str, Estimate]:
    clusters = {str(item): cluster for item, cluster in enumerate(alike)}
    alone = {one.level: one.estimate for one in main_effects(table, baseline, clusters)}
    return alone | {" x ".join(one.levels): one.estimate for one in interactions(table, baseline, clusters)}


def _planted(name: str, clustered: bool, truth: float, found: Sequence[Estimate]) -> Planted:
    values = np.array([one.value for one in found])
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return Planted(name, clustered, truth, float(values.mean()), error, share(holds(one, truth) for one in found))
