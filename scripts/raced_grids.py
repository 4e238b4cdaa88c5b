"""Grids that never ran, drawn where the truth is known, screened by the code that screens a real run.

`likely` is the prior of what people's grids look like. It was fixed before any result of it was seen:

    shapes       12 to 48 combinations, six shapes alike; 100, 200, 300, 500 or 1,000 questions; a quarter in clusters
    baseline     right in 15 to 60 of 100
    levers       one in four does nothing at all; else its levels bring from a fifth of its reach down to all of it up,
                 and the reach is drawn up to 25 points for adapters, 35 for retrieval, 15 for prompts
    together     each combination is off the sum of its levers by a normal deviation of up to 3 points
    questions    what is hard for one combination is hard for all: latent luck is shared to 40 to 80 %

Knows nothing of what would be good enough: that is `scripts.check_screening`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eval.effects import Scores, main_effects
from eval.screening import Race, by_lot, first_round, in_family, screen
from eval.task import Example
from retrieval.stats import ALPHA, paired
from scripts.known_truth import answers, labels, planted
from serve.combination import Combination

SHAPES: Final = ((2, 3, 2), (2, 4, 2), (2, 4, 3), (3, 4, 3), (2, 5, 4), (3, 4, 4))
SIZES: Final = (100, 200, 300, 500, 1000)
REACH: Final = (0.25, 0.35, 0.15)
IDLE: Final = 0.25
OWN: Final = 0.03
NEAR: Final = 0.01
"""Who is this close to the truly best is as good: a test set of 1,000 cannot tell them apart."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """Combinations with their true scores, and a test set. The first combination is the baseline."""

    truth: Mapping[Combination, float]
    n: int
    clustered: bool = False
    correlation: float = 0.6
    levers: int = 3
    """How many levers do anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one grid."""

    same: bool
    """The combination that has the highest score when everything is asked is still there, and so is chosen."""
    near: bool
    """One that is truly the best, or within a point of it, is still there."""
    best: bool
    """The truly best is still there."""
    loss: float
    """How much the chosen one is truly worse than the best."""
    loss_in_full: float
    """The same when everything is asked."""
    calls: float
    """Answers asked, as a share of all."""
    calls_with_oracle: float
    """The same with an oracle arm for each adapter and strategy."""
    adopted: bool
    """Whether the chosen one beats the baseline after correction."""
    levers: int
    """How many levers do anything, in truth."""


@dataclass(frozen=True, slots=True)
class Bias:
    """An effect of a lever in a grid that is screened, and what two ways of estimating it come to on average."""

    level: str
    truth: float
    first: float
    """From the first round."""
    first_error: float
    own: float
    """From all that each combination was asked."""
    own_error: float


def likely(draw: np.random.Generator) -> World:
    """A grid as people may have it; the docstring of this module says how it is drawn."""
    shape, n = SHAPES[draw.integers(len(SHAPES))], SIZES[draw.integers(len(SIZES))]
    truth, levers = np.full(shape, draw.uniform(0.15, 0.6)), 0
    for axis, (levels, most) in enumerate(zip(shape, REACH, strict=True)):
        if draw.random() < IDLE:
            continue
        levers += 1
        reach = draw.uniform(0, most)
        brings = np.concatenate([[0.0], draw.uniform(-reach / 5, reach, levels - 1)])
        truth = truth + np.expand_dims(brings, [other for other in range(3) if other != axis])
    truth = truth + draw.normal(size=shape) * draw.uniform(0, OWN)
    return World(
        _named(np.clip(truth, 0.02, 0.98)), n, bool(draw.random() < 0.25), float(draw.uniform(0.4, 0.8)), levers
    )


def equal(draw: np.random.Generator) -> World:
    """48 combinations, and no difference."""
    return World(_named(np.full((3, 4, 4), 0.5)), SIZES[draw.integers(len(SIZES))], bool(draw.random() < 0.25))


def slightly_better(draw: np.random.Generator) -> World:
    """48 combinations of which one is better by two points: the hardest to keep."""
    truth = np.full((3, 4, 4), 0.5)
    truth[1, 2, 3] = 0.52
    return World(_named(truth), SIZES[draw.integers(len(SIZES))])


def needle(draw: np.random.Generator) -> World:
    """24 combinations about alike, and one that is 15 points better for no lever's sake."""
    truth = 0.4 + draw.normal(size=(2, 4, 3)) * 0.01
    truth[1, 2, 1] = 0.55
    return World(_named(truth), SIZES[draw.integers(len(SIZES))])


