"""A server of OpenAI's chat completions with fixed timing: how long an answer takes is settled before it is asked.

    python -m scripts.bench_stub --first 0.1 --rate 20              # prints its port

It answers `max_tokens` pieces, the first after `--first` seconds and then `--rate` of them a second. Every piece is the
monotonic clock in nanoseconds at which it was written, so that whoever reads it on this machine knows how long it has
been under way. Without `stream` the answer takes `--service` seconds, and at most `--capacity` are made at once: the
others wait for as long as it takes, as an engine's do. Knows nothing of who asks.
"""

import asyncio
import gc
import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retrieval.console import Parser, stop_politely

MODEL: Final = "stub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What every answer takes."""

    first: float = 0.1
    """Seconds to the first piece of a stream."""
    rate: float = 20.0
    """Pieces a second."""
    service: float = 0.0
    """Seconds that an answer in one piece takes."""
    capacity: int = 0
    """How many of those are made at once; 0: any number."""


class Answers(asyncio.Protocol):
    """One connection, one request after the other."""

    def __init__(self, timing: Timing, gate: asyncio.Semaphore) -> None:
        self.timing, self.gate, self.held = timing, gate, b""
        self.transport: asyncio.Transport
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever hangs up frees his place."""
        for task in self.tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self.held += data
        if (end := self.held.find(b"\r\n\r\n")) < 0:
            return None
        size = _content_length(self.held[:end])
        if len(self.held) < end + 4 + size:
            return None
        head, body = self.held[:end], self.held[end + 4 : end + 4 + size]
        self.held = self.held[end + 4 + size :]
        if head.startswith(b"GET"):
            return self.whole({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        asked = json.loads(body)
        if asked.get("stream"):
            return self.stream(asked)
        task = asyncio.create_task(self.serve(asked))
        self.tasks.add(task)
        return task.add_done_callback(self.tasks.discard)

    async def serve(self, asked: dict[str, Any]) -> None:
        async with self.gate:
            if self.timing.service:
                await asyncio.sleep(self.timing.service)
        message = {"role": "assistant", "content": str(time.monotonic_ns())}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        self.whole(_envelope("chat.completion", asked, [choice]) | {"usage": _usage(1)})

    def whole(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
        )

    def stream(self, asked: dict[str, Any]) -> None:
        """Pieces by the clock of the request, not by that of the piece before: nothing adds up."""
        loop = asyncio.get_running_loop()
        start, pieces = loop.time() + self.timing.first, asked["max_tokens"]
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        write_piece = self.piece_writer(asked)
        for number in range(pieces):
            loop.call_at(start + number / self.timing.rate, write_piece)
        loop.call_at(start + pieces / self.timing.rate, self.end, asked, pieces)

    def piece_writer(self, asked: dict[str, Any]) -> Callable[[], None]:
        """What is the same in every chunk is made once: this server must be cheap."""
        mark = "\0"
        choice = {"index": 0, "delta": {"content": mark}, "logprobs": None, "finish_reason": None}
        chunk = json.dumps(_envelope("chat.completion.chunk", asked, [choice]))
        before, after = (part.encode() for part in f"data: {chunk}\n\n".split(json.dumps(mark)[1:-1]))

        def write() -> None:
            stamp = b"%d " % time.monotonic_ns()
            data = before + stamp + after
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

        return write

    def end(self, asked: dict[str, Any], pieces: int) -> None:
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
        chunks = [_envelope("chat.completion.chunk", asked, [choice])]
        if (asked.get("stream_options") or {}).get("include_usage"):
            chunks.append(_envelope("chat.completion.chunk", asked, []) | {"usage": _usage(pieces)})
        data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))


def _content_length(head: bytes) -> int:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return next((int(value) for name, _, value in lines if name.lower() == b"content-length"), 0)


def _envelope(kind: str, asked: dict[str, Any], choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "chatcmpl-stub", "object": kind, "created": 1, "model": asked["model"], "choices": choices}


def _usage(pieces: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": pieces, "total_tokens": 1 + pieces}


async def serve(timing: Timing, port: int) -> None:
    """Until it is stopped; the port is the one line on standard output."""
    gate = asyncio.Semaphore(timing.capacity or sys.maxsize)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answers(timing, gate), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.disable()  # a pause of ours would count as the gateway's
    await server.serve_forever()


def _parser() -> ArgumentParser:
    parser = Parser(prog="python -m scripts.bench_stub", description="Chat completions with fixed timing.")
    parser.epilog = "example: python -m scripts.bench_stub --first 0.1 --rate 20"
    usual = Timing()
    parser.add_argument("--port", type=int, default=0, help="on this machine (default: a free one, printed)")
    parser.add_argument("--first", type=float, default=usual.first, help="seconds to the first piece (%(default)s)")
    parser.add_argument("--rate", type=float, default=usual.rate, help="pieces a second (default: %(default)s)")
    parser.add_argument("--service", type=float, default=usual.service, help="seconds of a whole answer (%(default)s)")
    parser.add_argument("--capacity", type=int, default=usual.capacity, help="whole answers at once (0: any number)")
    return parser


if __name__ == "__main__":
    options = _parser().parse_args()
    stop_politely()
    try:
        made = Timing(first=options.first, rate=options.rate, service=options.service, capacity=options.capacity)
        asyncio.run(serve(made, options.port))
    except KeyboardInterrupt:
        sys.exit(0)
