"""Answering only when sure: what a stated confidence is worth, as pure functions over numbers.

    risk-coverage   answer the surest first; for each share answered, the share of those that is wrong
                    (El-Yaniv & Wiener 2010, JMLR 11:1605; Geifman & El-Yaniv 2017, arXiv 1705.08500)
    AURC            the mean of that risk over all shares answered; no confidence gets below that of the ideal order

Of equal confidences none can be answered before the other, so that they share their errors. Knows nothing of runs, and
nothing of where a confidence comes from.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eval.task import Stakes
from retrieval.stats import Difference, Estimate, Share, bootstrapped, change, mean

Numbers = NDArray[np.float64]

COVERAGES: Final = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3)
"""Shares of questions answered that a table shows."""
BIN: Final = 20
"""Questions that a bin of the reliability table has at least: of fewer no share can be told."""
BINS: Final = 10
DRAWS: Final = 20
"""Ways in which the questions are halved; one alone would make the figures a matter of luck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well confidence puts right answers before wrong ones."""

    aurc: Estimate
    ideal: float
    """The AURC had every right answer been surer than every wrong one."""
    blind: float
    """The AURC of a confidence that says nothing: the share of wrong answers."""
    excess: Estimate
    """AURC above the ideal (E-AURC; Geifman et al. 2019, arXiv 1805.08206)."""
    skill: Estimate
    """How much of the way from blind to ideal: 1 is perfect, 0 says nothing, below 0 it misleads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The surest answers down to a threshold."""

    threshold: float
    answered: Share
    right: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers of about the same confidence: is their share of right ones what they say?"""

    low: float
    high: float
    n: int
    stated: float
    """The mean confidence."""
    right: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Answering from a threshold on, passing on the rest; its figures are of thresholds chosen on other questions."""

    threshold: float | None
    """What all questions together would choose; None where it is best to answer nothing."""
    answered: Share
    right: Estimate
    """Of those answered."""
    net: Estimate
    """What a question brings."""
    everything: Estimate
    """The same, were all of them answered."""
    nothing: float
    """The same, were all of them passed on."""
    gain: Difference
    """The net value against answering all."""


def risks(confidences: Sequence[float] | Numbers, scores: Sequence[float] | Numbers) -> Numbers:
    """The share of wrong answers among the 1, 2 ... n surest.

    >>> [round(float(one), 3) for one in risks([0.9, 0.8, 0.8, 0.1], [1, 0, 1, 0])]
    [0.0, 0.25, 0.333, 0.5]
    """
    sure, right = np.asarray(confidences, float), np.asarray(scores, float)
    order = np.argsort(-sure, kind="stable")
    starts = _starts(sure[order])
    sizes = np.diff(np.append(starts, len(order)))
    shared = np.repeat(np.add.reduceat(1 - right[order], starts) / sizes, sizes)
    return np.asarray(np.cumsum(shared) / np.arange(1, len(order) + 1))


def aurc(confidences: Sequence[float] | Numbers, scores: Sequence[float] | Numbers) -> float:
    """The area under the risk-coverage curve.

    >>> aurc([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1])
    0.1458...
    """
    return float(risks(confidences, scores).mean())


def ranking(confidences: Sequence[float], scores: Sequence[float], clusters: Sequence[str] = ()) -> Ranking:
    """AURC and what it is between, with bootstrap intervals over clusters."""
    sure, right = np.array(confidences, float), np.array(scores, float)

    def figures(items: NDArray[np.intp]) -> tuple[float, float, float]:
        area, best, none = aurc(sure[items], right[items]), aurc(right[items], right[items]), 1 - right[items].mean()
        room = float(none - best)
        return area, area - best, (float(none) - area) / room if room > 1e-12 else math.nan

    area, excess, skill = bootstrapped(figures, len(right), clusters)
    return Ranking(
        aurc=area, ideal=aurc(right, right), blind=1 - math.fsum(scores) / len(scores), excess=excess, skill=skill
    )


def steps(confidences: Sequence[float], scores: Sequence[float], clusters: Sequence[str] = ()) -> tuple[Step, ...]:
    """The curve as a table: for each share in COVERAGES the highest threshold that answers as much."""
    ordered = sorted(confidences, reverse=True)
    wanted = [ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)] for share in COVERAGES]
    found = []
    for threshold in dict.fromkeys(wanted):
        inside = [place for place, one in enumerate(confidences) if one >= threshold]
        right = mean([scores[place] for place in inside], [clusters[place] for place in inside] if clusters else ())
        found.append(Step(threshold=threshold, answered=Share(len(inside), len(scores)), right=right))
    return tuple(found)


def reliability(confidences: Sequence[float], scores: Sequence[float], clusters: Sequence[str] = ()) -> tuple[Bin, ...]:
    """Bins of about as many answers each, the least sure first; equal confidences are never parted."""
    order = sorted(range(len(scores)), key=lambda place: confidences[place])
    size = max(BIN, math.ceil(len(order) / BINS))
    parts: list[list[int]] = []
    for place in order:
        if not parts or (len(parts[-1]) >= size and confidences[place] != confidences[parts[-1][-1]]):
            parts.append([])
        parts[-1].append(place)
    if len(parts) > 1 and len(parts[-1]) < BIN:
        parts[-2:] = [parts[-2] + parts[-1]]
    return tuple(
        Bin(
            low=confidences[part[0]],
            high=confidences[part[-1]],
            n=len(part),
            stated=math.fsum(confidences[place] for place in part) / len(part),
            right=mean([scores[place] for place in part], [clusters[place] for place in part] if clusters else ()),
        )
        for part in parts
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """How far the bins are from what they say, on average over answers (ECE; Naeini et al. 2015, AAAI 29:2901).

    Bins of few answers are off by chance alone: a perfect confidence has an error above 0, too.
    """
    return math.fsum(one.n * abs(one.right.value - one.stated) for one in bins) / sum(one.n for one in bins)


def best_threshold(confidences: Sequence[float] | Numbers, scores: Sequence[float] | Numbers, stakes: Stakes) -> float:
    """From which confidence on answering brings most; of equals the lowest; infinity where nothing should be answered.

    >>> best_threshold([0.9, 0.8, 0.4, 0.2], [1, 1, 0, 1], Stakes(right=1, wrong=3))
    0.8
    """
    sure, right = np.asarray(confidences, float), np.asarray(scores, float)
    order = np.argsort(-sure, kind="stable")
    brought = np.cumsum(stakes.right * right[order] - stakes.wrong * (1 - right[order]) + stakes.passed_on)
    ends = np.append(_starts(sure[order])[1:], len(order)) - 1
    sums = np.append(0.0, brought[ends])
    best = np.flatnonzero(sums >= sums.max() - 1e-9)[-1]
    return float(sure[order][ends[best - 1]]) if best else math.inf


def policy(
    confidences: Sequence[float], scores: Sequence[float], stakes: Stakes, clusters: Sequence[str] = ()
) -> Policy | None:
    """The best threshold and what it is worth on questions that did not choose it; None where all are one cluster.

    The questions are halved by lot, whole clusters at a time, again and again; each is answered where most of the
    thresholds that were chosen in halves without it would answer it.
    """
    sure, right = np.array(confidences, float), np.array(scores, float)
    labels = list(clusters) or [str(place) for place in range(len(right))]
    if len(set(labels)) < 2:
        return None
    votes = np.zeros(len(right))
    for draw in range(DRAWS):
        half = _half(labels, draw)
        for mine in (half, ~half):
            votes[mine] += sure[mine] >= best_threshold(sure[~mine], right[~mine], stakes)
    chosen = 2 * votes > DRAWS
    worth, answers = _worth(right, chosen, stakes), np.flatnonzero(chosen)
    threshold = best_threshold(sure, right, stakes)
    everything = mean(scores, labels)
    return Policy(
        threshold=threshold if math.isfinite(threshold) else None,
        answered=Share(len(answers), len(right)),
        right=mean([scores[place] for place in answers], [labels[place] for place in answers]),
        net=_net(worth, stakes, labels),
        everything=Estimate(*(stakes.net(one) for one in (everything.value, everything.low, everything.high))),
        nothing=0.0 - stakes.passed_on,
        gain=change(
            (worth - _worth(right, np.ones(len(right), bool), stakes)).tolist(),
            labels,
            most=max(stakes.right + stakes.passed_on, stakes.wrong - stakes.passed_on),
        ),
    )


def _worth(scores: Numbers, answered: NDArray[np.bool_], stakes: Stakes) -> Numbers:
    """What each question brings."""
    return np.where(answered, stakes.right * scores - stakes.wrong * (1 - scores), -stakes.passed_on)


def _net(worth: Numbers, stakes: Stakes, labels: Sequence[str]) -> Estimate:
    """The mean, with the interval of a score: where few are wrong, those few decide it (see `stats.mean`)."""
    least, reach = -max(stakes.wrong, stakes.passed_on), stakes.right + max(stakes.wrong, stakes.passed_on)
    seen = mean(((worth - least) / reach).tolist(), labels)
    return Estimate(*(least + reach * one for one in (seen.value, seen.low, seen.high)))


def _starts(ordered: Numbers) -> NDArray[np.intp]:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))


def _half(labels: Sequence[str], draw: int) -> NDArray[np.bool_]:
    """Which items are in the first half: clusters by lot, each into the half that has fewer items."""
    sizes, sides = Counter(labels), dict[str, bool]()
    names, lead = list(sizes), 0
    Random(draw).shuffle(names)
    for name in names:
        sides[name] = lead <= 0
        lead += sizes[name] if sides[name] else -sizes[name]
    return np.array([sides[name] for name in labels])