def outcome(world: World, draw: np.random.Generator) -> Outcome:
    """Draw the answers, screen, choose, compare."""
    return outcome_of(world, *responses(world, draw))


def outcome_of(world: World, rows: Numbers, alike: Sequence[str]) -> Outcome:
    """The same with the answers given."""
    cells, truth, means = list(world.truth), np.array([*world.truth.values()]), rows.mean(axis=1)
    stops = screen(race_of(cells, rows)).stops
    going = np.array([cell not in stops for cell in cells])
    chosen = int(np.where(going, means, -1).argmax())
    asked = np.array([stops[cell].asked if cell in stops else world.n for cell in cells])
    return Outcome(
        same=bool(means[chosen] >= means.max()),
        near=bool(truth[going].max() >= truth.max() - NEAR),
        best=bool(truth[going].max() == truth.max()),
        loss=float(truth.max() - truth[chosen]),
        loss_in_full=float(truth.max() - truth[means.argmax()]),
        calls=float(asked.mean() / world.n),
        calls_with_oracle=_with_oracle(cells, asked, world.n),
        adopted=_adopted(rows, going, chosen, alike),
        levers=world.levers,
    )


def biases(grids: int, n: int = 300) -> list[Bias]:
    """The grid of `scripts.known_truth` screened many times: effects from the first round, and from all there is."""
    draw, chances = np.random.default_rng([grids, n]), planted()
    baseline = next(iter(chances))

    def levels(scores: Scores) -> dict[str, float]:
        return {one.level: one.estimate.value for one in main_effects(scores, baseline, {})}

    first, own = [], []
    for _ in range(grids):
        rows, _ = responses(World(chances, n), draw)
        race = race_of(list(chances), rows)
        stops = screen(race).stops
        first.append(levels(first_round(race.scores, race.order)))
        asked = {cell: race.order[: stops[cell].asked if cell in stops else n] for cell in chances}
        own.append(levels({cell: {"mean": fmean(race.scores[cell][i] for i in asked[cell])} for cell in chances}))
    truth = levels({cell: {"mean": chance} for cell, chance in chances.items()})
    return [
        Bias(level, true, *_average([one[level] for one in first]), *_average([one[level] for one in own]))
        for level, true in truth.items()
    ]


def responses(world: World, draw: np.random.Generator) -> tuple[Numbers, list[str]]:
    """Right and wrong by combination and question, and the questions' clusters."""
    alike = labels(world.n, world.clustered)
    return answers(draw, np.array([*world.truth.values()]), world.n, alike, world.correlation), alike


def race_of(cells: list[Combination], rows: Numbers) -> Race:
    """A race in which everything has been answered: how far it got is what screening says."""
    examples = [Example(id=str(item), question="?", answers=("!",)) for item in range(rows.shape[1])]
    scores = {
        cell: {one.id: score for one, score in zip(examples, row.tolist(), strict=True)}
        for cell, row in zip(cells, rows, strict=True)
    }
    return Race(order=by_lot(examples), scores=scores, failed={}, baseline=cells[0])


def _average(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its own error."""
    return fmean(values), stdev(values) / math.sqrt(len(values))


def _named(truth: Numbers) -> dict[Combination, float]:
    names = [
        Combination(f"adapter{a}", f"retriever{r}", f"strategy{s}") for a, r, s in product(*map(range, truth.shape))
    ]
    return dict(zip(names, truth.ravel().tolist(), strict=True))


def _with_oracle(cells: list[Combination], asked: NDArray[np.int_], n: int) -> float:
    arms = {(cell.adapter, cell.strategy): 0 for cell in cells}
    for cell, questions in zip(cells, asked.tolist(), strict=True):
        arms[cell.adapter, cell.strategy] = max(arms[cell.adapter, cell.strategy], questions)
    return float((asked.sum() + sum(arms.values())) / (n * (len(cells) + len(arms))))


def _adopted(rows: Numbers, going: NDArray[np.bool_], chosen: int, alike: Sequence[str]) -> bool:
    others = [place for place in np.flatnonzero(going).tolist() if place]
    if chosen == 0 or not others:
        return False
    p = [paired(rows[place].tolist(), rows[0].tolist(), alike).p for place in others]
    return in_family(p, stopped=int((~going).sum()))[others.index(chosen)] < ALPHA
