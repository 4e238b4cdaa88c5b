"""What a sweep found: the best variant, what more rows bring, whether losses rank as scores do, what was lost.

Figures only; knows nothing of how they are said or drawn.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retrieval.stats import Difference, holm
from scripts.sweep.asking import Scores
from scripts.sweep.checkpoints import Checkpoint
from scripts.sweep.correlation import Correlation, rank_correlation
from scripts.sweep.variants import said
from serve.combination import BASE

OTHER_LOSS: Final = ("model", "data", "seed", "eval_fraction", "max_length", "too_long")
"""Keys that change which rows are held out or how they are read: losses across them are of different things."""
HALF: Final = (0.45, 0.55)


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """The most rows against half of them, all else equal."""

    all: Checkpoint
    half: Checkpoint
    change: Difference
    """From half to all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far losses say what scores say, among checkpoints whose losses are over the same rows."""

    label: str
    """What these have in common where others differ; mostly nothing."""
    checkpoints: tuple[Checkpoint, ...]
    correlation: Correlation | None
    by_loss: Checkpoint
    by_score: Checkpoint
    change: Difference
    """From the one with the lowest loss to the one with the highest score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One adapter against what it started from, on a grid that it was not trained for."""

    checkpoint: Checkpoint
    change: Difference
    p_holm: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every checkpoint with its card, and every adapter's scores: on what is trained for, then on what is watched."""

    checkpoints: tuple[Checkpoint, ...]
    target: Scores
    watched: tuple[Scores, ...]

    @property
    def finals(self) -> tuple[Checkpoint, ...]:
        """The end of each training."""
        return tuple(one for one in self.checkpoints if one.final)

    @property
    def best(self) -> Checkpoint:
        """The variant that scores highest; of equals, the one that took the fewest tokens."""
        return max(self.finals, key=lambda one: (self.target.of(one.name).value, -one.tokens))

    @property
    def cheaper(self) -> Checkpoint | None:
        """The cheapest variant that the questions cannot tell from the best."""
        less = [one for one in self.finals if one.tokens < self.best.tokens]
        alike = [one for one in less if self.target.change(self.best.name, one.name).estimate.low <= 0]
        return min(alike, key=lambda one: one.tokens, default=None)

    @property
    def starts(self) -> tuple[str, ...]:
        """What was there before: the base, and adapters that a training continued."""
        return tuple(dict.fromkeys([BASE, *(one.variant.start for one in self.checkpoints)]))

    def curves(self) -> dict[str, list[Checkpoint]]:
        """Learning curves: variants that differ in their rows alone, fewest first, by what else they try."""
        if "rows" not in self.finals[0].variant.tried:
            return {}
        found = grouped(self.finals, [key for key in self.finals[0].variant.tried if key != "rows"])
        return {label: sorted(ones, key=lambda one: one.rows) for label, ones in found.items()}

    def halves(self) -> dict[str, Half | None]:
        """Of each curve its most rows against half of them; None where nobody learnt from half."""
        return {label: self._half(curve) for label, curve in self.curves().items()}

    def agreements(self) -> Iterator[Agreement]:
        """Losses against scores, for each set of checkpoints that can be compared by loss."""
        measured = [one for one in self.checkpoints if one.eval_loss is not None]
        keys = [key for key in OTHER_LOSS if key in self.checkpoints[0].variant.tried]
        for label, ones in grouped(measured, keys).items():
            scores = [list(self.target.table[one.name].values()) for one in ones]
            by_loss = min(ones, key=_loss)
            by_score = max(ones, key=lambda one: (self.target.of(one.name).value, -_loss(one)))
            yield Agreement(
                label=label,
                checkpoints=tuple(ones),
                correlation=rank_correlation([_loss(one) for one in ones], scores),
                by_loss=by_loss,
                by_score=by_score,
                change=self.target.change(by_score.name, by_loss.name),
            )

    def watch(self, scores: Scores) -> tuple[Watch, ...]:
        """Every adapter against what it started from, corrected for how many there are (Holm)."""
        changes = [scores.change(one.name, one.variant.start) for one in self.checkpoints]
        corrected = holm([change.p for change in changes])
        return tuple(
            Watch(checkpoint=one, change=change, p_holm=p)
            for one, change, p in zip(self.checkpoints, changes, corrected, strict=True)
        )

    def _half(self, curve: Sequence[Checkpoint]) -> Half | None:
        most = curve[-1]
        near = [one for one in curve if HALF[0] <= one.rows / most.rows <= HALF[1]]
        if not near:
            return None
        half = min(near, key=lambda one: abs(one.rows / most.rows - 0.5))
        return Half(all=most, half=half, change=self.target.change(most.name, half.name))


def grouped(ones: Sequence[Checkpoint], keys: Sequence[str]) -> dict[str, list[Checkpoint]]:
    """Checkpoints by their values of these keys, in words."""
    found: dict[str, list[Checkpoint]] = {}
    for one in ones:
        found.setdefault(labelled({key: one.variant.tried[key] for key in keys}), []).append(one)
    return found


def labelled(tried: Mapping[str, Any]) -> str:
    """Values of keys, as a label.

    >>> labelled({"epochs": 2, "rows": None}), labelled({})
    ('epochs 2, rows all', '')
    """
    return ", ".join(f"{key} {said(key, value)}" for key, value in tried.items())


def _loss(one: Checkpoint) -> float:
    return math.inf if one.eval_loss is None else one.eval_loss
