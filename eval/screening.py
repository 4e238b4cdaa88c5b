"""Which combinations are hopeless before all their questions were asked: they stop, and the others go on.

    screened = screen(race)        # the same answers always come to the same decisions, so nothing needs to be kept

The questions come in an order drawn by lot, in rounds. After a round the combination with the highest score leads; who
is so far behind it that all of the questions would hardly bring it back is asked no further. So what is promised is
that the combination which would win with every question answered is still there at the end.

Each look at each combination is an exact paired test against the leader, at 5 % divided by the looks (Bonferroni, the
simplest of group-sequential designs: Jennison & Turnbull 2000, chapter 2). Its chance is the order's alone, so clusters
play no part, and what was asked cannot be drawn again: the error shrinks by the root of the share that is left (Cochran
1977, section 2.6). There is no correction for the number of combinations, which would cost a third of the saving:
`python -m scripts.check_screening` shows that the winner is kept without it in 99 of 100 grids as people have them, and
in 94 of the hardest kind that was tried.

Knows nothing of engines, files or verdicts.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from scipy.special import ndtr, ndtri

from eval.effects import Scores
from eval.gold import is_oracle
from eval.task import Example
from retrieval.stats import ALPHA, holm, paired
from serve.combination import Combination

LOOKS: Final = (1 / 6, 1 / 3, 1 / 2)
"""Which shares of the questions have been asked when combinations may be stopped."""
USUAL: Final = (0.49, 0.73)
"""Which share of the answers of a grid is asked: on average, and in nine of ten at most (`scripts.check_screening`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """How far a grid has come."""

    order: Sequence[str]
    """Every example, as `by_lot` has them."""
    scores: Scores
    """Of every combination, those that cannot be chosen included; an example without an answer is not in it."""
    failed: Mapping[Combination, AbstractSet[str]]
    """Examples that were tried and have no answer: nobody waits for them."""
    baseline: Combination


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a combination is asked no further."""

    asked: int
    """After how many questions."""
    leader: Combination
    behind: float
    """By how much the leader's score on them is higher."""
    p: float
    """The chance of being that far behind and yet ending level, in one look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """What may be asked by now, and what is asked no further."""

    asked: int
    """How many examples, in the order of the race."""
    stops: Mapping[Combination, Stop]


def by_lot(examples: Sequence[Example]) -> tuple[str, ...]:
    """Every example, in an order by lot that is the same every time; each part of it has its share of every slice."""
    slices = defaultdict[str, list[str]](list)
    for one in sorted(examples, key=_lot):
        slices[one.slice].append(one.id)
    places = {item: (place + 0.5) / len(items) for items in slices.values() for place, item in enumerate(items)}
    return tuple(sorted(places, key=places.__getitem__))


def ends(questions: int) -> tuple[int, ...]:
    """How many of so many questions have been asked at each look; after the last question there is none.

    >>> ends(100), ends(2)
    ((17, 34, 50), (1,))
    """
    return tuple(sorted({end for look in LOOKS if (end := math.ceil(questions * look)) < questions}))


def screen(race: Race) -> Screening:
    """Go through the looks so far. A look waits until every combination still in the race has tried its questions.

    The baseline is never stopped, since everything is compared with it. An oracle arm is a measure for others: it goes
    on for as long as any combination of its adapter and strategy does.
    """
    stops: dict[Combination, Stop] = {}
    choices = [cell for cell in race.scores if not is_oracle(cell.retriever)]
    for end in ends(len(race.order)):
        racing = [cell for cell in choices if cell not in stops]
        if any(_waiting(race, cell, end) for cell in racing):
            return Screening(asked=end, stops=stops | _idle(race, stops))
        stops |= _behind(race, racing, end)
    return Screening(asked=len(race.order), stops=stops | _idle(race, stops))


def chance(ours: Sequence[float], theirs: Sequence[float], share: float) -> float:
    """How likely one would look this much worse, after this share of all questions, and yet be as good on all of them.

    >>> behind, ahead = [0.0] * 6 + [1.0] * 6, [1.0] * 12
    >>> round(chance(behind, ahead, share=0), 4), round(chance(behind, ahead, share=0.5), 4), chance(ahead, behind, 0.5)
    (0.0156, 0.0012, 1.0)
    """
    found = paired(ours, theirs)
    if found.estimate.value >= 0:
        return 1.0
    return float(ndtr(ndtri(found.p / 2) / math.sqrt(1 - share)))


def in_family(p_values: Sequence[float], stopped: int) -> list[float]:
    """Holm's p-values of what was compared, in the family of all that could have been: who was stopped has lost.

    >>> in_family([0.01, 0.04], stopped=2)
    [0.04, 0.12]
    """
    return holm([*p_values, *[1.0] * stopped])[: len(p_values)]


def first_round(scores: Scores, order: Sequence[str]) -> Scores:
    """The scores on the questions of the first round: what effects of levers are estimated from.

    Every combination was asked these, whatever came of it. On more questions those who go on are the lucky ones and
    those who stopped the unlucky ones, so that any average over them is off.
    """
    asked = set(order[: min(ends(len(order)), default=len(order))])
    return {cell: {item: one for item, one in table.items() if item in asked} for cell, table in scores.items()}


def _lot(example: Example) -> str:
    return hashlib.sha256(f"{example.id}\n{example.question}".encode()).hexdigest()


def _waiting(race: Race, cell: Combination, end: int) -> bool:
    answered, failed = race.scores[cell], race.failed.get(cell, frozenset())
    return any(item not in answered and item not in failed for item in race.order[:end])


def _behind(race: Race, racing: Sequence[Combination], end: int) -> Iterator[tuple[Combination, Stop]]:
    """Those who stop at this look. Who has gaps is not judged, and nobody is judged by it."""
    asked = race.order[:end]
    tables = {
        cell: [race.scores[cell][item] for item in asked]
        for cell in racing
        if all(item in race.scores[cell] for item in asked)
    }
    leader = max(tables, key=lambda cell: math.fsum(tables[cell]), default=race.baseline)
    for cell, ours in tables.items():
        if cell in (leader, race.baseline):
            continue
        p = chance(ours, tables[leader], end / len(race.order))
        if p < ALPHA / len(LOOKS):
            behind = (math.fsum(tables[leader]) - math.fsum(ours)) / end
            yield cell, Stop(asked=end, leader=leader, behind=behind, p=p)


def _idle(race: Race, stops: Mapping[Combination, Stop]) -> dict[Combination, Stop]:
    """The oracle arms that measure for nobody any more, each with the last stop among those it measured for."""
    served = defaultdict[tuple[str, str], list[Combination]](list)
    for cell in race.scores:
        if not is_oracle(cell.retriever):
            served[cell.adapter, cell.strategy].append(cell)
    return {
        arm: max((stops[cell] for cell in cells), key=lambda stop: stop.asked)
        for arm in race.scores
        if is_oracle(arm.retriever) and (cells := served[arm.adapter, arm.strategy]) and all(map(stops.get, cells))
    }
