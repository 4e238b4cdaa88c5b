"""One chat model behind an OpenAI-compatible server: ask it, hear it, and say plainly when it cannot be reached.

Knows nothing of strategies, retrieval, or of who started the server.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from serve.chat import Message, Reply, Requested, Sampling, ServeError, Unavailable, Usage

JSON: Final = {"Content-Type": "application/json"}
TOO_MANY: Final = 429
OVER: Final = 503
STREAM: Final = {"stream": True, "stream_options": {"include_usage": True}}
BACK_OFF: Final = (0.1, 0.5, 2.0)
"""Seconds between attempts: an engine that is busy recovers within these, one that is gone does not."""
KEEP_ALIVE: Final = 3.0
"""Seconds an idle connection is kept: less than vLLM keeps it, which would otherwise hang up on a question."""
LOOK: Final = 0.2
"""Seconds between two looks whether an engine has come."""
REST: Final = 5.0
"""Seconds for which one that has just refused a question is not asked another."""
END: Final = 1.0
"""Seconds for the end of a stream to come after its last event: it is under way, or never comes."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where models are asked: at one address, or at several that offer the same."""

    urls: Sequence[str] = ("http://engine/v1",)
    """Read anew for each question: of engines that come and go, those that are there."""
    socket: Path | None = None
    """Of an engine of our own."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What that server calls an adapter, where it is not the adapter's name."""
    key: str = field(default="", repr=False)
    """Of engines of our own that listen on ports; else OPENAI_API_KEY is sent when set."""
    comes_within: float = 0.0
    """Seconds for which questions wait when none is there, since another is on its way."""


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


