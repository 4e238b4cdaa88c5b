"""An OpenAI-compatible server of the standard library, on a real socket, for tests of the evaluation.

It answers by a rule that the test plants, and counts what it was asked.
"""

import json
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import yaml

from tests.ports import held, number_of

Say = Callable[[str, list[dict[str, str]]], str]
"""(model, messages) -> the reply."""


@dataclass
class Stub:
    """A running server."""

    say: Say
    seconds: float = 0.0
    broken: Callable[[str], bool] = lambda question: False
    """Which questions (the text of the last message) are answered with 503."""
    refused: Callable[[str], str] = lambda question: ""
    """With which complaint, if any, a question is answered with 400; `calls` has it too."""
    probed: Callable[[str], float] = lambda model: -float(sum(map(ord, model)))
    """The log-probability with which each model starts its answer."""
    models: tuple[str, ...] = ("stub", "tuned", "other")
    """What it lists, the base model first; it answers as any model."""
    calls: list[str] = field(default_factory=list)
    """Model and messages of each answer that was given, as one text."""
    place: socket.socket = field(default_factory=held)
    """Its port, which nobody else is given while it is down."""
    lock: Lock = field(default_factory=Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{number_of(self.place)}/v1"

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.broken(body["messages"][-1]["content"]):
            return 503, {"error": {"message": "out of order"}}
        time.sleep(self.seconds)
        if body.get("logprobs"):  # the probe before a run, not a question of it
            likely = [self.probed(body["model"])]
            return 200, {"choices": [{"message": {"content": "I"}, "finish_reason": "length", "logprobs": likely}]}
        if complaint := self.refused(body["messages"][-1]["content"]):
            with self.lock:
                self.calls.append(call_of(body["model"], body["messages"]))
            return 400, {"error": {"message": complaint, "type": "BadRequestError", "param": None, "code": 400}}
        text = self.say(body["model"], body["messages"])
        with self.lock:
            self.calls.append(call_of(body["model"], body["messages"]))
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        return 200, {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": len(text.split())},
        }


def call_of(model: str, messages: Sequence[dict[str, str]]) -> str:
    """What tells one call from another: no two combinations ask the same question in the same words."""
    return "\n".join([model, *(f"{message['role']}: {message['content']}" for message in messages)])


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """The stub at its port; it ends as if killed, and may be served again."""
    with _Server(stub) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield stub
        finally:
            server.cut()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, stub: Stub) -> None:
        super().__init__(stub.place.getsockname(), _Handler)
        self.stub = stub
        self.connections = set[socket.socket]()

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        self.connections.add(request)
        return request, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Nobody gets another byte."""
        self.shutdown()
        self.server_close()
        for one in [*self.connections]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        base, *adapters = self.server.stub.models
        cards = [{"id": base}, *({"id": name, "parent": base} for name in adapters)]
        self._send(200, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        self._send(*self.server.stub.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the asker was killed, or this server

    def log_message(self, *args: object) -> None:
        pass


def write_world(folder: Path, url: str | list[str], n: int = 20, **grid: Any) -> Path:
    """A task of n questions with evidence, a stack that asks `url`, and a grid over both; the grid's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": f"Entry {i}", "text": fact(i)} for i in range(n)])
    write_rows(folder / "test.jsonl", [example(i) for i in range(n)])
    task = {
        "name": "entries",
        "examples": "test.jsonl",
        "documents": "corpus.jsonl",
        "primary": "exact",
        "scorers": {"exact": {"kind": "exact"}, "part": {"kind": "contains"}},
    }
    stack = {
        "model": "stub",
        "url": url,
        "adapters": {"tuned": "adapters/tuned", "other": "adapters/other"},
        "strategies": {"direct": {"kind": "direct"}, "brief": {"kind": "instructed", "instructions": "Be brief."}},
    }
    settings = {
        "stack": "stack.yaml",
        "task": "task.yaml",
        "adapters": ["base", "tuned"],
        "retrievers": ["none", "gold"],
        "strategies": ["direct", "brief"],
        "baseline": "base:none:direct",
        "concurrency": 8,
    }
    for name, content in (("task", task), ("stack", stack), ("grid", settings | grid)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "grid.yaml"


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def example(i: int) -> dict[str, Any]:
    meta = {"slice": ["odd", "even"][i % 2 == 0]}
    return {
        "id": f"q{i}",
        "question": f"What does entry {i} say?",
        "answers": [f"word{i}"],
        "evidence": [f"d{i}"],
        "meta": meta,
    }


def fact(i: int) -> str:
    return f"Entry {i} says word{i}."


def number_in(messages: list[dict[str, str]]) -> int:
    """Which question was asked."""
    return int(messages[-1]["content"].rpartition("What does entry ")[2].split()[0])


def planted(effects: dict[str, float], base: float = 0.4) -> Say:
    """Right with a probability that grows with what is turned on: `adapter`, `retrieval` or `prompt`.

    The luck of each question is shared between the ways of asking it, as with a real model.
    """

    def say(model: str, messages: list[dict[str, str]]) -> str:
        i = number_in(messages)
        on = {
            "adapter": model == "tuned",
            "retrieval": "[S1]" in messages[-1]["content"],
            "prompt": messages[0]["role"] == "system",
        }
        chance = base + sum(effects.get(lever, 0.0) for lever, is_on in on.items() if is_on)
        shared = random.Random(i).random()
        own = random.Random(f"{i} {sorted(on.items())}").random()
        return f"word{i}" if 0.5 * (shared + own) < _quantile(chance) else "wrong"

    return say


def _quantile(chance: float) -> float:
    """The value that the mean of two uniform numbers stays below with this probability."""
    return (chance / 2) ** 0.5 if chance <= 0.5 else 1 - ((1 - chance) / 2) ** 0.5
