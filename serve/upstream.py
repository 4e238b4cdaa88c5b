"""One chat model behind an OpenAI-compatible server: ask it, hear it, and say plainly when it cannot be reached.

Knows nothing of strategies, retrieval, or of who started the server.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import httpx

from serve.chat import Message, Reply, Sampling, ServeError, Unavailable, Usage

BACK_OFF: Final = (0.1, 0.5, 2.0)
"""Seconds between attempts: an engine that is busy recovers within these, one that is gone does not."""
TIMEOUT: Final = httpx.Timeout(600.0, connect=5.0, pool=None)
STREAM: Final = {"stream": True, "stream_options": {"include_usage": True}}


def connect(url: str | None, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """A client for the server at `url`, or for the one that `transport` leads to. OPENAI_API_KEY is sent when set."""
    key = os.environ.get("OPENAI_API_KEY")
    return httpx.AsyncClient(
        base_url=url or "http://engine/v1",
        transport=transport,
        timeout=TIMEOUT,
        limits=httpx.Limits(max_connections=None),
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


@dataclass(frozen=True, slots=True)
class Upstream:
    """The model called `name` on that server."""

    http: httpx.AsyncClient
    name: str
    sampling: Sampling

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        """The whole reply."""
        started = time.perf_counter()
        completion = await self.complete(messages, sampling)
        choice = completion["choices"][0]
        return Reply(
            text=choice["message"]["content"] or "",
            usage=_usage(completion),
            finish_reason=choice["finish_reason"],
            seconds=time.perf_counter() - started,
        )

    async def stream(self, messages: Sequence[Message], sampling: Sampling | None = None) -> AsyncIterator[str | Reply]:
        """The reply's text in pieces while it is written, then the whole Reply."""
        started = time.perf_counter()
        pieces: list[str] = []
        finish_reason, usage = "stop", Usage()
        async for chunk in self._chunks(self._body(messages, sampling) | STREAM):
            if chunk.get("usage"):
                usage = _usage(chunk)
            for choice in chunk["choices"]:
                finish_reason = choice["finish_reason"] or finish_reason
                if piece := choice["delta"].get("content"):
                    pieces.append(piece)
                    yield piece
        yield Reply(
            text="".join(pieces), usage=usage, finish_reason=finish_reason, seconds=time.perf_counter() - started
        )

    async def complete(self, messages: Sequence[Message], sampling: Sampling | None = None, **fields: Any) -> Any:
        """The server's chat completion as it came; `fields` are further ones of the API (`logprobs` ...)."""
        response = await self._send(self._body(messages, sampling) | fields)
        try:
            return response.json()
        except ValueError:
            raise ServeError(f"{self.http.base_url} does not speak OpenAI's API: {response.text[:200]!r}") from None

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The data of a stream of server-sent events."""
        response = await self._send(body)
        try:
            async for line in response.aiter_lines():
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    return
                if data != line:
                    yield _sound(json.loads(data))
        except (httpx.TransportError, json.JSONDecodeError) as error:
            raise Unavailable(f"{self.http.base_url} broke off its answer: {error!r}") from error
        finally:
            await response.aclose()
        raise Unavailable(f"{self.http.base_url} broke off its answer before the end")

    def _body(self, messages: Sequence[Message], sampling: Sampling | None) -> dict[str, Any]:
        chosen = {name: value for name, value in asdict(sampling or self.sampling).items() if value not in (None, ())}
        return {"model": self.name, "messages": [asdict(message) for message in messages], **chosen}

    async def _send(self, body: dict[str, Any]) -> httpx.Response:
        """Post until the server answers; a stream's body is still to be read. 4xx is final, the rest is tried again."""
        streamed, why = body.get("stream", False), ""
        for wait in (*BACK_OFF, None):
            try:
                request = self.http.build_request("POST", "chat/completions", json=body)
                response = await self.http.send(request, stream=streamed)
            except (httpx.ConnectTimeout, httpx.NetworkError, httpx.RemoteProtocolError) as error:
                why = f"cannot be reached ({error or type(error).__name__})"
            except httpx.TimeoutException:
                raise Unavailable(f"{self.http.base_url} was silent for {TIMEOUT.read:.0f} s") from None
            else:
                if response.is_success:
                    return response
                why = f"answered {response.status_code}: {await _complaint(response)}"
                if response.status_code < 500 and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    raise ServeError(f"{self.http.base_url} {why}")
            if wait is not None:
                await asyncio.sleep(wait)
        raise Unavailable(f"{self.http.base_url} {why}; {len(BACK_OFF) + 1} attempts")


def _usage(completion: dict[str, Any]) -> Usage:
    counted = completion.get("usage")
    if not counted:
        raise ServeError(
            "the server counts no tokens (`usage` is missing from its answer), and this comparison needs them"
        )
    return Usage(counted["prompt_tokens"], counted["completion_tokens"])


def _sound(chunk: dict[str, Any]) -> dict[str, Any]:
    """A server that fails in the middle of a stream says so in its data."""
    if "error" in chunk:
        raise Unavailable(
            f"the server gave up in the middle of its answer: {chunk['error'].get('message', chunk['error'])}"
        )
    return chunk


async def _complaint(response: httpx.Response) -> str:
    """The sentence in an error body, however the server wraps it."""
    try:
        body = (await response.aread()).decode(errors="replace")
    except httpx.TransportError as error:
        return repr(error)
    finally:
        await response.aclose()
    try:
        data = json.loads(body)
        return str(data.get("error", data).get("message", body))
    except (json.JSONDecodeError, AttributeError):
        return body.strip()[:500] or response.reason_phrase
