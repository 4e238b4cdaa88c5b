"""What callers ask, in OpenAI's words: each field means something here or is refused by name, never ignored.

Pure: knows nothing of sockets, and nothing of how an answer comes about.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from itertools import groupby
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, cast

from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from retrieval.files import STRICT
from retrieval.passage import Query
from serve.chat import SAMPLING, Conversation, Message, Requested, Role, Sampling, ToolTurn

T = TypeVar("T")
Route = Literal["chat", "completions"]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
"""As JSON has them: `"2"` is no number here, and `1` is not true."""


DEEPEST: Final = 100
"""Lists and objects in one another: far more than a schema has, and far less than what a writer of JSON gives up at."""


class Refusal(ValueError):  # noqa: N818 - it is an answer, with a status of its own
    """A request that gets no completion: the HTTP status, OpenAI's error object, and when to come back, in seconds."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, after: int | None = None
    ) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.status: Final = status
        self.after: Final = after
        self.body: Final = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _without_nulls(given: Any) -> Any:
    """Clients write `null` for what they leave out."""
    return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of a message's content; other kinds of content are refused."""

    type: Literal["text"]
    text: str

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


Content = str | tuple[TextPart, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    annotations: tuple[Mapping[str, Any], ...] = ()
    """What an answer of ours has cited: clients send whole answers back. It changes nothing."""
    provider_specific_fields: Mapping[str, Any] | None = None
    """LiteLLM's copy of what it does not know in an answer, sent back with it. It changes nothing."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def text(self) -> str:
        """The words of it."""
        content = self.content or ""
        return content if isinstance(content, str) else "".join(part.text for part in content)

    def as_sent(self) -> Mapping[str, Any]:
        """The fields that were sent; content in parts is joined."""
        content = {"content": self.text if self.content is not None else None}
        rest = {"name": self.name, "tool_calls": list(self.tool_calls), "tool_call_id": self.tool_call_id}
        return {"role": self.role, **content, **{name: value for name, value in rest.items() if value}}

    @property
    def is_words(self) -> bool:
        """Whether it is nothing but words."""
        return self.role != "tool" and not self.tool_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The fields that a question has however it is asked."""

    model: str
    stream: Flag = False
    stream_options: Mapping[Literal["include_usage"], Flag] = field(default_factory=dict)
    temperature: Number | None = None
    top_p: Number | None = None
    max_tokens: Whole | None = None
    seed: Whole | None = None
    stop: str | tuple[str, ...] | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    top_k: Whole | None = None
    min_p: Number | None = None
    n: Annotated[Whole, Field(ge=1, le=16)] = 1
    logit_bias: Mapping[str, Number] | None = None
    min_tokens: Whole | None = None
    ignore_eos: Flag | None = None
    stop_token_ids: tuple[Whole, ...] | None = None
    include_stop_str_in_output: Flag | None = None
    bad_words: tuple[str, ...] | None = None
    allowed_token_ids: tuple[Whole, ...] | None = None
    skip_special_tokens: Flag | None = None
    structured_outputs: Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the caller knows besides: becomes `Query.meta`."""
    user: str = ""
    """Who asks, for the caller's own books: it changes nothing."""

    route: ClassVar[Route]

    def sampling(self, default: Sampling, request: str = "") -> Requested:
        """The stack's sampling, but for what this caller asks for; `request` is its id."""
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        if isinstance(self.stop, str):
            given["stop"] = (self.stop,)
        chosen = {name: getattr(default, name) for name in SAMPLING} | given | self.length
        try:
            return Requested(**chosen, more=dict(self.more), id=request)
        except ValueError as error:
            raise Refusal(400, str(error), param=str(error).split()[0]) from None

    @property
    def length(self) -> dict[str, int]:
        """The most tokens of an answer, when the caller says."""
        return {} if self.max_tokens is None else {"max_tokens": self.max_tokens}

    @property
    def more(self) -> Iterator[tuple[str, Any]]:
        """What is asked of the server besides sampling, as it was sent."""
        for name, default in _besides(cast(Any, type(self))):
            value = getattr(self, name)
            if value not in (None, (), default):
                yield name, value

    @property
    def turns(self) -> tuple[Mapping[str, Any], ...]:
        """The messages as they were sent."""
        raise NotImplementedError

    def query(self) -> Query:
        """What is asked."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        return self.stream_options.get("include_usage", False)

    @property
    def single_call(self) -> tuple[str, ...]:
        """The fields that only a strategy which asks the model once can honour."""
        return tuple(name for name in _SINGLE if getattr(self, name, None) not in (None, False, 1, ()))


_SAMPLING: Final = frozenset(SAMPLING) - {"max_tokens"}
_OURS: Final = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "stream",
        "stream_options",
        "metadata",
        "user",
        "max_tokens",
        "max_completion_tokens",
    }
)
_SINGLE: Final = ("n", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest(Asked):
    """The fields of OpenAI's chat completions, and of vLLM's, that mean something here."""

    messages: tuple[Annotated[Turn, BeforeValidator(_without_nulls)], ...]
    max_completion_tokens: Whole | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: Flag | None = None
    reasoning_effort: str | None = None
    include_reasoning: Flag | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None

    route: ClassVar[Route] = "chat"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def turns(self) -> tuple[Mapping[str, Any], ...]:
        """The messages as they were sent."""
        return tuple(turn.as_sent() for turn in self.messages)

    @property
    def length(self) -> dict[str, int]:
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return {} if most is None else {"max_tokens": most}

    def query(self) -> Query:
        """The last thing the user says is asked; turns before it are history, system messages their caller's own.

        After it there may be calls of tools and what came of them: they follow the question to the model.
        """
        system = "\n\n".join(turn.text for turn in self.messages if turn.role in ("system", "developer"))
        turns = [turn for turn in self.messages if turn.role not in ("system", "developer")]
        last = max((n for n, turn in enumerate(turns) if turn.role == "user"), default=None)
        if last is None or any(turn.is_words for turn in turns[last + 1 :]):
            raise Refusal(
                400, "the last message must be the user's (it is the question), or a tool's", param="messages"
            )
        named = next((n for n, turn in enumerate(self.messages) if turn.name and turn.is_words), None)
        if named is not None:
            where = f"messages.{named}.name"
            raise Refusal(400, f"{where}: no prompt here shows who speaks; leave it out", param=where)
        if turns[last + 1 :] and turns[-1].role != "tool":
            raise Refusal(400, "a call of a tool must be followed by what the tool said", param="messages")
        said = _merged(turns[: last + 1])
        words = [turn for turn in said[:-1] if not isinstance(turn, ToolTurn)]
        history = [turn.content for turn in _joined(words)]
        if words and words[-1].role == "user":  # its answer was a call of a tool
            history.append("")
        meta = {**self.metadata, "system_message": system}
        after = tuple(_message(turn) for turn in turns[last + 1 :])
        if after or len(words) < len(said) - 1:
            return Conversation(said[-1].content, tuple(history), meta, before=said[:-1], after=after)
        return Query(said[-1].content, tuple(history), meta)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest(Asked):
    """OpenAI's older completions: the prompt is a question, asked the way that the model id names."""

    prompt: str | tuple[str, ...]

    route: ClassVar[Route] = "completions"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def turns(self) -> tuple[Mapping[str, Any], ...]:
        """The prompt as the message that it becomes."""
        return ({"role": "user", "content": self.query().text},)

    def query(self) -> Query:
        prompts = (self.prompt,) if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            raise Refusal(400, f"prompt: {len(prompts)} prompts; ask them one at a time", param="prompt")
        return Query(prompts[0], (), dict(self.metadata))


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What a retriever finds, without an answer: `model` is a retriever's name, or a combination that has one."""

    model: str
    query: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    route: ClassVar[str] = "search"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def asking(self) -> Query:
        return Query(self.query, (), dict(self.metadata))


def read(kind: type[T], body: bytes) -> T:
    """The body as a request of this kind; Refusal names every field that is wrong."""
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_python(_without_nulls(_object(body))))
    except ValidationError as error:
        problems = {_field(problem["loc"]): problem["msg"] for problem in error.errors()}
        sentences = "; ".join(f"{name}: {_hint(name, what)}" if name else what for name, what in problems.items())
        raise Refusal(400, sentences, param=next(iter(problems)) or None) from None