class Line:
    """An open line to a server: connections are kept for the next question."""

    def __init__(self, server: Server, patience: Patience = PATIENT) -> None:
        self.server = server
        self.patience: Final = patience
        self._down = ""
        self._refused: dict[str, float] = {}
        self._session: aiohttp.ClientSession | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def http(self) -> aiohttp.ClientSession:
        """Made inside the event loop in which it is first used."""
        if self._session is None:
            key, socket = self.server.key or os.environ.get("OPENAI_API_KEY"), self.server.socket
            kept: dict[str, Any] = {"limit": 0, "keepalive_timeout": KEEP_ALIVE}
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket), **kept) if socket else aiohttp.TCPConnector(**kept),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.patience.connect),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                read_bufsize=2**20,
            )
        return self._session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
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
        self.server, self._down = server, ""

    def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session:
            self._closing.add(task := asyncio.create_task(session.close()))
            task.add_done_callback(self._closing.discard)

    async def send(self, route: str, body: Mapping[str, Any], request: str = "") -> aiohttp.ClientResponse:
        """The answer to a body, read unless it is a stream. 4xx is final (ServeError), the rest is tried again.

        `request` is its id in the server's log.
        """
        headers, data = {"X-Request-Id": request} if request else {}, json.dumps(body).encode()
        streamed = "stream" in body
        seconds = self.patience.first if streamed else self.patience.whole
        pauses = iter(BACK_OFF if self.patience.back_off is None else self.patience.back_off)
        attempts, lost = 0, 0.0
        while True:
            url = await self._anyone()
            attempts += 1
            try:
                async with asyncio.timeout(seconds):
                    response = await self.http.post(f"{url}/{route}", data=data, headers=JSON | headers)
                    if response.ok:
                        if not streamed:
                            await response.read()
                        return response
                    why = f"answered {response.status}: {_complaint(await response.text(errors='replace'))}"
            except TimeoutError:
                raise Unavailable(f"{url} was silent for {seconds:.0f} s") from None
            except aiohttp.ClientError as error:
                why = f"cannot be reached ({str(error) or type(error).__name__})"
                self._refused[url] = now = time.monotonic()
                lost = lost or now
                if now - lost < self.server.comes_within:
                    continue
            else:
                if response.status < 500 and response.status != TOO_MANY:
                    raise ServeError(f"{url} {why}")
            pause = next(pauses, None)
            if pause is None:
                raise Unavailable(f"{url} {why}" + (f"; {attempts} attempts" if attempts > 1 else ""))
            await asyncio.sleep(pause)

    async def _anyone(self) -> str:
        """The address of somebody to ask; where engines come and go, one that did not just refuse, waited for."""
        began = time.monotonic()
        while True:
            if self._down:
                raise Unavailable(self._down)
            now, fickle = time.monotonic(), self.server.comes_within > 0
            there = [url for url in self.server.urls if not fickle or now - self._refused.get(url, -REST) >= REST]
            if there:
                return random.choice(there)
            if now - began >= self.server.comes_within:
                raise Unavailable(f"no engine is there, and none came within {self.server.comes_within:.0f} s")
            await asyncio.sleep(LOOK)

    async def is_over(self) -> bool:
        """Whether an engine of our own says that it cannot go on: its server outlives what computes by some seconds."""
        if self._down or not self.server.socket:
            return False
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.get("http://engine/health", timeout=aiohttp.ClientTimeout(5.0)) as response:
                return response.status == OVER
        return False

    async def models(self) -> list[dict[str, Any]]:
        """The server's list of models; Unavailable when it gives none."""
        if self._down:
            raise Unavailable(self._down)
        try:
            async with self.http.get(f"{self.server.urls[0]}/models", timeout=aiohttp.ClientTimeout(5.0)) as response:
                response.raise_for_status()
                return list((await response.json())["data"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(
                f"{self.server.urls[0]} does not list its models ({str(error) or type(error).__name__})"
            ) from None


@dataclass(frozen=True, slots=True)
class Upstream:
    """The model called `name` on that server."""

    line: Line
    name: str
    sampling: Sampling

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        """The whole reply."""
        started = time.perf_counter()
        completion = await self.complete(messages, sampling)
        choice = completion["choices"][0]
        return Reply(
            text=choice["message"].get("content") or "",
            usage=_usage(completion),
            finish_reason=choice["finish_reason"],
            seconds=time.perf_counter() - started,
            completion=completion,
            logprobs=tuple(token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()),
        )

    async def hear(
        self, messages: Sequence[Message], tell: Callable[[Chunk], Awaitable[None]], sampling: Sampling | None = None
    ) -> Reply:
        """The whole reply, whose events `tell` is told as they come; its text is that of the first choice."""
        started = time.perf_counter()
        pieces: list[str] = []
        finish_reason, usage = "stop", Usage()
        async with aclosing(self._chunks(self._body(messages, sampling) | STREAM)) as chunks:
            async for chunk in chunks:
                await tell(chunk)
                if chunk.data.get("usage"):
                    usage = _usage(chunk.data)
                for choice in chunk.data["choices"]:
                    if choice["index"] == 0:
                        finish_reason = choice["finish_reason"] or finish_reason
                        pieces.append(choice["delta"].get("content") or "")
        return Reply(
            text="".join(pieces), usage=usage, finish_reason=finish_reason, seconds=time.perf_counter() - started
        )

    async def complete(self, messages: Sequence[Message], sampling: Sampling | None = None, **fields: Any) -> Any:
        """The server's chat completion as it came; `fields` are further ones of the API (`logprobs` ...)."""
        response = await self.line.send("chat/completions", self._body(messages, sampling) | fields, self._id)
        said = await response.read()
        try:
            return json.loads(said)
        except ValueError:
            raise ServeError(f"{self.line.server.urls[0]} does not speak OpenAI's API: {said[:200]!r}") from None

    async def _chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """The events of a stream up to its `[DONE]`."""
        url, patience = self.line.server.urls[0], self.line.patience
        response = await self.line.send("chat/completions", body, self._id)
        try:
            async for raw in _events(response.content, patience):
                if raw == b"[DONE]":
                    await _over(response.content)
                    return
                yield Chunk(raw, _sound(json.loads(raw)))
        except TimeoutError:
            raise Unavailable(f"{url} fell silent in the middle of its answer") from None
        except (aiohttp.ClientError, json.JSONDecodeError) as error:
            raise Unavailable(f"{url} broke off its answer: {error!r}") from error
        finally:
            response.close()  # a server that is still writing stops; a connection that is read to its end is kept
        raise Unavailable(f"{url} broke off its answer before the end")

    @property
    def _id(self) -> str:
        return self.sampling.id if isinstance(self.sampling, Requested) else ""

    def _body(self, messages: Sequence[Message], sampling: Sampling | None) -> dict[str, Any]:
        chosen = (sampling or self.sampling).as_sent()
        return {"model": self.name, "messages": [message.as_sent() for message in messages], **chosen}


async def _events(content: aiohttp.StreamReader, patience: Patience) -> AsyncIterator[bytes]:
    """The data of server-sent events, one a line as every OpenAI-compatible server writes them."""
    rest, seconds = b"", patience.first
    while True:
        async with asyncio.timeout(seconds):
            read = await content.readany()
        if not read:
            return
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        seconds = patience.idle


async def _over(content: aiohttp.StreamReader) -> None:
    """Hear the end of the body, which servers send after their last event: only then can the connection be kept."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(END):
            while not content.at_eof():
                await content.readany()


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
        raise Unavailable(f"the server gave up in the middle of its answer: {_complaint(json.dumps(chunk))}")
    return chunk


def _complaint(body: str) -> str:
    """The sentence in an error body, however the server wraps it."""
    try:
        data = json.loads(body)
        return str(data.get("error", data).get("message", body))
    except (json.JSONDecodeError, AttributeError):
        return body.strip()[:500] or "nothing"
