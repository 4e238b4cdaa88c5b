"""One chat model behind an OpenAI-compatible server: ask it, hear it, and say plainly when it cannot be reached.

Knows nothing of strategies, retrieval, or of who started the server.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from serve.balance import Balance, Models, Silent
from serve.chat import Message, Reply, Requested, Sampling, ServeError, TooLong, Unavailable, Usage, unread
from serve.complaint import complaint, is_of_length
from serve.session import opened, read_to_the_end

JSON: Final = {"Content-Type": "application/json"}
REFUSED: Final = 400
TOO_MANY: Final = 429
OVER: Final = 503
STREAM: Final = {"stream": True, "stream_options": {"include_usage": True}}
BACK_OFF: Final = (0.1, 0.5, 2.0)
"""Seconds between attempts: an engine that is busy recovers within these, one that is gone does not."""
LOOK: Final = 0.5
"""Seconds between two looks for an engine that is on its way."""
LISTED: Final = 5.0
"""Seconds for a server to say which models it has."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where models are asked: at one address, or at several that offer the same."""

    urls: Sequence[str] = ("http://engine/v1",)
    """Read anew for each call: of engines that come and go, those that are there."""
    socket: Path | None = None
    """Of an engine of our own."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What that server calls an adapter, where it is not the adapter's name."""
    key: str = field(default="", repr=False)
    """Of engines of our own that listen on ports; else OPENAI_API_KEY is sent when set."""
    comes_within: float = 0.0
    """Seconds for which a call waits while no engine can be reached, since another is on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server is waited for, in seconds, and after which pauses it is asked again."""

    connect: float = 5.0
    first: float = 600.0
    """To the beginning of an answer that is heard as a stream."""
    idle: float = 600.0
    """Between two pieces of it."""
    whole: float = 600.0
    """For an answer in one piece."""
    back_off: tuple[float, ...] | None = None
    """None: BACK_OFF."""


PATIENT: Final = Patience()


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream: as it came, and read."""

    raw: bytes
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer: all of it, or of a stream the beginning."""

    url: str
    """Of the server that gives it."""
    response: aiohttp.ClientResponse
    said: bytes
    started: float
    """When it was asked: attempts and pauses before, and the wait for an engine, are no part of its seconds."""


