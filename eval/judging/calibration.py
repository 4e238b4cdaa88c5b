"""How far a judge can be trusted, by what people said to the same inquiries, and what its rate then really is.

    found = calibrate([("yes", "yes"), ("no", "yes"), ("no", "no")])
    corrected(Estimate(0.8, 0.75, 0.85), found)

Pure functions over pairs (judge, people). Knows nothing of judges, inquiries or runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.stats import Estimate, Share, Z

ENOUGH: Final = 0.6
"""Cohen's kappa below which a judge only advises: a common rule of thumb (Landis & Koch 1977), no theorem."""

Pair = tuple[str, str]
"""(what the judge said, what people said)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How a judge and people agree."""

    labels: int
    kappa: Estimate
    """NaN when both say one and the same thing throughout, or there is nothing: then agreement tells nothing."""
    sensitivity: Share | None = None
    """Of what people call yes, what the judge calls yes. None for more than yes and no."""
    specificity: Share | None = None
    """Of what people call no, what the judge calls no."""

    @property
    def enough(self) -> bool:
        """Whether the judge's word is more than advice."""
        return self.kappa.value >= ENOUGH


def calibrate(pairs: Sequence[Pair], ordered: bool = False) -> Calibration:
    """Agreement on all of the pairs; `ordered` says are whole numbers, of which near misses are smaller ones."""
    said = {one for pair in pairs for one in pair}
    if not said <= {"yes", "no"}:
        return Calibration(labels=len(pairs), kappa=kappa(pairs, ordered))
    truly = [(judge == "yes", person == "yes") for judge, person in pairs]
    yes = [judge for judge, person in truly if person]
    no = [not judge for judge, person in truly if not person]
    return Calibration(
        labels=len(pairs),
        kappa=kappa(pairs),
        sensitivity=Share(sum(yes), len(yes)),
        specificity=Share(sum(no), len(no)),
    )


def kappa(pairs: Sequence[Pair], ordered: bool = False) -> Estimate:
    """Agreement beyond chance (Cohen 1960), weighted by squared distance where what is said is ordered (Cohen 1968).

    The interval is the large-sample one (Fleiss, Cohen & Everitt 1969, Psychol. Bull. 72:323), its error taken after
    adding half a pair to every cell: without, ten of ten would leave no doubt. The halves are ours.

    >>> kappa([("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15).value
    0.4
    """
    names = sorted({one for pair in pairs for one in pair}, key=float if ordered else str)
    if len(names) < 2:
        return Estimate(math.nan, -1.0, 1.0)
    place = {name: number for number, name in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    for judge, person in pairs:
        table[place[judge], place[person]] += 1
    worth = [float(name) for name in names] if ordered else []
    weights = 1 - np.subtract.outer(worth, worth) ** 2 / (worth[-1] - worth[0]) ** 2 if ordered else np.eye(len(names))
    value, _ = _kappa(table, weights)
    _, error = _kappa(table + 0.5, weights)
    return Estimate(round(value, 12), max(-1.0, value - Z * error), min(1.0, value + Z * error))


def corrected(seen: Estimate, calibration: Calibration) -> Estimate | None:
    """The true rate behind the rate that a judge reports (Rogan & Gladen 1978, Am. J. Epidemiol. 107:71).

    seen = sensitivity * true + (1 - specificity) * (1 - true), solved for `true`. None when the judge is no better than
    a coin. The interval counts the doubt about the judge too: it is all rates that this equation, with errors on three
    sides, does not refuse (Fieller 1954, J. R. Stat. Soc. B 16:175), after adding a right and a wrong label to each
    side (as Lang & Reiczigel 2014, Prev. Vet. Med. 113:13, do, and Lee et al. 2025, arXiv 2511.21140, for judges). The
    error of `seen` is read from its interval, so what was seen may be graded or in clusters. All of it holds as long as
    the judge errs on the run as often as on the labels.

    >>> from retrieval.stats import wilson
    >>> on_yes, on_no = [("yes", "yes")] * 90 + [("no", "yes")] * 10, [("no", "no")] * 80 + [("yes", "no")] * 20
    >>> corrected(wilson(550, 1000), calibrate(on_yes + on_no))
    Estimate(value=0.5, low=0.41..., high=0.58...)
    """
    one, other = calibration.sensitivity, calibration.specificity
    if one is None or other is None or not one.of or not other.of:
        return None
    apart = one.hits / one.of + other.hits / other.of - 1
    if apart <= 0:
        return None
    value = _within((seen.value - 1 + other.hits / other.of) / apart)
    low, high = _not_refused(seen, one, other)
    return Estimate(value, min(value, low), max(value, high))


def _not_refused(seen: Estimate, one: Share, other: Share) -> tuple[float, float]:
    """The rates t at which p + q0 - 1 - t (q0 + q1 - 1) is within z standard errors of 0, between two roots."""
    p, p_error = (seen.low + seen.high) / 2, (seen.high - seen.low) / (2 * Z)
    q1, q0 = (one.hits + 1) / (one.of + 2), (other.hits + 1) / (other.of + 2)
    doubt, doubt1, doubt0 = p_error**2, q1 * (1 - q1) / (one.of + 2), q0 * (1 - q0) / (other.of + 2)
    above, apart, z2 = p + q0 - 1, q0 + q1 - 1, Z * Z
    square, line = apart**2 - z2 * (doubt0 + doubt1), above * apart - z2 * doubt0
    inside = line**2 - square * (above**2 - z2 * (doubt + doubt0))
    if apart <= 0 or square <= 0 or inside < 0:  # the judge may be a coin for all that the labels say
        return 0.0, 1.0
    reach = math.sqrt(inside)
    return _within((line - reach) / square), _within((line + reach) / square)


def _kappa(table: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float]:
    """Kappa of a table of counts, and its standard error."""
    shares = table / table.sum()
    judge, person = shares.sum(axis=1), shares.sum(axis=0)
    chance = float(judge @ weights @ person)
    value = (float((shares * weights).sum()) - chance) / (1 - chance)
    means = np.add.outer(weights @ person, judge @ weights)
    spread = float((shares * (weights - means * (1 - value)) ** 2).sum()) - (value - chance * (1 - value)) ** 2
    return value, math.sqrt(max(0.0, spread) / table.sum()) / (1 - chance)


def _within(rate: float) -> float:
    """No further than a rate can go."""
    return min(1.0, max(0.0, rate))
