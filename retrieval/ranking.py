"""Rankings: rows of an index with their scores, the best first. Pure; knows nothing of what the rows are."""

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ranking: TypeAlias = list[tuple[int, float]]
"""(row, score), best first."""

Scores: TypeAlias = NDArray[np.floating[Any]]

SMOOTHING: Final = 60
"""The constant of reciprocal rank fusion as published (Cormack, Clarke and Buettcher, SIGIR 2009)."""


def best(scores: Scores, k: int) -> Ranking:
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


def merge(rankings: Iterable[Ranking], k: int) -> Ranking:
    """The k best of rankings whose scores compare and whose rows differ; equal scores keep the order of the rows.

    >>> merge([[(1, 0.9), (0, 0.5)], [(7, 0.8), (6, 0.5)]], k=3)
    [(1, 0.9), (7, 0.8), (0, 0.5)]
    """
    return sorted(chain.from_iterable(rankings), key=lambda pair: (-pair[1], pair[0]))[:k]


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


def convex(dense: Scores, lexical: Scores, weight: float, k: int) -> Ranking:
    """Convex combination of two searches' scores for the same candidates: `weight` is the dense one's share, 0 to 1.

    `dense` holds cosines (-1 to 1) and `lexical` BM25 scores (0 and up), shape (candidates,) each; the rows that come
    back are places in them. Each is first brought to 0..1 by the least value that it could have and the largest that
    it has for this query (Bruch, Gai and Ingber 2023, arXiv 2210.11934: theoretical min-max, TM2C2), so that one
    weight suits all queries. On a tie the earlier candidate wins; one that nothing speaks for is left out.

    >>> [row for row, _ in convex(np.array([0.9, 0.1, 0.8]), np.array([0.0, 7.0, 6.0]), weight=0.5, k=2)]
    [2, 1]
    """
    return best(weight * _scaled(dense, -1.0) + (1 - weight) * _scaled(lexical, 0.0), k)


def _scaled(scores: Scores, least: float) -> NDArray[np.float64]:
    above = scores.astype(np.float64) - least
    most = above.max(initial=0.0)
    return above / most if most > 0 else above


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
