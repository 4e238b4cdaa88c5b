"""Ways to find passages for a query, each a named choice. "No retrieval" is one of them, not a flag.

Knows nothing of prompts or models: where a step needs a model, a caller lends one.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final, Literal, Protocol

import numpy as np
from pydantic import ConfigDict

from retrieval.files import STRICT, model_hash
from retrieval.index import Index, open_index
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.ranking import Ranking, convex, fuse
from retrieval.rerank import Reranker, locate, open_reranker
from retrieval.reuse import Write
from retrieval.vectors import Mask

DEPTH: Final = 100
"""How far hybrid search looks down each of its two rankings before it fuses them."""


async def _no_model(prompt: str) -> str:
    raise RetrievalError("this retriever asks a model, and none was lent: name one (--model-url URL --model NAME)")


def _no_tokenizer(text: str) -> int:
    raise RetrievalError("this retriever counts tokens, and no tokenizer was lent: name one (--tokenizer FOLDER)")


@dataclass(frozen=True, slots=True)
class Hands:
    """What a caller lends to retrievers that need it."""

    write: Write = _no_model
    """prompt -> text: a model."""
    count: Callable[[str], int] = _no_tokenizer
    """How many tokens a text has for the model that will read it."""


NO_HANDS: Final = Hands()


class Retriever(Protocol):
    """Finds passages; how many is its own affair."""

    async def search(self, query: Query) -> tuple[Hit, ...]: ...


@dataclass(frozen=True, slots=True)
class NoRetrieval:
    """The closed-book arm of every comparison: always finds nothing."""

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Search:
    """One ranking of an index's passages; a kind of search says which."""

    index: Index
    k: int

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return self.index.hits(await self.rank(query.text))

    async def rank(self, text: str, rows: Mask | None = None) -> Ranking:
        """The best k rows, of those allowed."""
        raise NotImplementedError


class Dense(Search):
    """Passages that mean something similar: the nearest vectors."""

    async def rank(self, text: str, rows: Mask | None = None) -> Ranking:
        return await self.index.nearest(text, self.k, rows)


class Lexical(Search):
    """Passages that use the same words: BM25. Finds fewer than k where fewer share a word."""

    async def rank(self, text: str, rows: Mask | None = None) -> Ranking:
        return await self.index.matching(text, self.k, rows)


@dataclass(frozen=True, slots=True)
class Hybrid(Search):
    """Both rankings as one: a passage that either puts high, and most of all one that both do."""

    weight: float | None = None
    """The share of the dense score in a convex combination; None fuses by rank, which needs no tuning."""

    async def rank(self, text: str, rows: Mask | None = None) -> Ranking:
        depth = max(DEPTH, 2 * self.k)
        rankings = await asyncio.gather(self.index.nearest(text, depth, rows), self.index.matching(text, depth, rows))
        if self.weight is None:
            return fuse(rankings, self.k)
        candidates = np.unique([row for ranking in rankings for row, _ in ranking]).astype(np.int64)
        dense, lexical = await self.index.scores(text, candidates)
        return [(int(candidates[place]), score) for place, score in convex(dense, lexical, self.weight, self.k)]


class Random(Search):
    """The control arm: any k passages, the same for the same question. A search that is worth its tokens beats it."""

    async def rank(self, text: str, rows: Mask | None = None) -> Ranking:
        allowed = range(len(self.index.passages)) if rows is None else np.flatnonzero(rows).tolist()
        return [(row, 0.0) for row in random.Random(text).sample(allowed, min(self.k, len(allowed)))]


Kind = Literal["dense", "lexical", "hybrid", "random"]

KINDS: Final[Mapping[Kind, type[Search]]] = {"dense": Dense, "lexical": Lexical, "hybrid": Hybrid, "random": Random}


@dataclass(frozen=True, slots=True)
class Reranked:
    """What another search finds, in the order of a model that has read each passage with the question."""

    first: Retriever
    reranker: Reranker
    k: int

    async def search(self, query: Query) -> tuple[Hit, ...]:
        hits = await self.first.search(query)
        scores = await self.reranker.scores((query.text, *(hit.passage.searchable for hit in hits)))
        # Sorting is stable: what the model finds equal stays as the first search had it.
        best = sorted(zip(hits, scores.tolist(), strict=True), key=lambda pair: -pair[1])[: self.k]
        return tuple(Hit(hit.passage, score, rank) for rank, (hit, score) in enumerate(best, start=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankSettings:
    """A second reading, by a cross-encoder, of what a retriever finds first."""

    model: Path
    """The folder of a cross-encoder: `python -m train.reranker` makes one."""
    depth: int = 20
    """How many passages it reads. On two CPU cores each costs a question a thirtieth of a second."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise RetrievalError(
                f"depth is {self.depth}, but a re-ranker reads at least 1 passage; for none, leave it out"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverSettings:
    """A named retriever of a stack."""

    kind: Kind
    index: Path
    """The folder of an index: `python -m retrieval build DOCS INDEX`."""
    k: int = 3
    """How many passages it hands over."""
    rerank: RerankSettings | None = None
    """`{model: FOLDER, depth: 20}`; None leaves them in the order in which they were found."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RetrievalError(f"k is {self.k}, but a retriever hands over at least 1 passage; for none, use `none`")
        if self.rerank and self.rerank.depth < self.k:
            raise RetrievalError(
                f"rerank.depth is {self.rerank.depth} and k is {self.k}: a re-ranker chooses from what it reads, "
                "so raise the first or lower the second"
            )

    def under(self, folder: Path) -> "RetrieverSettings":
        """The same, with paths that were relative to this folder."""
        rerank = self.rerank and replace(self.rerank, model=(folder / self.rerank.model).resolve())
        return replace(self, index=(folder / self.index).resolve(), rerank=rerank)


def open_retriever(settings: RetrieverSettings, hands: Hands = NO_HANDS) -> Retriever:
    """The retriever, ready to search; RetrievalError when its index or its re-ranker cannot be used."""
    index, found_by = open_index(settings.index), KINDS[settings.kind]
    if settings.rerank is None:
        return found_by(index, settings.k)
    return reranked(found_by(index, settings.rerank.depth), settings.rerank, settings.k)


def reranked(first: Retriever, settings: RerankSettings, k: int) -> Reranked:
    """The best k of what `first` finds; RetrievalError when the model cannot be used."""
    folder = locate(settings.model)
    return Reranked(first, open_reranker(folder, model_hash(folder)), k)
