"""Intervals and tests for answers to the same questions, as pure functions over numbers.

Items that share a document, a database or a template are no independent evidence: give their `clusters`, one label an
item, and intervals and p-values count clusters. Without labels every item stands alone.

Knows nothing of combinations, files or reports. Every formula names its source; the intervals are those that keep their
word at small n (Bowyer et al. 2025, arXiv 2503.01747: Wald and the bootstrap do not; `scripts/check_statistics.py`
measures all of them).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betainc, ndtri, stdtr, stdtrit

from retrieval.resampling import flipped, resampled

ALPHA: Final = 0.05
LEVEL: Final = 1 - ALPHA
Z: Final = float(ndtri((1 + LEVEL) / 2))
ONE_SIDED: Final = float(ndtri(LEVEL))


Direction = Literal[-1, 0, 1]
"""Of a difference: clearly down, perhaps chance, clearly up."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    hits: int
    of: int

    @property
    def estimate(self) -> Estimate:
        """With Wilson's interval; all of 0 to 1 when there is nothing."""
        return wilson(self.hits, self.of) if self.of else Estimate(math.nan, 0.0, 1.0)


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


def mean(scores: Sequence[float], clusters: Sequence[str] = ()) -> Estimate:
    """The mean of scores from 0 to 1: Wilson's interval when every one is 0 or 1, Student's t otherwise.

    Near 0 and 1 a few items decide the mean and its error, and intervals come out too short. Wilson's knows that of
    itself; the others are judged after adding one item, or one cluster, of ones and one of zeros.
    """
    if not scores:
        return NOTHING_SEEN
    groups = _groups(scores, clusters)
    if not _binary(scores):
        return _within(_steadied(np.array(scores), groups, middle=0.5), 0.0, 1.0)
    if _alone(groups):
        return wilson(round(sum(scores)), len(scores))
    # For as many items as they are worth, with Student's quantile (Dean & Pagano 2015, J. Surv. Stat. Methodol. 3:484).
    count = groups.max() + 1
    added = np.repeat([count, count + 1], round(len(scores) / count))
    worth = _worth(np.append(scores, added == count), np.append(groups, added), like=groups)
    share = math.fsum(scores) / len(scores)
    return _within(replace(wilson(share * worth, worth, _student(groups)), value=share), 0.0, 1.0)


def above(scores: Sequence[float], threshold: float, clusters: Sequence[str] = ()) -> float:
    """How surprising a mean this high is if the true one is at most `threshold` (one-sided p-value).

    Binomial where every score is 0 or 1, in clusters for as many items as they are worth, fewer by Student's quantile
    (Korn & Graubard 1998, Surv. Methodol. 24:193); otherwise Student's t with the error of `mean`'s interval. Where the
    threshold is 0.9 or more, from 20 clusters or fewer that are much alike, it errs in up to 10 of 100, not 5; with
    graded scores from 0.8 on, in up to 17.

    >>> round(above([1.0] * 19 + [0.0], 0.8), 4)
    0.0692
    """
    groups, share = _groups(scores, clusters), math.fsum(scores) / len(scores)
    if groups.max() == 0:
        return 1.0
    if not _binary(scores):
        seen, reach = _steadied(np.array(scores), groups, middle=0.5), _student(groups)
        error = (seen.high - seen.low) / 2 / reach
        return float(stdtr(groups.max(), (threshold - (seen.high + seen.low) / 2) / error))
    worth = float(len(scores))
    if not _alone(groups):
        shorter = ONE_SIDED / float(stdtrit(groups.max(), 1 - ALPHA))
        worth = _worth(np.array(scores), groups, like=groups) * shorter**2
    # The sum of a binomial's upper tail as an incomplete beta, which knows items that are worth less than one.
    return float(betainc(share * worth, worth - share * worth + 1, threshold)) if share else 1.0


def wilson(successes: float, n: float, z: float = Z) -> Estimate:
    """Wilson's score interval for a share (Wilson 1927, JASA 22:209).

    >>> wilson(8, 10)
    Estimate(value=0.8, low=0.49016..., high=0.94331...)
    """
    share, z2 = successes / n, z * z
    centre = share + z2 / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the bound is the share itself; the subtraction alone would leave it 1e-17 off.
    low = 0.0 if successes == 0 else (centre - spread) / (1 + z2 / n)
    high = 1.0 if successes == n else (centre + spread) / (1 + z2 / n)
    return Estimate(share, low, high)


def t_interval(values: Sequence[float], clusters: Sequence[str] = ()) -> Estimate:
    """Mean with Student's t interval, its error over items or, where they share one, over clusters (Miller 2024,
    arXiv 2411.00640).

    >>> t_interval([0.0, 0.5, 1.0])
    Estimate(value=0.5, low=-0.74206..., high=1.74206...)
    >>> t_interval([0.0, 0.5, 1.0, 0.5], ["a", "a", "b", "b"])
    Estimate(value=0.5, low=-2.67655..., high=3.67655...)
    """
    groups = _groups(values, clusters)
    centre, reach = math.fsum(values) / len(values), _student(groups) * _error(values, groups)
    return Estimate(centre, centre - reach, centre + reach)


