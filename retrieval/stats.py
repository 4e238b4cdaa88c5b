"""Intervals and tests for answers to the same questions, as pure functions over numbers.

Knows nothing of combinations, files or reports. Every formula names its source; the intervals are those that keep their
word at small n (Bowyer et al. 2025, arXiv 2503.01747: Wald and the bootstrap do not).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit

LEVEL: Final = 0.95
Z: Final = float(ndtri((1 + LEVEL) / 2))
FLIPS: Final = 10_000
"""Sign flips drawn for a graded score: the smallest p-value this can show is 0.0001."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one way did than another on the same n items, and how surprising that is if neither is better."""

    estimate: Estimate
    p: float
    n: int
    gained: int
    """Items with a better score than before."""
    lost: int
    """Items with a worse one."""


NOTHING_SEEN: Final = Estimate(math.nan, math.nan, math.nan)


def mean(scores: Sequence[float]) -> Estimate:
    """The mean of scores from 0 to 1: Wilson's interval when every one is 0 or 1, Student's t otherwise."""
    if not scores:
        return NOTHING_SEEN
    return wilson(round(sum(scores)), len(scores)) if _binary(scores) else _within(t_interval(scores), 0.0, 1.0)


def wilson(successes: int, n: int) -> Estimate:
    """Wilson's score interval for a share (Wilson 1927, JASA 22:209).

    >>> wilson(8, 10)
    Estimate(value=0.8, low=0.49016..., high=0.94331...)
    """
    share, z2 = successes / n, Z * Z
    centre = share + z2 / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the bound is the share itself; the subtraction alone would leave it 1e-17 off.
    low = 0.0 if successes == 0 else (centre - spread) / (1 + z2 / n)
    high = 1.0 if successes == n else (centre + spread) / (1 + z2 / n)
    return Estimate(share, low, high)


def t_interval(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval over items (Miller 2024, arXiv 2411.00640).

    >>> t_interval([0.0, 0.5, 1.0])
    Estimate(value=0.5, low=-0.74206..., high=1.74206...)
    """
    centre, error = _mean_and_error(values)
    if math.isnan(error):
        return Estimate(centre, math.nan, math.nan)
    reach = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * error
    return Estimate(centre, centre - reach, centre + reach)


def paired(after: Sequence[float], before: Sequence[float]) -> Difference:
    """`after` against `before` by item: Bonett-Price and McNemar for right or wrong, t and sign flips for graded."""
    gained = sum(a > b for a, b in zip(after, before, strict=True))
    lost = sum(a < b for a, b in zip(after, before, strict=True))
    if not after:
        return Difference(NOTHING_SEEN, math.nan, 0, 0, 0)
    if _binary(after) and _binary(before):
        return Difference(bonett_price(gained, lost, len(after)), mcnemar(gained, lost), len(after), gained, lost)
    differences = [a - b for a, b in zip(after, before, strict=True)]
    estimate = _within(t_interval(differences), -1.0, 1.0)
    return Difference(estimate, sign_flip(differences), len(after), gained, lost)


def bonett_price(gained: int, lost: int, n: int) -> Estimate:
    """Difference of two paired shares (Bonett & Price 2012, J. Educ. Behav. Stat. 37:479): Wald after adding two items.

    >>> bonett_price(gained=12, lost=3, n=100)
    Estimate(value=0.09, low=0.01088..., high=0.16558...)
    """
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = Z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Estimate((gained - lost) / n, max(-1.0, up - down - reach), min(1.0, up - down + reach))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value that gains and losses are equally likely (McNemar 1947; exact form: a sign test).

    >>> round(mcnemar(gained=12, lost=3), 4)
    0.0352
    """
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided permutation p-value that the mean difference is 0: under that, each sign is a coin (Fisher 1935).

    Drawn with a fixed seed, so that a report can be made again; the sample itself counts as one draw (Phipson & Smyth
    2010), so the p-value is never 0.

    >>> sign_flip([0.5] * 10) < 0.01, sign_flip([0.0, 0.0])
    (True, 1.0)
    """
    sizes, times = np.unique(np.round(np.abs([d for d in differences if d]), 12), return_counts=True)
    seen, draw, as_far = abs(math.fsum(differences)), np.random.default_rng(0), 0
    for _ in range(FLIPS // 1000):  # in blocks: all flips at once would be 800 MB for 10,000 items
        # Of differences of one size, what counts is how many keep their sign: one binomial instead of many coins.
        kept = draw.binomial(times, 0.5, (1000, len(times)))
        as_far += int((np.abs((2 * kept - times) @ sizes) >= seen - 1e-9).sum())
    return (as_far + 1) / (FLIPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for having asked several questions (Holm 1979, Scand. J. Stat. 6:65).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (type 7 of Hyndman & Fan 1996, Am. Stat. 50:361).

    >>> quantile([1.0, 2.0, 3.0, 10.0], 0.5)
    2.5
    """
    return float(np.quantile(values, share, method="linear")) if len(values) else math.nan


def known(values: Mapping[str, float]) -> dict[str, float | None]:
    """The same for JSON, which has null in place of NaN."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _within(one: Estimate, least: float, most: float) -> Estimate:
    """No further than the value itself can go; NaN stays."""
    return Estimate(one.value, float(np.maximum(one.low, least)), float(np.minimum(one.high, most)))


def _binary(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; the error of one value is unknown."""
    centre = math.fsum(values) / len(values)
    if len(values) < 2:
        return centre, math.nan
    return centre, math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) * (len(values) - 1)))
