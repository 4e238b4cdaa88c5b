"""A load on a server of OpenAI's chat completions, and what was heard of it: one process, cheap enough not to disturb.

    python -m scripts.bench_client '{"load": "streams", "url": "http://127.0.0.1:8000/v1", "model": "stub", ...}'

The last line of its output is JSON. Standard library only: HTTP is read here, because every microsecond between a
packet's arrival and its time stamp would count as the server's. Needs `scripts.bench_stub` at the other end of the
server for the pieces' times; knows nothing of gateways.
"""

import asyncio
import gc
import json
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final
from urllib.parse import urlsplit

STAMP: Final = re.compile(rb'"content": ?"(\d+) ?"')
Job = Mapping[str, Any]


@dataclass(slots=True)
class Heard:
    """One answer, and when its parts came; times are nanoseconds of the monotonic clock."""

    asked: int
    status: int = 0
    head: bytes = b""
    text: bytes = b""
    pieces: list[tuple[int, int]] = field(default_factory=list)
    """When a piece was written, and when it was here."""
    ended: int = 0
    seen: int = 0

    def take(self, data: bytes, now: int) -> None:
        """More of the body; only whole events count as heard."""
        self.text += data
        end = self.text.rfind(b"\n\n") + 2
        if end >= 2:
            self.pieces += [(int(stamp), now) for stamp in STAMP.findall(self.text, self.seen, end)]
            self.seen = max(self.seen, end)

    @property
    def seconds(self) -> float:
        return (self.ended - self.asked) / 1e9


class Line(asyncio.Protocol):
    """One kept connection to a server: a request, then its answer, then the next."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.held = b""
        self.heard = Heard(0)
        self.over: asyncio.Future[Heard]
        self.size: int | None = None
        """Of the body in bytes; None while the head is awaited; -1 when it comes in chunks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "over") and not self.over.done():
            self.over.set_exception(ConnectionError(str(error or "hung up before the end")))

    async def ask(self, request: bytes) -> Heard:
        self.over, self.heard, self.size = (
            asyncio.get_running_loop().create_future(),
            Heard(time.monotonic_ns()),
            None,
        )
        if self.transport.is_closing():
            raise ConnectionError("hung up between two requests")
        self.transport.write(request)
        return await self.over

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.held += data
        if self.size is None and not self._read_head():
            return
        if self.size == -1:
            self._read_chunks(now)
        elif len(self.held) >= (self.size or 0):
            self.heard.text, self.held = self.held, b""
            self._end(now)

    def _read_head(self) -> bool:
        head, found, rest = self.held.partition(b"\r\n\r\n")
        if found:
            self.heard.status, self.heard.head, self.held = int(head[9:12]), head.lower(), rest
            length = re.search(rb"content-length: *(\d+)", self.heard.head)
            self.size = int(length[1]) if length else -1
        return bool(found)

    def _read_chunks(self, now: int) -> None:
        while (line := self.held.find(b"\r\n")) >= 0:
            size = int(self.held[:line], 16)
            if len(self.held) < line + size + 4:
                break
            payload, self.held = self.held[line + 2 : line + 2 + size], self.held[line + size + 4 :]
            if size == 0:
                self._end(now)
                break
            self.heard.take(payload, now)

    def _end(self, now: int) -> None:
        self.heard.ended = now
        if not self.over.done():
            self.over.set_result(self.heard)


@dataclass(slots=True)
class Target:
    """Who is asked, and what: the request's bytes are made once."""

    host: str
    port: int
    request: bytes

    @classmethod
    def of(cls, job: Job) -> "Target":
        """`job` has `url`, `model`, `body` (further fields), `prompt`."""
        parts = urlsplit(job["url"])
        message = {"role": "user", "content": job.get("prompt", "Who founded Varn?")}
        body = json.dumps({"model": job["model"], "messages": [message], **job["body"]}).encode()
        head = (
            f"POST {parts.path}/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        assert parts.hostname
        assert parts.port
        return cls(parts.hostname, parts.port, head.encode() + body)

    async def line(self) -> Line:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Line, self.host, self.port))[1]

    async def free(self, idle: list[Line]) -> Line:
        """The one used last, of those on which nobody has hung up; a new one where there is none."""
        while idle:
            if not (last := idle.pop()).transport.is_closing():
                return last
        return await self.line()


# Loads ----------------------------------------------------------------------------------------------------------------


async def streams(job: Job) -> dict[str, Any]:
    """`streams` of `body.max_tokens` pieces that begin by chance, `rate` a second, whoever is still being heard.

    The first `warm` of them are not counted: they begin before there are as many at once as there will be. A caller
    who asked as soon as the one before had his answer would meet a server that is busy with just that answer's end.
    """
    target, lost = Target.of(job), Lost()
    idle: list[Line] = []
    firsts: list[float] = []
    ways: list[float] = []
    pieces = 0

    async def caller(number: int) -> None:
        line = await target.free(idle)
        heard = await line.ask(target.request)
        if heard.status != 200 or len(heard.pieces) != job["body"]["max_tokens"] or b"[DONE]" not in heard.text:
            lost.say(f"{heard.status}, {len(heard.pieces)} pieces: {heard.text[-200:]!r}")
            return
        idle.append(line)
        nonlocal pieces
        pieces += len(heard.pieces)
        if number >= job["warm"]:
            firsts.append((heard.pieces[0][1] - heard.asked) / 1e6)
            ways.extend((here - written) / 1e6 for written, here in heard.pieces)

    callers = [asyncio.create_task(lost.or_done(caller(n))) async for n in _by_chance(job, job["streams"])]
    await asyncio.gather(*callers)
    return {"firsts_ms": firsts, "ways_ms": ways, "pieces": pieces, **lost.told}


