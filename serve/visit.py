"""One request on its way through the gateway: what is known of it so far, what was sent back, whether anybody listens.

Knows nothing of what is asked, or of how it is answered.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from retrieval.passage import Hit
from serve.asked import Refusal
from serve.chat import Answer, Usage
from serve.exchange import Exchange
from serve.wire import encoded, event

EVENTS: Final = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class Gone(Exception):  # noqa: N818 - nobody's mistake
    """The caller has hung up: what was begun for them is stopped."""


@dataclass(slots=True, kw_only=True)
class Visit:
    """What becomes known of a request while it is answered; in the end it is an Exchange."""

    id: str
    key: str
    route: str
    at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.perf_counter)
    combination: str = ""
    stream: bool = False
    messages: tuple[Mapping[str, Any], ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    queue_seconds: float = 0.0
    search_seconds: float = 0.0
    first_seconds: float | None = None
    sources: tuple[Hit, ...] = ()
    usage: Usage = field(default_factory=Usage)
    text: str = ""
    finish_reason: str = ""
    unknown_citations: int = 0

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began

    def answered(self, answer: Answer) -> None:
        """Note what it has cost and where it came from."""
        self.sources, self.usage, self.search_seconds = answer.sources, answer.usage, answer.search_seconds
        self.text, self.finish_reason = answer.text, answer.finish_reason

    def ended(self, status: int, error: str) -> Exchange:
        known: dict[str, Any] = {name: getattr(self, name) for name in _KNOWN}
        return Exchange(**known, status=status, error=error)


_KNOWN: Final = tuple(one.name for one in fields(Exchange) if one.name not in ("status", "error"))


class Reply:
    """The way back to the caller: one JSON object, or events; a status until the first of them has been sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        """What was sent; 0 while nothing was."""

    async def whole(self, status: int, body: Mapping[str, Any], after: int | None = None) -> None:
        data = encoded(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        if after is not None:
            headers.append((b"retry-after", str(after).encode()))
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": data})

    async def events(self, data: bytes, *, more: bool = True) -> None:
        """One event or several; the stream ends where there are no `more`."""
        if not self.status:
            self.status = 200
            await self._send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def refused(self, refusal: Refusal) -> None:
        """With a status where there is still one to choose, as the last event of a stream otherwise."""
        if not self.status:
            await self.whole(refusal.status, refusal.body, refusal.after)
            return
        await self.events(event(refusal.body), more=False)


async def body_of(receive: Receive, scope: Scope, most: int) -> bytes:
    """The request's body; Refusal as soon as it is known to be longer than `most` bytes. Raises Gone."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    too_long = Refusal(413, f"the body is longer than {most} bytes, the most that is read here")
    if declared.isdigit() and int(declared) > most:
        raise too_long
    parts, length = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > most:
            raise too_long
        if not message.get("more_body", False):
            return b"".join(parts)


@asynccontextmanager
async def attended(receive: Receive, seconds: float) -> AsyncIterator[None]:
    """What is inside is cancelled when the caller hangs up (Gone), and after so many seconds (TimeoutError)."""
    try:
        async with asyncio.timeout(seconds) as left:
            leaving = asyncio.create_task(_leaving(receive, left))
            try:
                yield
            finally:
                leaving.cancel()
    except TimeoutError:
        if leaving.done() and not leaving.cancelled():
            raise Gone from None
        raise


async def _leaving(receive: Receive, left: asyncio.Timeout) -> None:
    """Over as soon as the caller has hung up; then there is no more time."""
    while (await receive())["type"] != "http.disconnect":
        pass
    left.reschedule(0)
