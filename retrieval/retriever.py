"""A named way to find passages: what is asked, where, what is chosen of what is found, and how much of it is shown.

"No retrieval" is one of them, not a flag. Knows nothing of prompts or models: where a step needs a model, a caller
lends one.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Protocol, TypeAlias

from retrieval import steps
from retrieval.expand import KINDS as EXPANSIONS
from retrieval.expand import Expansion, expansion
from retrieval.files import model_hash
from retrieval.filters import keeps, names
from retrieval.index import Index, open_index
from retrieval.passage import Hit, Passage, Query, RetrievalError
from retrieval.ranking import Ranking, fuse, interleave
from retrieval.rerank import Reranker, locate, open_reranker
from retrieval.reuse import Write
from retrieval.route import Router, introduction, open_router
from retrieval.search import KINDS, Hybrid, Search
from retrieval.settings import Extent, RetrieverSettings
from retrieval.store import Passages
from retrieval.turns import searches
from retrieval.vectors import Mask

Step: TypeAlias = Callable[[Query, tuple[Hit, ...]], Awaitable[tuple[Hit, ...]]]
Merge: TypeAlias = Callable[[Sequence[Ranking], int], Ranking]
AtOnce: TypeAlias = Callable[..., Awaitable[list[Ranking]]]

MASKS: Final = 64
"""Filters whose passages are remembered, for each retriever."""


class Retriever(Protocol):
    """Finds passages; how many is its own affair."""

    async def search(self, query: Query) -> tuple[Hit, ...]: ...


@dataclass(frozen=True, slots=True)
class NoRetrieval:
    """The closed-book arm of every comparison: always finds nothing."""

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return ()


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
    at_once: AtOnce = asyncio.gather
    """What each of a search's branches gives, in their order: whoever counts what `write` takes sees which overlap."""