async def _by_chance(job: Job, most: int) -> AsyncIterator[int]:
    """Their numbers, at random moments, `rate` a second; seeded, so that every way meets the same callers."""
    chance, due = random.Random(job["seed"]), time.monotonic()
    for number in range(most):
        due += chance.expovariate(job["rate"])
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield number


async def saturate(job: Job) -> dict[str, Any]:
    """`users` who ask again as soon as they have their answer, for `seconds`."""
    target, lost = Target.of(job), Lost()
    took: list[float] = []
    until = time.monotonic() + job["seconds"]

    async def user() -> None:
        line = await target.line()
        while time.monotonic() < until:
            heard = await line.ask(target.request)
            if heard.status == 200:
                took.append(heard.seconds * 1000)
            else:
                lost.say(f"{heard.status}: {heard.text[:200]!r}")

    began = time.monotonic()
    await asyncio.gather(*(lost.or_done(user()) for _ in range(job["users"])))
    return {"per_second": len(took) / (time.monotonic() - began), "took_ms": took, **lost.told}


async def overload(job: Job) -> dict[str, Any]:
    """Callers who come by chance, `rate` a second for `seconds` or so, whoever is still waiting; gone after `patience`.

    Goodput is what was answered within `seconds`, a second, without the first `warm` of them.
    """
    target, lost = Target.of(job), Lost()
    idle: list[Line] = []
    served: list[tuple[float, float]] = []
    refused: list[tuple[int, float, bool]] = []
    began = time.monotonic()

    async def caller() -> None:
        came = time.monotonic()
        line = None
        try:
            async with asyncio.timeout(job["patience"]):
                line = await target.free(idle)
                heard = await line.ask(target.request)
        except TimeoutError:
            lost.say("time-out")
            if line:
                line.transport.abort()
            return
        if heard.status == 200:
            served.append((time.monotonic() - began, (time.monotonic() - came) * 1000))
        else:
            refused.append((heard.status, (time.monotonic() - came) * 1000, b"\r\nretry-after:" in heard.head))
        if b"connection: close" not in heard.head and not line.transport.is_closing():
            idle.append(line)

    most = round(job["rate"] * job["seconds"])
    callers = [asyncio.create_task(lost.or_done(caller())) async for _ in _by_chance(job, most)]
    await asyncio.gather(*callers)
    counted = [at for at, _ in served if job["warm"] <= at < job["seconds"]]
    return {
        "callers": len(callers),
        "goodput": len(counted) / (job["seconds"] - job["warm"]),
        "served_ms": [took for _, took in served],
        "refused_ms": [took for _, took, _ in refused],
        "without_retry_after": sum(not told for _, _, told in refused),
        "statuses": sorted({status for status, _, _ in refused}),
        **lost.told,
    }


async def chats(job: Job) -> dict[str, Any]:
    """`users` who share out `prompts`, each for the next of `models` in turn; tokens as the server counts them."""
    models = job.get("models", [job["model"]])
    lost, waiting = Lost(), list(zip(job["prompts"], cycle(models), strict=False))[::-1]
    tokens: list[int] = []
    took: list[float] = []

    async def user() -> None:
        line = None
        while waiting:
            prompt, model = waiting.pop()
            target = Target.of(dict(job) | {"prompt": prompt, "model": model})
            line = line or await target.line()
            heard = await line.ask(target.request)
            if heard.status == 200:
                took.append(heard.seconds * 1000)
                tokens.append(json.loads(heard.text)["usage"]["completion_tokens"])
            else:
                lost.say(f"{heard.status}: {heard.text[:200]!r}")

    began = time.monotonic()
    await asyncio.gather(*(lost.or_done(user()) for _ in range(job["users"])))
    seconds = time.monotonic() - began
    return {"per_second": len(took) / seconds, "tokens_per_second": sum(tokens) / seconds, "took_ms": took, **lost.told}


class Lost:
    """Requests without the answer they should have had."""

    def __init__(self) -> None:
        self.why: list[str] = []

    def say(self, why: str) -> None:
        self.why.append(why)

    async def or_done(self, work: Awaitable[None], requests: int = 1) -> None:
        try:
            await work
        except (OSError, ValueError) as error:
            for _ in range(requests):
                self.say(repr(error))

    @property
    def told(self) -> dict[str, Any]:
        """How many, and what the first few were."""
        return {"failures": len(self.why), "why": list(dict.fromkeys(self.why))[:3]}


LOADS: Final[dict[str, Callable[[Job], Awaitable[dict[str, Any]]]]] = {
    "streams": streams,
    "saturate": saturate,
    "overload": overload,
    "chats": chats,
}


def measure(job: Job) -> dict[str, Any]:
    """Do the job; with the share of a core that this process took of it."""
    gc.disable()
    began, cpu = time.monotonic(), time.process_time()
    measured = asyncio.run(_run(job))
    return measured | {"client_cpu": (time.process_time() - cpu) / (time.monotonic() - began)}


async def _run(job: Job) -> dict[str, Any]:
    return await LOADS[job["load"]](job)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
