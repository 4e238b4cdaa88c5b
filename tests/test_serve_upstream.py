"""What becomes of a connection to the engine: kept after an answer that was read to its end, closed when nobody
listens.

Over real sockets.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from scripts.serving import up
from serve.chat import Message, Sampling
from serve.upstream import Chunk, Line, Patience, Server, Upstream

QUESTION = (Message("user", "Who?"),)
ASKED = {"model": "base:none:direct", "messages": [{"role": "user", "content": "Who?"}], "stream": True}


@dataclass
class Engine:
    """Streams answers of two words over connections that it counts; after the first word it may wait."""

    port: int = 0
    connections: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody did, in the middle of an answer."""
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    ends: bool = True
    """Whether its answers end as HTTP wants it, after their last event."""

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(size.partition(b":")[2]))
                await self.answer(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(chunk({"choices": [choice("It")]}))
        going_on, leaving = asyncio.create_task(self.may_go_on.wait()), asyncio.create_task(reader.read(1))
        await asyncio.wait({going_on, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            going_on.cancel()
            self.hung_up.set()
            raise asyncio.IncompleteReadError(b"", None)
        leaving.cancel()
        await asyncio.wait({leaving})
        usage = {"prompt_tokens": 1, "completion_tokens": 2}
        writer.write(chunk({"choices": [choice(" is.", "stop")]}) + chunk({"choices": [], "usage": usage}))
        writer.write(framed(b"data: [DONE]\n\n"))
        await writer.drain()
        await asyncio.sleep(0.01)  # as from a server that sends the end of the body by itself
        if self.ends:
            writer.write(b"0\r\n\r\n")


def choice(text: str, ends: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": {"content": text}, "finish_reason": ends}


def chunk(data: dict[str, object]) -> bytes:
    return framed(f"data: {json.dumps(data)}\n\n".encode())


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def engine(goes_on: bool = True, ends: bool = True) -> AsyncIterator[Engine]:
    made = Engine(ends=ends)
    if goes_on:
        made.may_go_on.set()
    server = await asyncio.start_server(made.meet, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.may_go_on.set()
        server.close()


async def unheard(_: Chunk) -> None:
    """Nobody listens."""


def model(line: Line) -> Upstream:
    return Upstream(line, "pocket", Sampling())


async def test_five_streamed_answers_take_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.session.END", 60.0)  # the end is under way, however long a busy machine takes over it
    async with engine() as server, Line(Server((f"http://127.0.0.1:{server.port}/v1",))) as line:
        said = [(await model(line).hear(QUESTION, unheard)).text for _ in range(5)]

    assert said == ["It is."] * 5
    assert server.connections == 1


async def test_an_answer_whose_body_never_ends_is_whole_and_its_connection_is_not_used_again() -> None:
    patience = Patience(idle=600)
    async with engine(ends=False) as server, Line(Server((f"http://127.0.0.1:{server.port}/v1",)), patience) as line:
        said = [(await asyncio.wait_for(model(line).hear(QUESTION, unheard), 60)).text for _ in range(2)]

    assert said == ["It is."] * 2
    assert server.connections == 2


async def test_an_answer_that_nobody_waits_for_is_hung_up_on() -> None:
    async with engine(goes_on=False) as server, Line(Server((f"http://127.0.0.1:{server.port}/v1",))) as line:
        heard = asyncio.Event()

        async def tell(_: Chunk) -> None:
            heard.set()

        asking = asyncio.create_task(model(line).hear(QUESTION, tell))
        await asyncio.wait_for(heard.wait(), 60)
        asking.cancel()
        await asyncio.wait_for(server.hung_up.wait(), 60)

    assert server.connections == 1


async def test_a_caller_who_leaves_midway_stops_the_engines_answer(tmp_path: Path) -> None:
    stack = tmp_path / "stack.yaml"
    async with engine(goes_on=False) as server, httpx.AsyncClient(timeout=30) as client:
        stack.write_text(
            f"model: m\nurl: http://127.0.0.1:{server.port}/v1\nstrategies: {{direct: {{kind: direct}}}}\n"
        )
        with up(stack) as (_, url):
            async with client.stream("POST", f"{url}/chat/completions", json=ASKED) as answer:
                assert "sources" in await anext(answer.aiter_lines())
            await asyncio.wait_for(server.hung_up.wait(), 60)
