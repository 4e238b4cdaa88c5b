"""What the cells of a run share: each retriever is asked a query once, each model a prompt once, and so many at a time.

Whoever is given what another asked for pays for it all the same: what is compared costs what it would cost alone.
Knows nothing of jobs, records' files or scores.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from eval.gold import searched
from eval.record import Record
from retrieval.passage import Hit, Query
from retrieval.retriever import Retriever
from serve.chat import UNREAD, Message, Reply, Sampling, TooLong, Usage
from serve.combination import BASE, Combination
from serve.meter import charge, metered
from serve.once import Once
from serve.pipeline import Pipeline
from serve.stack import Stack
from serve.strategies.kinds import searched_by
from serve.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Prompt:
    """All that a reply depends on."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Call:
    """A reply, and how many were in flight while it was waited for, itself included: 2 where it had half the engine."""

    reply: Reply
    in_flight: float


class _Shares:
    """Each call's share of the engine's time: of a second with four in flight, a quarter. All shares together are the
    seconds in which any was."""

    def __init__(self) -> None:
        self._calls = 0
        self._since = 0.0
        self._each = 0.0
        """The share of a call that had been in flight from the beginning."""

    @contextmanager
    def one(self) -> Iterator["_Share"]:
        """One more call is in flight inside this block."""
        share = _Share()
        began, before = self._change(1)
        try:
            yield share
        finally:
            ended, after = self._change(-1)
            share.in_flight = (ended - began) / (after - before) if after > before else 1.0

    def _change(self, calls: int) -> tuple[float, float]:
        now = time.perf_counter()
        self._each += (now - self._since) / self._calls if self._calls else 0.0
        self._since, self._calls = now, self._calls + calls
        return now, self._each


@dataclass(slots=True)
class _Share:
    in_flight: float = 1.0


class Exchange:
    """Every call that answers of a run are made of goes through it, while it is open; what a search has written does
    not. What `known` has is not asked again."""

    def __init__(self, at_once: int, known: Iterable[tuple[Prompt, Call]] = ()) -> None:
        self._known = dict(known)
        # The last ten thousand: jobs that share are near each other in the order of asking.
        self._once: Once[Prompt, Call] = Once()
        self._slots = asyncio.Semaphore(at_once)
        self._shares = _Shares()
        self.made = 0
        """Calls that were answered."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._once.close()

    def has(self, prompt: Prompt) -> bool:
        """Whether it has a reply or waits for one."""
        return prompt in self._known or prompt in self._once

    async def call(self, upstream: Upstream, prompt: Prompt) -> Call:
        """The one call with this prompt."""
        return self._known.get(prompt) or await self._once(prompt, lambda: self._ask(upstream, prompt))

    async def _ask(self, upstream: Upstream, prompt: Prompt) -> Call:
        async with self._slots:
            with self._shares.one() as share:
                reply = await upstream.chat(prompt.messages, prompt.sampling)
            self.made += 1
            return Call(replace(reply, completion=None), share.in_flight)


class SharedModel:
    """A model as one answer sees it, which afterwards tells of the calls that the answer took."""

    def __init__(self, upstream: Upstream, exchange: Exchange) -> None:
        self._upstream = upstream
        self._exchange = exchange
        self.shared = True
        """Whether none of them was made for this answer."""
        self.in_flight = 0.0
        """The most that a call of it had beside itself, itself included."""

    @property
    def sampling(self) -> Sampling:
        """The upstream's."""
        return self._upstream.sampling

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        """The reply, for the seconds of its call: the answer's clock also ran while others were served."""
        prompt = Prompt(self._upstream.name, tuple(messages), sampling or self._upstream.sampling)
        self.shared &= self._exchange.has(prompt)
        started = time.perf_counter()
        try:
            call = await self._exchange.call(self._upstream, prompt)
        except TooLong:  # it takes the engine no time, so that all of it was spent on waiting for others
            charge(Usage(), started - time.perf_counter())
            raise
        charge(Usage(), call.reply.seconds - (time.perf_counter() - started))
        self.in_flight = max(self.in_flight, call.in_flight)
        return call.reply


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, and cost."""

    hits: tuple[Hit, ...]
    usage: Usage
    seconds: float


class SharedRetriever:
    """A retriever that is asked each query once."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._once: Once[str, Found] = Once()

    async def search(self, query: Query) -> tuple[Hit, ...]:
        """What it finds, for what it cost to find."""
        key = json.dumps([query.text, query.history, query.meta], default=str, sort_keys=True)
        started = time.perf_counter()
        found = await self._once(key, lambda: self._search(query))
        charge(found.usage, found.seconds - (time.perf_counter() - started))
        return found.hits

    async def _search(self, query: Query) -> Found:
        started = time.perf_counter()
        with metered() as besides:
            hits = await self._retriever.search(query)
        return Found(hits, besides.usage, time.perf_counter() - started + besides.seconds)


def replies(records: Iterable[Record], stack: Stack, pipeline: Pipeline) -> Iterator[tuple[Prompt, Call]]:
    """The calls behind records of this stack, where those tell them whole, and of models that this pipeline asks."""
    models = {name: pipeline.model(name).name for name in (BASE, *pipeline.stack.adapters)}
    for record in records:
        cell = record.combination
        if cell.adapter in models and _is_one_reply(cell, stack) and record.finish_reason != UNREAD:
            reply = Reply(
                text=record.text,
                usage=record.usage,
                finish_reason=record.finish_reason,
                seconds=record.seconds - record.search_seconds,
            )
            prompt = Prompt(models[cell.adapter], record.prompt, drawn(stack.sampling, record.repeat))
            yield prompt, Call(reply, record.in_flight)


def drawn(sampling: Sampling, repeat: int) -> Sampling:
    """How the answers of this repeat are sampled: the first as the stack says, each other with a seed of its own."""
    return replace(sampling, seed=(sampling.seed or 0) + repeat) if repeat else sampling


def _is_one_reply(cell: Combination, stack: Stack) -> bool:
    """Whether an answer of this cell is a reply word for word, and its tokens are that reply's alone."""
    strategy = stack.strategies.get(cell.strategy)
    if strategy is None or not strategy.streamed:
        return False
    used = {searched(cell.retriever), *searched_by(stack.strategies, cell.strategy)}
    return not any(one.expand for name, one in stack.retrievers.items() if name in used)
