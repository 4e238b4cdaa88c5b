"""Rows end to end in packs of a fixed number of tokens, packs in optimiser steps. Nothing is padded, nothing is cut.

Pure arithmetic on lengths; knows nothing of tensors or models.
"""

import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

Pack = tuple[int, ...]
"""Positions of the rows that share one forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many tokens a pack and an optimiser step may hold."""

    pack: int
    step: int

    @property
    def packs_per_step(self) -> int:
        """The same for any number of processes, so that a recipe means the same on any machine."""
        return self.step // self.pack


def best_fit_decreasing(lengths: Sequence[int], order: Sequence[int], budget: int) -> list[Pack]:
    """Pack the rows in `order`: longest first, each into the fullest pack that still takes it.

    >>> best_fit_decreasing([3, 5, 2, 4], range(4), budget=7)
    [(1, 2), (3, 0)]
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), ascending
    for row in sorted(order, key=lambda row: -lengths[row]):
        assert lengths[row] <= budget, "rows that are too long are refused or dropped at the door"
        best = bisect_left(room, (lengths[row], 0))
        if best == len(room):
            left, pack = budget, len(packs)
            packs.append([])
        else:
            left, pack = room.pop(best)
        packs[pack].append(row)
        insort(room, (left - lengths[row], pack))
    return [tuple(pack) for pack in packs]


def steps(lengths: Sequence[int], budget: Budget, epochs: int, seed: int) -> Iterator[tuple[Pack, ...]]:
    """The packs of every optimiser step of a training, the same for the same arguments on every machine.

    Each epoch is packed anew: the shuffle decides which rows of a length meet, and then in which order the packs come.
    """
    for epoch in range(epochs):
        shuffled = random.Random(f"{seed}:{epoch}")
        order = list(range(len(lengths)))
        shuffled.shuffle(order)
        packs = best_fit_decreasing(lengths, order, budget.pack)
        shuffled.shuffle(packs)
        for start in range(0, len(packs), budget.packs_per_step):
            yield tuple(packs[start : start + budget.packs_per_step])


def share(packs: Sequence[Sequence[T]], process: int, processes: int) -> tuple[Sequence[T], ...]:
    """One process's packs of a step: as many as every other process has, empty ones where they run out.

    >>> share([(0,), (1,), (2,)], process=1, processes=2)
    ((1,), ())
    """
    rounds = -(-len(packs) // processes)
    padded: list[Sequence[T]] = [*packs, *[()] * (rounds * processes - len(packs))]
    return tuple(padded[process::processes])
