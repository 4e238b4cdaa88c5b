"""What chance alone would do: flipped signs and bootstrap samples, as pure functions over numbers.

Drawn with a fixed seed, so that a report can be made again. Knows nothing of items, clusters or what is counted.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr, ndtri

FLIPS: Final = 10_000
"""Sign flips drawn where they cannot be counted: the smallest p-value this can show is 0.0001."""
COUNTED_UP_TO: Final = 5_000
"""Whole steps that sum to no more than this need no draw: the chance of every sum is known."""
SAMPLES: Final = 2_000
"""Bootstrap samples; the share of them beyond a bound is known to 0.4 points."""
TAILS: Final = (0.025, 0.975)

Numbers = NDArray[np.float64]


def flipped(sums: Numbers) -> float:
    """The chance of a total as far from 0 as theirs when the sign of each is a coin.

    Exact where all are whole multiples of the smallest, as with right and wrong.
    """
    far = np.round(np.abs(sums), 12)
    sizes, times = np.unique(far[far > 0], return_counts=True)
    if not len(sizes):
        return 1.0
    seen, steps = abs(math.fsum(sums)), sizes / sizes[0]
    if np.allclose(steps, steps.round(), rtol=0, atol=1e-9) and steps @ times <= COUNTED_UP_TO:
        return _counted(steps.round().astype(int), times, seen / sizes[0])
    draw, as_far = np.random.default_rng(0), 0
    for _ in range(FLIPS // 1000):  # in blocks: all flips at once would be 800 MB for 10,000 items
        # Of differences of one size, what counts is how many keep their sign: one binomial instead of many coins.
        kept = draw.binomial(times, 0.5, (1000, len(times)))
        as_far += int((np.abs((2 * kept - times) @ sizes) >= seen - 1e-9).sum())
    # The sample itself counts as one draw (Phipson & Smyth 2010), so this is never 0.
    return (as_far + 1) / (FLIPS + 1)


def bca(tops: Numbers, bottoms: Numbers) -> tuple[float, float]:
    """The bias-corrected and accelerated bootstrap interval of a ratio of totals (Efron 1987, JASA 82:171).

    NaN where samples tell nothing: with fewer than two, or when all are alike.
    """
    if len(tops) < 2:
        return math.nan, math.nan
    seen, picks = tops.sum() / bottoms.sum(), _picks(len(tops))
    drawn = tops[picks].sum(axis=1) / bottoms[picks].sum(axis=1)
    without = (tops.sum() - tops) / (bottoms.sum() - bottoms)
    pull = without.mean() - without
    if not pull.any():
        return math.nan, math.nan
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    bias = ndtri(((drawn < seen).mean() + (drawn <= seen).mean()) / 2)
    reach = bias + ndtri(TAILS)
    low, high = np.quantile(drawn, ndtr(bias + reach / (1 - acceleration * reach)))
    return float(low), float(high)


def resampled(
    statistics: Callable[[NDArray[np.intp]], Sequence[float]], groups: NDArray[np.intp]
) -> list[tuple[float, float]]:
    """The percentile bootstrap interval of each statistic of items, which are drawn by whole groups.

    For statistics that have no formula of their own. `statistics` is called with the places of a sample's items. NaN
    where samples tell nothing: from one group, or where a statistic is never defined.
    """
    members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    if len(members) < 2:
        return [(math.nan, math.nan) for _ in statistics(np.arange(len(groups)))]
    drawn = np.array([statistics(np.concatenate([members[one] for one in pick])) for pick in _picks(len(members))])
    defined = [column[~np.isnan(column)] for column in drawn.T]
    return [
        (float(np.quantile(one, TAILS[0])), float(np.quantile(one, TAILS[1]))) if len(one) else (math.nan, math.nan)
        for one in defined
    ]


@lru_cache(maxsize=1)
def _picks(n: int) -> NDArray[np.int64]:
    """The same samples for every ratio over the same items: what they share cancels out where two are compared."""
    return np.random.default_rng(0).integers(0, n, (SAMPLES, n))


def _counted(steps: NDArray[np.int64], times: NDArray[np.int64], seen: float) -> float:
    """All flips at once: the chances of sums are those of independent binomials, one for each size, added up."""
    chances: Numbers = np.ones(1)
    for size, count in zip(steps, times, strict=True):
        kept = np.arange(count + 1)
        mine = np.zeros(size * count + 1)
        mine[::size] = np.exp(gammaln(count + 1) - gammaln(kept + 1) - gammaln(count - kept + 1) - count * math.log(2))
        chances = np.convolve(chances, mine).astype(np.float64)
    totals = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return min(1.0, float(chances[np.abs(totals) >= seen - 1e-6].sum()))
