"""Ask one question one way. The only code that answers: an evaluation and the gateway both call it.

    async with Pipeline(stack) as pipeline:
        answer = await pipeline.ask(Combination.parse("base:none:direct"), Query("Who founded Varn?"))

Talks to one server, which it neither starts nor guards (see `serve.engine`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Self, TypeVar

from retrieval.passage import Hit, Query, RetrievalError
from retrieval.retriever import Retriever
from serve.chat import Answer, Message, Model, Reply, Sampling, ServeError, TooLong, Unavailable
from serve.combination import BASE, Combination
from serve.hands import WRITING, Writer
from serve.heard import Heard
from serve.layout import shown
from serve.meter import charge, metered
from serve.opened import Lend, Opened, alone, open_all
from serve.stack import Stack
from serve.strategies.kind import Strategy
from serve.upstream import PATIENT, Chunk, Line, Patience, Server, Upstream

Piece = tuple[Hit, ...] | Chunk
"""What a listener hears: the sources, then the server's events as they come."""
Listener = Callable[[Piece], Awaitable[None]]
"""Nothing more is read from the server until it has listened."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Pipeline:
    """A stack, ready to answer: its retrievers are open and its strategies built."""

    def __init__(
        self, stack: Stack, server: Server | None = None, patience: Patience = PATIENT, lend: Lend = alone
    ) -> None:
        """`server` is an engine of our own (`Engine.server`); without it, `stack.url` is called.

        `lend` is what a retriever is wrapped in before anyone searches with it.
        """
        self.stack = stack
        self.offered: Mapping[str, Combination] = stack.offered
        self.line: Final = Line(server or Server(stack.urls or ("",)), patience)
        self._opened: Opened = open_all(stack, Writer(self.model(BASE, WRITING)), lend)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.line.__aexit__(*raised)

    async def ask(
        self,
        combination: Combination,
        query: Query,
        retriever: Retriever | None = None,
        sampling: Sampling | None = None,
        model: Model | None = None,
    ) -> Answer:
        """Answer the query this one way; `retriever`, `sampling` and `model`, when given, stand in for the stack's.

        TooLong when any prompt of it is longer than the model can read; it has the answer that this comes to.
        """
        found_by, strategy = self._parts(combination, retriever)
        return await _answer(strategy, query, found_by, model or self.model(combination.adapter, sampling))

    async def stream(
        self, combination: Combination, query: Query, tell: Listener, sampling: Sampling | None = None
    ) -> Answer:
        """The same answer, which `tell` hears while it is made when the strategy allows it; else only the sources."""
        found_by, strategy = self._parts(combination, None)
        model = self.model(combination.adapter, sampling)
        if self.streams(combination):
            return await _answer(strategy, query, _AloudRetriever(found_by, tell), _AloudModel(model, tell))
        answer = await _answer(strategy, query, found_by, model)
        await tell(answer.sources)
        return answer

    async def search(self, name: str, query: Query) -> tuple[Hit, ...]:
        """What the retriever of this name finds, in the order in which an answer would cite it."""
        with metered():
            return shown(await _named("retriever", name, self._opened.retrievers).search(query))

    def streams(self, combination: Combination) -> bool:
        """Whether the answer is one reply word for word: then it may be heard, and all of the server's API be had."""
        return self.stack.strategies[combination.strategy].streamed

    async def too_long(self, words: str) -> str:
        """Why these words alone cannot be answered by an engine of our own; nothing when they may fit.

        A word of `n` bytes has at most `n` tokens, so that most are never counted.
        """
        most = self.stack.engine.max_model_len
        if self.stack.url or len(words.encode("utf-8", "replace")) < most:
            return ""
        tokens = await asyncio.to_thread(self._opened.hands.count, words)
        return f"the messages have {tokens} tokens; with the answer there is room for {most}" if tokens >= most else ""

    def model(self, adapter: str, sampling: Sampling | None = None) -> Upstream:
        """The base model, or the one with this adapter."""
        if adapter != BASE:
            _named("adapter", adapter, self.stack.adapters)
        name = self.stack.model if adapter == BASE else self.line.server.names.get(adapter, adapter)
        return Upstream(self.line, name, sampling or self.stack.sampling)

    async def warm(self) -> None:
        """Look something up with each retriever, so that the first question does not wait for what is read lazily.

        One that wants to be told more than a question says so to whoever asks it; that is no reason not to start.
        """
        for retriever in self._opened.retrievers.values():
            with metered(), suppress(RetrievalError, ServeError):
                await retriever.search(Query("Where does it say so?"))

    async def trouble(self) -> str:
        """Why the server behind this pipeline would not answer now; nothing when it would."""
        try:
            if await self.line.is_over():
                return "the engine cannot go on"
            return "" if await self.line.models() else "the engine offers no model"
        except Unavailable as error:
            return str(error)

    def adopt(self, adapters: Mapping[str, Path], server: Server) -> None:
        """Ask that server, which has these adapters, from now on."""
        self.stack = replace(self.stack, adapters=dict(adapters))
        self.offered = self.stack.offered
        self.line.move(server)

    def refresh(self) -> None:
        """Take up generations that were published since, for questions that begin from now on.

        Reads whole files, so a gateway calls it in a thread, one call at a time. An evaluation never does: what it
        compares was answered from one generation.
        """
        self._opened = self._opened.renewed()

    def _parts(self, combination: Combination, retriever: Retriever | None) -> tuple[Retriever, Strategy]:
        """Both of one moment."""
        opened = self._opened
        found_by = retriever or _named("retriever", combination.retriever, opened.retrievers)
        return found_by, _named("strategy", combination.strategy, opened.strategies)


