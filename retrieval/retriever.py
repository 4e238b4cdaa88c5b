"""Ways to find passages for a query, each a named choice with its own k. "No retrieval" is one of them, not a flag.

Knows nothing of prompts or models.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, Protocol

from pydantic import ConfigDict

from retrieval.files import STRICT
from retrieval.index import Index, open_index
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.ranking import fuse

DEPTH: Final = 100
"""How far hybrid search looks down each of its two rankings before it fuses them."""


class Retriever(Protocol):
    """Finds passages; how many is its own affair."""

    async def search(self, query: Query) -> tuple[Hit, ...]: ...


@dataclass(frozen=True, slots=True)
class NoRetrieval:
    """The closed-book arm of every comparison: always finds nothing."""

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Dense:
    """Passages that mean something similar: the nearest vectors."""

    index: Index
    k: int

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return self.index.hits(await self.index.nearest(query.text, self.k))


@dataclass(frozen=True, slots=True)
class Lexical:
    """Passages that use the same words: BM25. Finds fewer than k where fewer share a word."""

    index: Index
    k: int

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return self.index.hits(await self.index.matching(query.text, self.k))


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Both rankings, fused by rank: a passage that either puts high, and most of all one that both do."""

    index: Index
    k: int

    async def search(self, query: Query) -> tuple[Hit, ...]:
        depth = max(DEPTH, 2 * self.k)
        rankings = await asyncio.gather(self.index.nearest(query.text, depth), self.index.matching(query.text, depth))
        return self.index.hits(fuse(rankings, self.k))


@dataclass(frozen=True, slots=True)
class Random:
    """The control arm: any k passages, the same for the same question. A search that is worth its tokens beats it."""

    index: Index
    k: int

    async def search(self, query: Query) -> tuple[Hit, ...]:
        rows = range(len(self.index.passages))
        drawn = random.Random(query.text).sample(rows, min(self.k, len(rows)))
        return self.index.hits([(row, 0.0) for row in drawn])


Kind = Literal["dense", "lexical", "hybrid", "random"]

KINDS: Final[dict[Kind, Callable[[Index, int], Retriever]]] = {
    "dense": Dense,
    "lexical": Lexical,
    "hybrid": Hybrid,
    "random": Random,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverSettings:
    """A named retriever of a stack."""

    kind: Kind
    index: Path
    """The folder of an index: `python -m retrieval build DOCS INDEX`."""
    k: int = 3
    """How many passages it hands over."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RetrievalError(f"k is {self.k}, but a retriever hands over at least 1 passage; for none, use `none`")


def open_retriever(settings: RetrieverSettings) -> Retriever:
    """The retriever, ready to search; RetrievalError when its index cannot be used."""
    return KINDS[settings.kind](open_index(settings.index), settings.k)
