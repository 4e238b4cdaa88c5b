"""Means over questions and differences on the same questions, each with its 95 % interval.

Student's t over questions: the mean of the per-question values or differences, and D +- t(n-1) SE (Miller 2024, arXiv
2411.00640). Interval and p are of one test, so they agree; the bootstrap's intervals are too short at small n (Bowyer
et al. 2025, arXiv 2503.01747). A mean of rights and wrongs gets Wilson's interval (1927). The formulas are scipy's.
Knows nothing of what was measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; NaN where the values say nothing about their spread (one, or all alike)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much higher one way scored than another on the same questions."""

    estimate: Estimate
    p: float
    """Of Student's paired t; NaN where there is no interval, 1 where no question differs."""
    better: int
    worse: int


def mean(values: Sequence[float]) -> Estimate:
    """The mean of shares, 0 to 1: Wilson's interval when every value is 0 or 1, Student's t otherwise."""
    if set(values) <= {0.0, 1.0}:
        from scipy.stats import binomtest

        interval = binomtest(int(sum(values)), len(values)).proportion_ci(LEVEL, method="wilson")
        return Estimate(math.fsum(values) / len(values), float(interval.low), float(interval.high))
    return _within(_student(values)[0], 0.0, 1.0)


def difference(after: Sequence[float], before: Sequence[float]) -> Difference:
    """`after` minus `before`, question by question; both shares in the same order.

    >>> difference([0.5, 0.75, 1.0], [0.5, 0.5, 0.5]).estimate
    Estimate(value=0.25, low=-0.37103..., high=0.87103...)
    """
    each = [a - b for a, b in zip(after, before, strict=True)]
    estimate, p = _student(each)
    better, worse = sum(one > 0 for one in each), sum(one < 0 for one in each)
    estimate = _within(estimate, -1.0, 1.0)
    return Difference(estimate=estimate, p=p if better or worse else 1.0, better=better, worse=worse)


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """The p-values corrected for having asked several questions (Holm 1979, Scand. J. Stat. 6:65); NaN stays NaN.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    known = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    steps = np.maximum.accumulate([p * (len(known) - rank) for rank, (p, _) in enumerate(known)]).clip(max=1.0)
    return {**p_values, **{name: float(step) for (_, name), step in zip(known, steps, strict=True)}}


def known(values: Mapping[str, float]) -> dict[str, float | None]:
    """The same for JSON, which has no NaN but null."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _within(one: Estimate, least: float, most: float) -> Estimate:
    """No further than the value itself can go; comparisons with NaN are false, so it stays."""
    low = least if one.low < least else one.low
    return Estimate(one.value, low, most if one.high > most else one.high)


def _student(values: Sequence[float]) -> tuple[Estimate, float]:
    centre = math.fsum(values) / len(values)
    if len(set(values)) < 2:
        return Estimate(centre, math.nan, math.nan), math.nan
    from scipy.stats import ttest_1samp

    test = ttest_1samp(values, 0.0)
    interval = test.confidence_interval(LEVEL)
    return Estimate(centre, float(interval.low), float(interval.high)), float(test.pvalue)
