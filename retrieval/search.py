"""One ranking of an index's passages: by meaning, by words, by both, or by chance.

Knows nothing of what stands before a search or after it (see `retriever`).
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from retrieval.index import Index
from retrieval.passage import Hit, Query
from retrieval.ranking import Ranking, convex, fuse
from retrieval.settings import Kind
from retrieval.vectors import Mask

DEPTH: Final = 100
"""How far hybrid search looks down each of its two rankings before it fuses them."""


@dataclass(frozen=True, slots=True)
class Search:
    """A retriever that only searches; a kind of search says how it ranks."""

    index: Index
    k: int

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return self.index.hits(await self.rank(query))

    async def rank(self, query: Query, rows: Mask | None = None) -> Ranking:
        """The best k rows, of those allowed."""
        raise NotImplementedError


class Dense(Search):
    """Passages that mean something similar: the nearest vectors."""

    async def rank(self, query: Query, rows: Mask | None = None) -> Ranking:
        return await self.index.nearest(query, self.k, rows)


class Lexical(Search):
    """Passages that use the same words: BM25. Finds fewer than k where fewer share a word."""

    async def rank(self, query: Query, rows: Mask | None = None) -> Ranking:
        return await self.index.matching(query, self.k, rows)


@dataclass(frozen=True, slots=True)
class Hybrid(Search):
    """Both rankings as one: a passage that either puts high, and most of all one that both do."""

    weight: float | None = None
    """The share of the dense score in a convex combination; None fuses by rank, which needs no tuning."""

    async def rank(self, query: Query, rows: Mask | None = None) -> Ranking:
        depth = max(DEPTH, 2 * self.k)
        rankings = await asyncio.gather(self.index.nearest(query, depth, rows), self.index.matching(query, depth, rows))
        if self.weight is None:
            return fuse(rankings, self.k)
        candidates = np.unique([row for ranking in rankings for row, _ in ranking]).astype(np.int64)
        dense, lexical = await self.index.scores(query, candidates)
        return [(int(candidates[place]), score) for place, score in convex(dense, lexical, self.weight, self.k)]


class Random(Search):
    """The control arm: any k passages, the same for the same question. A search that is worth its tokens beats it."""

    async def rank(self, query: Query, rows: Mask | None = None) -> Ranking:
        allowed = range(len(self.index.passages)) if rows is None else np.flatnonzero(rows).tolist()
        return [(row, 0.0) for row in random.Random(query.text).sample(allowed, min(self.k, len(allowed)))]


KINDS: Final[Mapping[Kind, type[Search]]] = {"dense": Dense, "lexical": Lexical, "hybrid": Hybrid, "random": Random}