def paired(after: Sequence[float], before: Sequence[float], clusters: Sequence[str] = ()) -> Difference:
    """`after` against `before`, item by item."""
    return change([a - b for a, b in zip(after, before, strict=True)], clusters)


def change(differences: Sequence[float], clusters: Sequence[str] = (), most: float = 1.0) -> Difference:
    """What differences of at most `most`, one an item, come to: Bonett-Price's interval and McNemar's test where each
    item was gained, lost or neither, Student's t and sign flips otherwise.

    In clusters, Bonett-Price's interval is for as many items as they are worth, with Student's quantile. Where most
    differences are 0, t intervals would be far too short (from 20 items they held the truth in as few as 32 of 100
    draws): they are taken after adding two items, half of `most` up and down. That is Bonett and Price's idea; the
    halves are ours.
    """
    n, gained, lost = len(differences), sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    if not n:
        return Difference(NOTHING_SEEN, math.nan, 0, 0, 0)
    groups, parts = _groups(differences, clusters), np.array(differences) / most
    whole = bool(np.isin(parts, (-1, 0, 1)).all())
    if whole and _alone(groups):
        estimate = bonett_price(gained, lost, n)
    elif whole:
        worth = _worth(parts, groups, like=groups)
        estimate = bonett_price(gained * worth / n, lost * worth / n, worth, _student(groups))
    else:
        estimate = _steadied(parts, groups, middle=0.0)
    held = _within(estimate, -1.0, 1.0)
    p = mcnemar(gained, lost) if whole and _alone(groups) else sign_flip(differences, clusters)
    centre = math.fsum(differences) / n
    return Difference(Estimate(centre, most * held.low, most * held.high), p, n, gained, lost)


def tied(best: Sequence[float], others: Sequence[Sequence[float]], clusters: Sequence[str] = ()) -> list[bool]:
    """Which of the others cannot be told from the one with the highest mean, corrected for how many there are (Holm).

    >>> tied([1.0] * 20, [[1.0] * 19 + [0.0], [0.0] * 20])
    [True, False]
    """
    return [p >= ALPHA for p in holm([paired(best, other, clusters).p for other in others])]