NO_HANDS: Final = Hands()


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A search with what stands before it and after it."""

    turns: int
    asks: Expansion
    allowed: Callable[[Query], Awaitable[Mask | None]]
    first: Search
    merge: Merge
    steps: tuple[Step, ...]
    at_once: AtOnce

    async def search(self, query: Query) -> tuple[Hit, ...]:
        asked = searches(query, self.turns)
        rankings = await self.at_once(*map(self._ranking, asked))
        hits = self.first.index.hits(_one(interleave, rankings, self.first.k))
        for step in self.steps:
            hits = await step(asked[0], hits)
        return hits

    async def _ranking(self, query: Query) -> Ranking:
        queries, rows = await asyncio.gather(self.asks(query), self.allowed(query))
        rankings = await asyncio.gather(*(self.first.rank(one, rows) for one in queries))
        return _one(self.merge, rankings, self.first.k)


def _one(merge: Merge, rankings: Sequence[Ranking], k: int) -> Ranking:
    """A ranking that is alone keeps its scores."""
    return merge(rankings, k) if len(rankings) > 1 else rankings[0]


def open_retriever(settings: RetrieverSettings, hands: Hands = NO_HANDS) -> Retriever:
    """The retriever, ready to search; RetrievalError when its index, its re-ranker or its router cannot be used."""
    index = open_index(settings.index)
    router = open_router(settings.route, index.embedder.question) if settings.route else None
    return Composed(
        turns=settings.turns,
        asks=expansion(settings.expand, hands.write) if settings.expand else _itself,
        allowed=_Allowed(index, settings, router),
        first=_search(index, settings),
        merge=EXPANSIONS[settings.expand.kind].merge if settings.expand else fuse,
        steps=tuple(_steps(settings, index, router, hands)),
        at_once=hands.at_once,
    )


def _search(index: Index, settings: RetrieverSettings) -> Search:
    if settings.kind == "hybrid":
        return Hybrid(index, settings.found, settings.weight)
    return KINDS[settings.kind](index, settings.found)


def _steps(settings: RetrieverSettings, index: Index, router: Router | None, hands: Hands) -> Iterator[Step]:
    """What happens to hits, in this order: moved by a reader and then by rules, thinned, cut to k, widened, shown."""
    if settings.rerank:
        folder = locate(settings.rerank)
        yield Reread(open_reranker(folder, model_hash(folder)))
    if settings.prefer:
        yield _plain(lambda query, hits: steps.prefer(hits, settings.prefer, query.meta))
    if settings.distinct is not None:
        similarity = settings.distinct
        yield _plain(lambda _, hits: steps.distinct(hits, similarity))
    yield _plain(lambda _, hits: hits[: settings.k])
    if settings.show != "passage":
        yield Widened(index.passages, settings.show)
    yield Shown(settings, router, hands.count)


async def _itself(query: Query) -> tuple[Query, ...]:
    """The question alone is searched for."""
    return (query,)


def _plain(step: Callable[[Query, tuple[Hit, ...]], tuple[Hit, ...]]) -> Step:
    async def taken(query: Query, hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
        return step(query, hits)

    return taken


class _Allowed:
    """Which rows a query may find, by its filter and its domain; None where every one may."""

    def __init__(self, index: Index, settings: RetrieverSettings, router: Router | None) -> None:
        self._index, self._where, self._router = index, settings.where, router
        self._label = settings.route.label if settings.route else ""
        self._mask = lru_cache(maxsize=MASKS)(self._made)

    async def __call__(self, query: Query) -> Mask | None:
        label = await self._router.label(query.text) if self._router else ""
        domain = {self._label: label} if label else {}
        if not self._where and not domain:
            return None
        sent = {name: query.meta[name] for name in names(self._where) if name in query.meta}
        return await asyncio.to_thread(self._mask, json.dumps([domain, sent], default=str, sort_keys=True))

    def _made(self, asked: str) -> Mask:
        """A domain of which there is no document ("both") is none to search in: then all of them are."""
        domain, sent = json.loads(asked)
        rows = self._index.rows(keeps({**self._where, **domain}, sent))
        return rows if rows.any() or not domain else self._index.rows(keeps(self._where, sent))


@dataclass(frozen=True, slots=True)
class Reread:
    """What was found, in the order of a model that has read each passage with the question."""

    reranker: Reranker

    async def __call__(self, query: Query, hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
        scores = await self.reranker.scores((query.text, *(hit.passage.searchable for hit in hits)))
        # Sorting is stable: what the model finds equal stays as the first search had it.
        best = sorted(zip(hits, scores.tolist(), strict=True), key=lambda pair: -pair[1])
        return tuple(Hit(hit.passage, score, rank) for rank, (hit, score) in enumerate(best, start=1))


@dataclass(frozen=True, slots=True)
class Widened:
    """Each hit with what stands around it; of two that would overlap, one."""

    passages: Passages
    extent: Extent

    async def __call__(self, query: Query, hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
        return await asyncio.to_thread(self._widened, hits)

    def _widened(self, hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
        wide: list[Hit] = []
        for hit in hits:
            document, start, end = hit.passage.document, *self._around(hit.passage)
            same = [
                one
                for one in wide
                if one.passage.document == document and one.passage.start <= end and start <= one.passage.end
            ]
            start, end = (
                min([start, *(one.passage.start for one in same)]),
                max([end, *(one.passage.end for one in same)]),
            )
            passage = self.passages.document(document).cut(start, end)
            if not same:
                wide.append(replace(hit, passage=passage))
                continue
            # The better of the two hits grows; whatever else it now reaches is part of it.
            wide[wide.index(same[0])] = replace(same[0], passage=passage)
            wide = [one for one in wide if one not in same[1:]]
        return steps.ranked(wide)

    def _around(self, passage: Passage) -> tuple[int, int]:
        """From where to where in its document."""
        if self.extent == "document":
            return 0, len(self.passages.document(passage.document).text)
        rows = self.passages.of(passage.document)
        place = next(row for row in rows if self.passages[row].start == passage.start)
        before, after = self.passages[max(rows[0], place - 1)], self.passages[min(rows[-1], place + 1)]
        return before.start, after.end


@dataclass(frozen=True, slots=True)
class Shown:
    """What fits, in the prompt's order, after what is said of the domain in which it was found."""

    settings: RetrieverSettings
    router: Router | None
    count: Callable[[str], int]

    async def __call__(self, query: Query, hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
        notes = await self._notes(query)
        if self.settings.tokens is not None:
            left = self.settings.tokens - sum(self.count(one.passage.searchable) for one in notes)
            hits = steps.within(hits, left, self.count)
        return (*notes, *steps.arrange(hits, self.settings.order))

    async def _notes(self, query: Query) -> tuple[Hit, ...]:
        """What is said of the domain; nobody searched for it, so its rank is 0."""
        if self.router is None or self.settings.route is None:
            return ()
        said = introduction(self.settings.route.about, await self.router.label(query.text))
        return () if said is None else (Hit(said, 0.0, 0),)