class Line:
    """An open line to a server: connections are kept for the next question.

    Where the server has several addresses, one of them is chosen for each call (`serve.balance`).
    """

    def __init__(self, server: Server, patience: Patience = PATIENT) -> None:
        self.server = server
        self._balance = Balance(server.urls, self._offered)
        self.patience: Final = patience
        self._down = ""
        self._session: aiohttp.ClientSession | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def http(self) -> aiohttp.ClientSession:
        """Made inside the event loop in which it is first used."""
        if self._session is None:
            key = self.server.key or os.environ.get("OPENAI_API_KEY")
            self._session = opened(self.server.socket, key, self.patience.connect)
        return self._session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._balance.close()
        self._hang_up()
        await asyncio.gather(*self._closing)

    def down(self, why: str) -> None:
        """Whoever waits for an answer, or asks from now on, is told why there is none."""
        self._down = why
        self._hang_up()

    def move(self, server: Server) -> None:
        """Ask that server from now on."""
        if server.socket != self.server.socket:
            self._hang_up()
        if server.urls != self.server.urls:
            self._balance = Balance(server.urls, self._offered)
        self.server, self._down = server, ""

    def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session:
            self._closing.add(task := asyncio.create_task(session.close()))
            task.add_done_callback(self._closing.discard)

    async def send(self, route: str, body: Mapping[str, Any]) -> bytes:
        """What a server answers to a body, all of it."""
        async with self.begun(route, body) as answer:
            return answer.said

    @asynccontextmanager
    async def begun(self, route: str, body: Mapping[str, Any], request: str = "") -> AsyncIterator[Begun]:
        """The answer to a body, all of it unless it is a stream; closed afterwards.

        4xx is final (ServeError, or TooLong). What fails before an answer has begun is tried again: at every other
        server at once, at all of them after a pause. `request` is its id in the server's log.
        """
        headers = JSON | ({"X-Request-Id": request} if request else {})
        sent = _Sent(route, json.dumps(body).encode(), headers, "stream" in body)
        model = body.get("model", "")
        back_off = BACK_OFF if self.patience.back_off is None else self.patience.back_off
        pauses, lost = iter(back_off), 0.0
        while True:
            whys: dict[str, str] = {}
            reached = False
            while url := await self._balance.pick(model, but=whys):
                balance = self._balance
                with balance.busy(url):
                    try:
                        answer = await self._begin(url, sent)
                        with closing(answer.response):  # one that is still being written stops; else the line is kept
                            yield answer
                    except _Again as failure:
                        whys[url] = str(failure)
                        reached |= not failure.is_gone
                        if not failure.is_busy:
                            balance.failed(url, whys[url])
                        continue
                    except Unavailable as error:
                        balance.failed(url, str(error).removeprefix(f"{url} "))
                        raise
                    balance.answered(url)
                    return
            lost = 0.0 if reached else lost or time.monotonic()
            on_its_way = not reached and time.monotonic() - lost < self.server.comes_within
            pause = LOOK if on_its_way else next(pauses, None)
            if pause is None:
                break
            await asyncio.sleep(pause)
        attempts = len(back_off) + 1
        said = "; ".join(f"{url} {why}" for url, why in (self._balance.resting(model) | whys).items())
        raise Unavailable((said or "no engine is there") + (f"; {attempts} attempts" if attempts > 1 else ""))

    async def _begin(self, url: str, sent: "_Sent") -> Begun:
        """One attempt; _Again when there may be another."""
        if self._down:
            raise Unavailable(self._down)
        seconds = self.patience.first if sent.streamed else self.patience.whole
        started = time.perf_counter()
        try:
            async with asyncio.timeout(seconds):
                response = await self.http.post(f"{url}/{sent.route}", data=sent.data, headers=sent.headers)
                try:
                    reading = response.content.readany if sent.streamed and response.ok else response.read
                    said = await reading()
                except BaseException:
                    response.close()
                    raise
        except aiohttp.ClientError as error:
            raise _Again(f"cannot be reached ({str(error) or type(error).__name__})", is_gone=True) from None
        except TimeoutError:
            raise Unavailable(f"{url} was silent for {seconds:.0f} s") from None
        if response.ok:
            if not said:
                raise _Again("ended its answer before it began")
            return Begun(url, response, said, started)
        body = said.decode(errors="replace")
        why = f"answered {response.status}: {complaint(body)}"
        if response.status == REFUSED and is_of_length(body):
            raise TooLong(f"{url} {why}")
        if response.status < 500 and response.status != TOO_MANY:
            raise ServeError(f"{url} {why}")
        raise _Again(why, is_busy=response.status == TOO_MANY)

    async def is_over(self) -> bool:
        """Whether an engine of our own says that it cannot go on: its server outlives what computes by some seconds."""
        if self._down or not self.server.socket:
            return False
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.get("http://engine/health", timeout=aiohttp.ClientTimeout(5.0)) as response:
                return response.status == OVER
        return False

    async def models(self) -> list[dict[str, Any]]:
        """What the server lists, or of several the first to say; Unavailable when none does."""
        if self._down:
            raise Unavailable(self._down)
        asked = [asyncio.create_task(self._listed(url)) for url in self.server.urls]
        try:
            for told in asyncio.as_completed(asked):
                with suppress(Unavailable):
                    return await told
            raise Unavailable("; ".join(str(one.exception()) for one in asked))
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def listed(self, urls: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """What each of these servers lists that says so; Unavailable when none does."""
        if self._down:
            raise Unavailable(self._down)
        lists = await asyncio.gather(*map(self._listed, urls), return_exceptions=True)
        told = {url: one for url, one in zip(urls, lists, strict=True) if not isinstance(one, BaseException)}
        if not told:
            raise Unavailable("; ".join(map(str, lists)) or "no engine is there")
        return told

    def at(self, url: str) -> "Line":
        """Another line, to this one of the servers alone."""
        return Line(replace(self.server, urls=(url,), comes_within=0.0), self.patience)

    async def _offered(self, url: str) -> Models:
        return {card["id"]: bool(card.get("parent")) for card in await self._listed(url)}

    async def _listed(self, url: str) -> list[dict[str, Any]]:
        try:
            async with self.http.get(f"{url}/models", timeout=aiohttp.ClientTimeout(LISTED)) as response:
                response.raise_for_status()
                cards = [dict(card) for card in (await response.json())["data"]]
                return [card for card in cards if card["id"]]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            silent = isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError)
            raise (Silent if silent else Unavailable)(
                f"{url} does not list its models ({str(error) or type(error).__name__})"
            ) from None


