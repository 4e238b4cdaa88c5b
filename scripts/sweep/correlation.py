"""Does a loss rank checkpoints as a score does? Spearman's rank correlation, and how far to trust it.

Pure functions over numbers; knows nothing of adapters or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from retrieval.stats import LEVEL

DRAWS: Final = 10_000
LEAST_POINTS: Final = 4
"""Of three points in perfect order, one order in six is as perfect: that says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Spearman's coefficient over so many points."""

    value: float
    low: float
    high: float
    """Between these it is in 95 % of the draws of as many questions."""
    p: float
    """How often shuffled scores correlate as strongly, either way."""
    points: int


def rank_correlation(losses: Sequence[float], scores: Sequence[Sequence[float]]) -> Correlation | None:
    """Of losses with mean scores; `scores` are (points, questions). None where there is nothing to rank.

    The interval draws the questions again (bootstrap: they are the sample; the checkpoints are what they are). That
    adds the luck of the questions a second time, so it leans towards 0. The p-value shuffles the scores over the
    losses (permutation; the sample itself counts as one draw: Phipson & Smyth 2010). Both draw with a fixed seed.
    """
    table = np.asarray(scores, dtype=float)
    if len(losses) < LEAST_POINTS or np.ptp(losses) == 0 or np.ptp(table.mean(axis=1)) == 0:
        return None
    seen = float(spearman(losses, table.mean(axis=1)[:, None])[0])
    draw = np.random.default_rng(0)
    questions = table.shape[1]
    times = draw.multinomial(questions, np.full(questions, 1 / questions), DRAWS)
    again = spearman(losses, table @ times.T / questions)
    low, high = np.nanquantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shuffled = draw.permuted(np.tile(table.mean(axis=1), (DRAWS, 1)), axis=1).T
    as_far = int((np.abs(spearman(losses, shuffled)) >= abs(seen) - 1e-9).sum())
    return Correlation(value=seen, low=float(low), high=float(high), p=(as_far + 1) / (DRAWS + 1), points=len(losses))


def spearman(losses: Sequence[float], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficient of each column of `scores` (points, columns): Pearson's, of ranks, ties sharing theirs.

    NaN for a column in which all are equal (Spearman 1904, Am. J. Psychol. 15:72).

    >>> spearman([0.1, 0.2, 0.3, 0.4], np.array([[4.0, 1.0], [3.0, 3.0], [2.0, 2.0], [1.0, 4.0]])).round(3).tolist()
    [-1.0, 0.8]
    """
    # Rounded: a mean that is summed in another order must not break a tie.
    x, y = rankdata(losses), rankdata(np.round(scores, 12), axis=0)
    x, y = x - x.mean(), y - y.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = (x @ y) / np.sqrt((x @ x) * (y * y).sum(axis=0))
    return found
