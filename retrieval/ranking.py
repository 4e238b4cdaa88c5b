"""Rankings: rows of an index with their scores, the best first. Pure; knows nothing of what the rows are."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ranking: TypeAlias = list[tuple[int, float]]
"""(row, score), best first."""

SMOOTHING: Final = 60
"""The constant of reciprocal rank fusion as published (Cormack, Clarke and Buettcher, SIGIR 2009)."""


def best(scores: NDArray[np.floating[Any]], k: int) -> Ranking:
    """The k best rows with a score above 0; equal scores keep the order of the rows.

    >>> best(np.array([0.5, 0.0, 2.0, 0.5]), 2)
    [(2, 2.0), (0, 0.5)]
    """
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        threshold = np.partition(scores[found], -k)[-k]
        found = found[scores[found] >= threshold]
    order = np.argsort(-scores[found], kind="stable")[:k]
    return [(int(row), float(scores[row])) for row in found[order]]


def fuse(rankings: Sequence[Ranking], k: int) -> Ranking:
    """Reciprocal rank fusion: every ranking gives each of its rows 1 / (60 + rank). On a tie the earlier ranking wins.

    >>> [row for row, _ in fuse([[(7, 0.9), (8, 0.8)], [(8, 12.0), (9, 3.0)]], k=2)]
    [8, 7]
    """
    fused: dict[int, float] = {}
    for ranking in rankings:
        for rank, (row, _) in enumerate(ranking, start=1):
            fused[row] = fused.get(row, 0.0) + 1 / (SMOOTHING + rank)
    return sorted(fused.items(), key=lambda pair: -pair[1])[:k]


def interleave(rankings: Sequence[Ranking], k: int) -> Ranking:
    """Every ranking's best row, then every ranking's second, and so on; no row twice, its score 1 / its best rank.

    For the parts of a question, each of which needs its own answer: fusing would prefer what suits all parts a little.

    >>> interleave([[(7, 0.9), (8, 0.8)], [(7, 12.0), (9, 3.0), (5, 1.0)]], k=3)
    [(7, 1.0), (8, 0.5), (9, 0.5)]
    """
    merged: dict[int, float] = {}
    for rank, place in enumerate(zip_longest(*rankings), start=1):
        for pair in place:
            if pair is not None:
                merged.setdefault(pair[0], 1 / rank)
    return list(merged.items())[:k]