def _object(body: bytes) -> dict[str, Any]:
    """What the body says, when that is a JSON object of some depth."""
    try:
        given = json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Refusal(400, "the body is not a JSON object")
    if body.count(b"{") + body.count(b"[") > DEEPEST and _is_deeper(given, DEEPEST):
        raise Refusal(400, f"the body is nested more than {DEEPEST} deep")
    return given


def chosen(model: str, offered: Mapping[str, T]) -> T:
    """What the model id names; Refusal with near ones when it is not on offer."""
    if model in offered:
        return offered[model]
    near = get_close_matches(model[:200], offered, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "GET /v1/models lists them."
    raise Refusal(404, f"the model {model[:200]!r} does not exist; {hint}", param="model", code="model_not_found")


_INSTEAD: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        "use `structured_outputs` or `response_format`",
    ),
    **dict.fromkeys(("functions", "function_call"), "use `tools` and `tool_choice`"),
    "best_of": "ask for `n` answers and choose",
    "documents": "passages come from the retriever of the model id",
}
"""What took the place of fields that servers of this kind once had, or have and ignore."""


@cache
def _besides(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    """The fields that go to the server and are no sampling, with their defaults."""
    return tuple((one.name, one.default) for one in fields(kind) if one.name not in _OURS | _SAMPLING)


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _merged(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """Neighbours of one speaker are one message: many chat templates want speakers to alternate."""
    return _joined([_message(turn) for turn in turns])


def _joined(messages: Sequence[Message]) -> tuple[Message, ...]:
    runs = groupby(messages, key=lambda one: (one.role, id(one) if isinstance(one, ToolTurn) else 0))
    return tuple(_one(list(run)) for _, run in runs)


def _one(run: Sequence[Message]) -> Message:
    return run[0] if len(run) == 1 else Message(run[0].role, "\n\n".join(turn.content for turn in run))


def _message(turn: Turn) -> Message:
    role: Role = turn.role if turn.role != "developer" else "system"
    return Message(role, turn.text) if turn.is_words else ToolTurn(role, turn.text, turn.as_sent())


def _is_deeper(value: Any, most: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most < 0 or any(_is_deeper(one, most - 1) for one in inner)


def _finite(text: str) -> float:
    """NaN, Infinity and 1e999, which Python reads and no engine can use."""
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(f"{text} is not JSON")


def _field(trail: Sequence[int | str]) -> str:
    """`messages.0.content`, without pydantic's names for the branches of a union."""
    return ".".join(str(part) for part in trail if not isinstance(part, str) or not re.search(r"[\[(]|^str$", part))


def _hint(name: str, what: str) -> str:
    return f"{what}; {_INSTEAD[name]}" if name in _INSTEAD else what
