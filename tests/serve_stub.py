"""An OpenAI-compatible server on a real socket that says back what it was asked, and fails as it is told to.

For tests of the pipeline and the gateway; standard library only.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

CUT = 0
"""A failure that is no status: the connection ends in the middle of the answer."""


@dataclass
class Echo:
    """What the server does next, and what it was asked."""

    failures: list[int] = field(default_factory=list)
    """Taken one at a time from the front, a request each: a status, or CUT."""
    complaint: str = "out of order"
    same_as_base: frozenset[str] = frozenset()
    """Models whose log-probabilities are the base model's."""
    may_go_on: Event = field(default_factory=Event)
    """A stream waits for it after its first word; set from the start unless a test clears it."""
    models: tuple[str, ...] = ()
    """What it lists, the base model first; it answers as any model."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """The same, byte for byte."""
    url: str = ""

    def __post_init__(self) -> None:
        self.may_go_on.set()


@contextmanager
def echoing(**settings: Any) -> Iterator[Echo]:
    """The server on a free port of this machine."""
    echo = Echo(**settings)

    class Handler(_Handler):
        stub = echo

    with _Server(("127.0.0.1", 0), Handler) as server:
        echo.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield echo
        finally:
            echo.may_go_on.set()
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """By default a sixth that nobody has met yet would have to knock again after a second."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Echo

    def do_GET(self) -> None:
        base, *adapters = self.stub.models or [""]
        cards = [{"id": base}, *({"id": name, "parent": base} for name in adapters)] if base else []
        self._send(200, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        self.stub.bodies.append(raw)
        self.stub.asked.append(body)
        try:  # not: look, then take, which is two steps, and others are asked meanwhile
            failure = self.stub.failures.pop(0)
        except IndexError:
            failure = 200
        if failure >= 400:
            self._send(failure, {"error": {"message": self.stub.complaint}})
        elif body.get("stream"):
            self._stream(body, cut=failure == CUT)
        elif failure == CUT:
            self._head(200, length=1000)
            self._hang_up()
        else:
            self._send(200, self._completion(body))

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": said(body)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        if body.get("logprobs"):
            dead = body["model"] in self.stub.same_as_base
            choice["logprobs"] = {"content": [{"logprob": -1.5 if dead else -float(len(body["model"]))}]}
        return {"choices": [choice], "usage": counted(body)}

    def _stream(self, body: dict[str, Any], cut: bool) -> None:
        self._head(200, kind="text/event-stream")
        self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        for word in said(body).split(" "):
            self._event({"choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
            self.stub.may_go_on.wait(300)
            if cut:
                return self._hang_up()
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        self._event({"choices": [], "usage": counted(body)})
        self.wfile.write(b"data: [DONE]\n\n")
        return self._hang_up()

    def _event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self._head(status, length=len(data))
        self.wfile.write(data)

    def _head(self, status: int, kind: str = "application/json", length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def said(body: dict[str, Any]) -> str:
    """The answer: which model, and the last message's last line."""
    return f"{body['model']} heard {body['messages'][-1]['content'].splitlines()[-1]}"


def counted(body: dict[str, Any]) -> dict[str, int]:
    """A word is a token."""
    prompt = sum(len(message["content"].split()) for message in body["messages"])
    return {"prompt_tokens": prompt, "completion_tokens": len(said(body).split())}