def bonett_price(gained: float, lost: float, n: float, z: float = Z) -> Estimate:
    """Difference of two paired shares (Bonett & Price 2012, J. Educ. Behav. Stat. 37:479): Wald after adding two items.

    >>> bonett_price(gained=12, lost=3, n=100)
    Estimate(value=0.09, low=0.01088..., high=0.16558...)
    """
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Estimate((gained - lost) / n, max(-1.0, up - down - reach), min(1.0, up - down + reach))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value that gains and losses are equally likely (McNemar 1947; exact form: a sign test).

    >>> round(mcnemar(gained=12, lost=3), 4)
    0.0352
    """
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def sign_flip(differences: Sequence[float], clusters: Sequence[str] = ()) -> float:
    """Two-sided permutation p-value that the mean difference is 0: under that, each sign is a coin (Fisher 1935), and
    one coin for a whole cluster.

    >>> round(sign_flip([0.5] * 10), 6), sign_flip([0.0, 0.0]), round(sign_flip([1.0] * 9, [*"aaabbbccc"]), 4)
    (0.001953, 1.0, 0.25)
    """
    return flipped(_sums(np.array(differences), _groups(differences, clusters)))


def per(spent: Sequence[float], gained: Sequence[float], clusters: Sequence[str] = ()) -> Estimate:
    """How much was spent for one that was gained, each item gaining 0 to 1; infinity when nothing was gained.

    The error of a ratio of totals by its linear part (Cochran 1977, chapter 6), with Student's t on the log scale: from
    few clusters it holds the truth more often than the BCa bootstrap, which `scripts/check_statistics.py` shows.

    >>> per(spent=[10, 20, 30, 40], gained=[0, 1, 1, 1])
    Estimate(value=33.333..., low=17.04..., high=65.20...)
    """
    if not math.fsum(spent):
        return NOTHING_SEEN
    rate = math.fsum(gained) / math.fsum(spent)
    if not rate:
        # As many may be right as the scores' own interval allows.
        return Estimate(math.inf, math.fsum(spent) / len(spent) / mean(gained, clusters).high, math.inf)
    groups = _groups(spent, clusters)
    apart = (np.array(gained) - rate * np.array(spent)) * len(spent) / math.fsum(spent)
    reach = math.exp(_student(groups) * _error(apart, groups) / rate)
    return Estimate(1 / rate, 1 / rate / reach, reach / rate)


def bootstrapped(
    statistics: Callable[[NDArray[np.intp]], Sequence[float]], n: int, clusters: Sequence[str] = ()
) -> list[Estimate]:
    """Statistics of n items that have no formula of their own, with percentile bootstrap intervals (Efron 1979).

    `statistics` is called with the places of the items, some of them many times.

    >>> [round(one.value, 2) for one in bootstrapped(lambda items: [float(items.mean()), float(items.max())], 5)]
    [2.0, 4.0]
    """
    seen = statistics(np.arange(n))
    bounds = resampled(statistics, _groups(range(n), clusters))
    return [Estimate(value, low, high) for value, (low, high) in zip(seen, bounds, strict=True)]


def direction(estimate: Estimate, p: float) -> Direction:
    """Whether a difference is clearly up (1) or down (-1), or may be chance (0): its p-value and its interval must both
    say so, as an exact test and an interval may disagree.

    >>> direction(Estimate(0.1, 0.02, 0.18), 0.01), direction(Estimate(0.1, -0.01, 0.21), 0.03)
    (1, 0)
    """
    if math.isnan(p) or p >= ALPHA:
        return 0
    return 1 if estimate.low > 0 else -1 if estimate.high < 0 else 0


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


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """P-values as q-values: of all at or below one, that share is expected to be chance (Benjamini & Hochberg 1995).

    For looking around, never for deciding: `holm` bounds the chance of a single false find, this their share.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    adjusted = [0.0] * len(p_values)
    lowest = 1.0
    for rank, place in reversed(list(enumerate(sorted(range(len(p_values)), key=p_values.__getitem__), start=1))):
        lowest = min(lowest, p_values[place] * len(p_values) / rank)
        adjusted[place] = lowest
    return adjusted


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (type 7 of Hyndman & Fan 1996, Am. Stat. 50:361).

    >>> quantile([1.0, 2.0, 3.0, 10.0], 0.5)
    2.5
    """
    return float(np.quantile(values, share, method="linear")) if len(values) else math.nan


def known(value: Any) -> Any:
    """The value for JSON, which has null in place of NaN; lists for tuples, however deep.

    >>> known({"value": math.nan, "bounds": (0.1, 0.2)})
    {'value': None, 'bounds': [0.1, 0.2]}
    """
    if isinstance(value, Mapping):
        return {name: known(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [known(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _within(one: Estimate, least: float, most: float) -> Estimate:
    """No further than the value itself can go; where nothing is known, as with one item or one cluster, all the way."""
    return Estimate(one.value, float(np.fmax(one.low, least)), float(np.fmin(one.high, most)))


def _binary(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _groups(values: Sequence[float], clusters: Sequence[str]) -> NDArray[np.intp]:
    """The number of each item's cluster."""
    if not clusters:
        return np.arange(len(values))
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values have {len(clusters)} cluster labels; give one for each")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[name] for name in clusters])


def _alone(groups: NDArray[np.intp]) -> bool:
    return bool(groups.max() + 1 == len(groups))


def _sums(values: NDArray[np.float64], groups: NDArray[np.intp]) -> NDArray[np.float64]:
    """The sum of each cluster."""
    return np.bincount(groups, weights=values).astype(np.float64)


def _error(values: Sequence[float] | NDArray[np.float64], groups: NDArray[np.intp]) -> float:
    """The standard error of the mean, robust to anything that items of one cluster share; that of one is unknown."""
    count = int(groups.max()) + 1
    if count < 2:
        return math.nan
    apart = _sums(np.asarray(values) - math.fsum(values) / len(values), groups)
    return math.sqrt(count / (count - 1) * math.fsum(apart**2)) / len(values)


def _steadied(values: NDArray[np.float64], groups: NDArray[np.intp], middle: float) -> Estimate:
    """A t interval after adding an item half a point above the middle and one below, each a cluster of its own."""
    count = groups.max() + 1
    more, apart = np.append(values, [middle + 0.5, middle - 0.5]), np.append(groups, [count, count + 1])
    reach = _student(groups) * _error(more, apart)
    return Estimate(math.fsum(values) / len(values), float(more.mean()) - reach, float(more.mean()) + reach)


def _student(groups: NDArray[np.intp]) -> float:
    """How many errors an interval reaches, when they were estimated from so many clusters."""
    count = int(groups.max()) + 1
    return float(stdtrit(count - 1, 1 - ALPHA / 2)) if count > 1 else math.nan


def _worth(values: NDArray[np.float64], groups: NDArray[np.intp], like: NDArray[np.intp]) -> float:
    """How many independent items would have this error: between all of them, and what is left when each cluster only
    repeats itself; the sizes of clusters are those of `like`."""
    most, least = float(len(like)), len(like) ** 2 / float((np.bincount(like) ** 2).sum())
    error = _error(values, groups)
    return min(most, max(least, float(values.var()) / error**2)) if error else least