class _Again(Unavailable):
    """An attempt that came to nothing, of which `why` is told without its server."""

    def __init__(self, why: str, is_busy: bool = False, is_gone: bool = False) -> None:
        super().__init__(why)
        self.is_busy: Final = is_busy
        self.is_gone: Final = is_gone


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is posted, to whichever server."""

    route: str
    data: bytes
    headers: Mapping[str, str]
    streamed: bool


@dataclass(frozen=True, slots=True)
class Upstream:
    """The model called `name` on that server."""

    line: Line
    name: str
    sampling: Sampling

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        """The whole reply."""
        try:
            async with self._begun(self._body(messages, sampling)) as answer:
                completion = _completion(answer)
        except TooLong as refusal:
            raise TooLong(str(refusal), unread(messages)) from None
        choice = completion["choices"][0]
        return Reply(
            text=choice["message"].get("content") or "",
            usage=_usage(completion),
            finish_reason=choice["finish_reason"],
            seconds=time.perf_counter() - answer.started,
            completion=completion,
            logprobs=tuple(token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()),
        )

    async def hear(
        self, messages: Sequence[Message], tell: Callable[[Chunk], Awaitable[None]], sampling: Sampling | None = None
    ) -> Reply:
        """The whole reply, whose events `tell` is told as they come; its text is that of the first choice."""
        pieces: list[str] = []
        finish_reason, usage = "stop", Usage()
        begun, idle = self._begun(self._body(messages, sampling) | STREAM), self.line.patience.idle
        async with begun as answer, aclosing(_chunks(answer, idle)) as chunks:
            async for chunk in chunks:
                await tell(chunk)
                if chunk.data.get("usage"):
                    usage = _usage(chunk.data)
                for choice in chunk.data["choices"]:
                    if choice["index"] == 0:
                        finish_reason = choice["finish_reason"] or finish_reason
                        pieces.append(choice["delta"].get("content") or "")
        seconds = time.perf_counter() - answer.started
        return Reply(text="".join(pieces), usage=usage, finish_reason=finish_reason, seconds=seconds)

    async def complete(self, messages: Sequence[Message], sampling: Sampling | None = None, **fields: Any) -> Any:
        """The server's chat completion as it came; `fields` are further ones of the API (`logprobs` ...)."""
        async with self._begun(self._body(messages, sampling) | fields) as answer:
            return _completion(answer)

    def _begun(self, body: Mapping[str, Any]) -> AbstractAsyncContextManager[Begun]:
        request = self.sampling.id if isinstance(self.sampling, Requested) else ""
        return self.line.begun("chat/completions", body, request)

    def _body(self, messages: Sequence[Message], sampling: Sampling | None) -> dict[str, Any]:
        chosen = (sampling or self.sampling).as_sent()
        return {"model": self.name, "messages": [message.as_sent() for message in messages], **chosen}


def _completion(answer: Begun) -> Any:
    try:
        return json.loads(answer.said)
    except ValueError:
        raise ServeError(f"{answer.url} does not speak OpenAI's API: {answer.said[:200]!r}") from None


async def _chunks(answer: Begun, idle: float) -> AsyncGenerator[Chunk, None]:
    """The events of a stream up to its `[DONE]`."""
    try:
        async for raw in _events(answer, idle):
            if raw == b"[DONE]":
                await read_to_the_end(answer.response.content)
                return
            yield Chunk(raw, _sound(json.loads(raw)))
    except TimeoutError:
        raise Unavailable(f"{answer.url} fell silent in the middle of its answer") from None
    except (aiohttp.ClientError, json.JSONDecodeError) as error:
        raise Unavailable(f"{answer.url} broke off its answer: {error!r}") from error
    raise Unavailable(f"{answer.url} broke off its answer before the end")


async def _events(answer: Begun, idle: float) -> AsyncIterator[bytes]:
    """The data of server-sent events, one a line as every OpenAI-compatible server writes them."""
    rest, read = b"", answer.said
    while read:
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        async with asyncio.timeout(idle):
            read = await answer.response.content.readany()


def _usage(completion: Mapping[str, Any]) -> Usage:
    counted = completion.get("usage")
    if not counted:
        raise ServeError(
            "the server counts no tokens (`usage` is missing from its answer), and this comparison needs them"
        )
    details = counted.get("prompt_tokens_details") or {}
    return Usage(counted["prompt_tokens"], counted["completion_tokens"], details.get("cached_tokens"))


def _sound(chunk: dict[str, Any]) -> dict[str, Any]:
    """A server that fails in the middle of a stream says so in its data."""
    if "error" in chunk:
        raise Unavailable(f"the server gave up in the middle of its answer: {complaint(json.dumps(chunk))}")
    return chunk