async def _answer(strategy: Strategy, query: Query, retriever: Retriever, model: Model) -> Answer:
    started = time.perf_counter()
    heard = Heard(model)
    with metered() as besides:
        found_by = _Clocked(retriever)

        def charged(answer: Answer) -> Answer:
            return replace(
                answer,
                usage=sum((reply.usage for reply in heard.replies), besides.usage),
                steps=tuple(reply.text for reply in heard.replies) if len(heard.replies) > 1 else (),
                seconds=time.perf_counter() - started + besides.seconds,
                search_seconds=found_by.seconds,
            )

        try:
            return charged(await strategy(query, found_by, heard))
        except TooLong as refusal:  # another one, since who shares a call shares what it raises
            raise TooLong(str(refusal), charged(refusal.answer)) from None


async def probe_adapters(pipeline: Pipeline) -> None:
    """Refuse adapters that change nothing: one whose modules vLLM does not know is served as the bare base model."""
    if dead := await dead_adapters(pipeline):
        raise ServeError("\n".join(f"{pipeline.stack.where('adapters', name)}: {name} {NO_EFFECT}" for name in dead))


async def dead_adapters(pipeline: Pipeline) -> tuple[str, ...]:
    """The adapters that change nothing, as far as the server tells."""
    return await unchanged({name: pipeline.model(name) for name in pipeline.stack.adapters}, pipeline)


async def unchanged(models: Mapping[str, Upstream], pipeline: Pipeline) -> tuple[str, ...]:
    """Those of the models that are the base model to the last digit, if the server tells any.

    Base and model are asked at one server, since another's last digits are others, and at each that answers;
    Unavailable when none does.
    """
    base = pipeline.model(BASE)
    urls = (*base.line.server.urls,)  # as they are now: some come and go
    names = [base.name, *(model.name for model in models.values())]
    offers = await _offered(base.line, urls) if models and len(urls) != 1 else dict.fromkeys(urls, names)
    _tell_of_gaps(names, offers, urls)
    dead, probed, whys = set[str](), set[str](), list[str]()
    for url, offered in offers.items():
        there = {name: model for name, model in models.items() if base.name in offered and model.name in offered}
        try:
            async with base.line.at(url) as line:
                dead.update(await _unchanged(there, base, line))
        except Unavailable as error:
            whys.append(str(error))
        else:
            probed.update(there)
    if whys and not probed:
        raise Unavailable("; ".join(whys))
    for why in whys:
        _logger.warning("%s: its adapters are not probed, and the other servers go on", why)
    return tuple(name for name in models if name in dead)


async def _offered(line: Line, urls: Sequence[str]) -> dict[str, list[str]]:
    return {url: [card["id"] for card in cards] for url, cards in (await line.listed(urls)).items()}


async def _unchanged(models: Mapping[str, Upstream], base: Upstream, line: Line) -> list[str]:
    said = await _first_token(replace(base, line=line)) if models else None
    asked = models.items() if said is not None else ()
    return [name for name, model in asked if await _first_token(replace(model, line=line)) == said]


def _tell_of_gaps(names: Sequence[str], offers: Mapping[str, Container[str]], urls: Sequence[str]) -> None:
    """Say which servers are down or lack a model; ServeError for a model that all of them lack."""
    for name in names:
        without = [url for url, offered in offers.items() if name not in offered]
        if len(without) == len(urls):
            raise ServeError(f"none of the {len(urls)} servers offers {name}: start them with it, or leave it out")
        for url in without:
            _logger.warning("%s does not offer %s, so the other servers are asked for it", url, name)
    for url in urls:
        if url not in offers:
            _logger.warning("%s does not answer: its adapters are not probed, and the other servers go on", url)


NO_EFFECT: Final = "has no effect: it answers like the base model to the last digit. Train it again, or leave it out."


async def _first_token(model: Upstream) -> object:
    """The log-probabilities at the start of the answer to a fixed prompt; None when the server does not tell them."""
    prompt = (Message("user", "Question: Who are you?"),)
    completion = await model.complete(prompt, Sampling(max_tokens=1), logprobs=True, top_logprobs=5)
    return completion["choices"][0].get("logprobs")


@dataclass(slots=True)
class _Clocked:
    """A retriever whose seconds are added up, of searches at once too, with what the meter has besides."""

    retriever: Retriever
    seconds: float = 0.0

    async def search(self, query: Query) -> tuple[Hit, ...]:
        started = time.perf_counter()
        with metered() as besides:
            hits = await self.retriever.search(query)
        charge(besides.usage, besides.seconds)
        self.seconds += time.perf_counter() - started + besides.seconds
        return hits


@dataclass(frozen=True, slots=True)
class _AloudRetriever:
    """A retriever that also tells what it found."""

    retriever: Retriever
    tell: Listener

    async def search(self, query: Query) -> tuple[Hit, ...]:
        hits = shown(await self.retriever.search(query))
        await self.tell(hits)
        return hits


@dataclass(frozen=True, slots=True)
class _AloudModel:
    """A model that also tells what it writes, while it writes."""

    model: Upstream
    tell: Listener

    @property
    def sampling(self) -> Sampling:
        return self.model.sampling

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        return await self.model.hear(messages, self.tell, sampling)


def _named(what: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there is: {', '.join(known) or 'none'}"
        raise ServeError(f"the stack has no {what} {name!r}; {hint}")
    return known[name]
