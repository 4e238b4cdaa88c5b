"""The nouns of a conversation: messages, how to sample, one reply, and the answer a strategy makes of replies.

Knows nothing of HTTP, of engines, or of how a prompt is laid out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Final, Literal, Protocol

from pydantic import ConfigDict

from retrieval.files import STRICT
from retrieval.passage import Hit, Query

Role = Literal["system", "user", "assistant", "tool"]

UNREAD: Final = "context_length_exceeded"
"""OpenAI's code for it, here the `finish_reason` of an answer that was not begun: its prompt is longer than the model
can read."""


class ServeError(RuntimeError):
    """A question that cannot be asked, or an engine that cannot be started; the message says what to do."""


class Unavailable(ServeError):  # noqa: N818 - a state of the engine, not a mistake of anybody's
    """The engine did not answer (refused, timed out, 5xx). It says nothing about the model and is never an answer."""


class TooLong(ServeError):  # noqa: N818 - what a prompt is, not a mistake of anybody's
    """The server refuses a prompt that is longer than the model can read, and always will.

    Unlike an outage it says something about how the question was asked: `answer` is what that comes to.
    """

    def __init__(self, why: str, answer: "Answer | None" = None) -> None:
        super().__init__(why)
        self.answer: Final = answer or unread(())


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str

    def as_sent(self) -> Mapping[str, Any]:
        """The turn in OpenAI's API."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ToolTurn(Message):
    """A turn that calls tools, or what a tool said: it goes to the model as its caller wrote it."""

    written: Mapping[str, Any] = field(default_factory=dict)

    def as_sent(self) -> Mapping[str, Any]:
        return self.written


@dataclass(frozen=True, slots=True)
class Conversation(Query):
    """A question among turns that are more than words: `history` has what was said, these have the turns themselves."""

    before: tuple[Message, ...] = ()
    after: tuple[Message, ...] = ()
    """Calls that the question has led to so far, and their results."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """Those of the prompt that the engine had computed before; None where it does not say."""

    def __add__(self, other: "Usage") -> "Usage":
        cached = [one.cached_tokens for one in (self, other) if one.cached_tokens is not None]
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(cached) if cached else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen, in the words of the OpenAI API; the default is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(
                f"temperature is {self.temperature}; 0 is greedy, more is more random, less than 0 nothing"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it is a share of the probability, above 0 and at most 1")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; an answer needs at least 1")

    def as_sent(self) -> dict[str, Any]:
        """The fields in OpenAI's API; what is not set is left to the server."""
        values = ((name, getattr(self, name)) for name in SAMPLING)
        return {name: value for name, value in values if value not in (None, ())}


SAMPLING: Final = tuple(one.name for one in fields(Sampling))
"""The names of its fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested(Sampling):
    """One caller's sampling, and what else that caller asks of the server."""

    more: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of the API: `n`, `logprobs`, `tools`, `response_format` ..."""
    id: str = ""
    """The request's, for the server's log."""

    def as_sent(self) -> dict[str, Any]:
        return {**Sampling.as_sent(self), **self.more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back from one call; `finish_reason` is `stop`, or `length` when `max_tokens` cut it off."""

    text: str
    usage: Usage
    finish_reason: str
    seconds: float
    completion: Mapping[str, Any] | None = None
    """All that the server said, unless it was heard as a stream."""
    logprobs: tuple[float, ...] = ()
    """The log-probability of each token, where the sampling asked for `logprobs` and it was no stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a strategy makes of a query. What it costs is filled in by the pipeline, which counts every call."""

    text: str
    messages: tuple[Message, ...]
    """The prompt that the answer rests on: of several, the last that showed passages."""
    sources: tuple[Hit, ...]
    """What was retrieved: passages first, so that `[S2]` in the prompt is `sources[1]`."""
    finish_reason: str = "stop"
    notes: Mapping[str, float] = field(default_factory=dict)
    """How it came about, in the strategy's own figures: `confidence` (0 to 1), `retries`, `blocked` (0 or 1) ..."""
    completion: Mapping[str, Any] | None = None
    """All that the server said, where the answer is one reply word for word and no stream."""
    usage: Usage = field(default_factory=Usage)
    """Summed over all calls."""
    steps: tuple[str, ...] = ()
    """What the model wrote in each call, where there was more than one; calls at once as they ended."""
    seconds: float = 0.0
    """From the question to the answer, retrieval included."""
    search_seconds: float = 0.0
    """The part of them that retrieval took."""

    def noted(self, /, **notes: float) -> "Answer":
        """The same with these notes besides its own; of one name, the later holds."""
        return replace(self, notes={**self.notes, **notes})

    def saying(self, text: str) -> "Answer":
        """The same with another text, so that it is no longer a reply word for word."""
        return replace(self, text=text, completion=None)


def unread(messages: Sequence[Message]) -> Answer:
    """The answer to a prompt that is longer than the model can read: none, and no passage was shown."""
    return Answer(text="", messages=tuple(messages), sources=(), finish_reason=UNREAD)


class Model(Protocol):
    """Something that answers a chat: a base model, or one with an adapter."""

    @property
    def sampling(self) -> Sampling:
        """How it samples where nobody says otherwise."""
        ...

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        """The model's next turn; without `sampling`, as the stack says. Raises Unavailable, or ServeError."""
        ...
