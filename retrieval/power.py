"""What a test set could show before anyone runs it: the smallest difference it can see, and how many items one needs.

Normal approximations for two ways compared on the same items (Miller 2024, arXiv 2411.00640). `spread` is the variance
of an item's difference: for right and wrong, the share of items on which the two ways disagree. Exact tests are more
careful: a power of 80 % is 76 to 80 in `scripts/check_statistics.py`. Knows nothing of grids or files.
"""

import math
from collections.abc import Sequence

from scipy.special import ndtri

from retrieval.stats import ALPHA, Estimate, Z

POWER = 0.8
"""The chance of finding a difference that is there."""


def smallest_difference(n: float, spread: float, comparisons: int = 1, power: float = POWER) -> float:
    """The true difference that comes out clear with this power, when it is one of so many that are corrected for.

    >>> round(100 * smallest_difference(300, spread=0.2), 1)
    7.2
    """
    return _deviations(comparisons, power) * math.sqrt(spread / n)


def items_needed(difference: float, spread: float, comparisons: int = 1, power: float = POWER) -> int:
    """How many items it takes to see this difference.

    >>> items_needed(0.05, spread=0.2)
    628
    """
    return math.ceil(spread * (_deviations(comparisons, power) / difference) ** 2)


def spread_seen(estimate: Estimate, n: int) -> float:
    """The variance of an item's difference that gives n items an interval of this width.

    Those intervals add two items of their own, so that where nothing differs few records still promise little.
    """
    return n * ((estimate.high - estimate.low) / (2 * Z)) ** 2


def fewest_clusters(comparisons: int) -> int:
    """How many clusters must differ, all in one direction, before any gain can come out clear in so many comparisons.

    P-values flip whole clusters, so k of them give none below 2 / 2^k, and Holm's first step multiplies that.

    >>> fewest_clusters(1), fewest_clusters(11)
    (6, 9)
    """
    return math.floor(1 + math.log2(comparisons / ALPHA)) + 1


def design_effect(sizes: Sequence[int], correlation: float) -> float:
    """How many clustered items do the work of one independent one, from the clusters' sizes and how alike two items of
    one cluster are (Kish 1965, with unequal sizes): divide n by it before asking for the smallest difference.

    >>> design_effect([5] * 40, correlation=0.3)
    2.2
    """
    return 1 + (sum(size**2 for size in sizes) / sum(sizes) - 1) * correlation


def _deviations(comparisons: int, power: float) -> float:
    """How many standard errors a difference must be: Holm's first step is Bonferroni's, so that is what to plan for."""
    return float(ndtri(1 - ALPHA / (2 * comparisons)) + ndtri(power))
