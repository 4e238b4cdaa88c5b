"""OpenAI's chat completions on the wire: a request in, a completion or its chunks out, errors in their shape.

Pure: knows nothing of sockets, and nothing of how an answer comes about.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from itertools import groupby
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from retrieval.files import STRICT
from retrieval.passage import Hit, Query
from serve.chat import Answer, Sampling, Usage
from serve.combination import Combination


class Refusal(ValueError):  # noqa: N818 - it is an answer, with a status of its own
    """A request that gets no completion: the HTTP status, and OpenAI's error object."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.status: Final = status
        self.body: Final = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of a message's content; other kinds of content are refused."""

    type: Literal["text"]
    text: str

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[TextPart, ...]
    name: str | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """The fields of OpenAI's API that mean something here; any other is refused, never ignored."""

    model: str
    messages: tuple[Turn, ...]
    stream: bool = False
    stream_options: Mapping[Literal["include_usage"], bool] = field(default_factory=dict)
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the caller knows besides: becomes `Query.meta`."""
    n: Literal[1] = 1
    user: str = ""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @classmethod
    def parse(cls, body: bytes) -> "ChatRequest":
        """Raises Refusal, which names every field that is wrong."""
        try:
            given = json.loads(body)
            return _REQUEST.validate_python({key: value for key, value in given.items() if value is not None})
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
            raise Refusal(400, "the body is not a JSON object") from None
        except ValidationError as error:
            problems = {_field(problem["loc"]): problem["msg"] for problem in error.errors()}
            sentences = "; ".join(f"{name}: {what}" for name, what in problems.items())
            raise Refusal(400, sentences, param=next(iter(problems))) from None

    def combination(self, offered: Sequence[Combination]) -> Combination:
        """The combination that the model id names; Refusal with near ones when it is not on offer."""
        named = {str(one): one for one in offered}
        if self.model in named:
            return named[self.model]
        near = get_close_matches(self.model, named, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "GET /v1/models lists them."
        raise Refusal(404, f"the model {self.model!r} does not exist; {hint}", param="model", code="model_not_found")

    def query(self) -> Query:
        """The last user message is asked; the turns before it are history, the system messages their caller's own."""
        system = "\n\n".join(turn.text for turn in self.messages if turn.role in ("system", "developer"))
        turns = [turn for turn in self.messages if turn.role in ("user", "assistant")]
        merged = ["\n\n".join(turn.text for turn in run) for _, run in groupby(turns, key=lambda turn: turn.role)]
        if not turns or turns[-1].role != "user":
            raise Refusal(400, "the last message must be the user's: it is the question", param="messages")
        return Query(merged[-1], tuple(merged[:-1]), {**self.metadata, "system_message": system})

    def sampling(self, default: Sampling) -> Sampling:
        """The stack's sampling, but for what this caller asks for."""
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "seed": self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else self.stop,
        }
        try:
            return replace(default, **{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            raise Refusal(400, str(error), param=str(error).split()[0]) from None


_REQUEST: Final = TypeAdapter(ChatRequest)


@dataclass(frozen=True, slots=True)
class Completion:
    """The envelope of one answer: everything about it but the answer."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer in one piece."""
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}
        head = {**asdict(self), "object": "chat.completion", "choices": [choice]}
        return {**head, "usage": usage(answer.usage), "sources": sources(answer.sources)}

    def opening(self, hits: Sequence[Hit]) -> dict[str, Any]:
        """The first chunk: no text yet, but already what was found."""
        return {**self._chunk({"role": "assistant", "content": ""}), "sources": sources(hits)}

    def piece(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text})

    def closing(self, answer: Answer, include_usage: bool) -> Iterator[dict[str, Any]]:
        yield self._chunk({}, answer.finish_reason)
        if include_usage:
            yield {**self._chunk({}), "choices": [], "usage": usage(answer.usage)}

    def _chunk(self, delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**asdict(self), "object": "chat.completion.chunk", "choices": [choice]}


def event(data: Mapping[str, Any] | str) -> str:
    """A server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"


def sources(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """What an answer may cite; `n` is the number in the prompt's `[S1]`."""
    return [
        {
            "n": n,
            "id": hit.passage.id,
            "document": hit.passage.document,
            "title": hit.passage.title,
            "text": hit.passage.text,
            "start": hit.passage.start,
            "end": hit.passage.end,
            "score": hit.score,
        }
        for n, hit in enumerate(hits, start=1)
    ]


def usage(counted: Usage) -> dict[str, int]:
    return {**asdict(counted), "total_tokens": counted.prompt_tokens + counted.completion_tokens}


def card(combination: Combination, created: int) -> dict[str, Any]:
    """An entry of `/v1/models`."""
    return {"id": str(combination), "object": "model", "created": created, "owned_by": "fulcrum", **asdict(combination)}


def _field(trail: Sequence[int | str]) -> str:
    """`messages.0.content`, without pydantic's names for the branches of a union."""
    return ".".join(str(part) for part in trail if part not in ("str", "tuple[TextPart, ...]"))
