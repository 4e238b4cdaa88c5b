"""OpenAI's completions on the wire: what a server said, or a strategy made, as this gateway's answer.

Pure: knows nothing of sockets, and nothing of how an answer comes about.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import quote

from retrieval.passage import Hit
from serve.asked import Route
from serve.chat import Answer, Usage
from serve.combination import Combination
from serve.layout import MARKER
from serve.upstream import Chunk

Object = dict[str, Any]

DONE: Final = b"data: [DONE]\n\n"
_NAMES: Final[Mapping[tuple[str, bool], str]] = {
    ("chat", False): "chat.completion",
    ("chat", True): "chat.completion.chunk",
    ("completions", False): "text_completion",
    ("completions", True): "text_completion",
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """Everything about an answer but the answer."""

    route: Route
    id: str
    model: str
    """As the caller named it."""
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, streamed: bool) -> Object:
        name = _NAMES[self.route, streamed]
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def whole(self, answer: Answer) -> Object:
        """The answer in one piece, with its sources and the places where it cites them."""
        said = answer.completion or {"choices": [_choice(answer)]}
        cited = [citations(choice["message"].get("content"), answer.sources) for choice in said["choices"]]
        return {
            **said,
            **self.head(streamed=False),
            "choices": [self._with(choice, found) for choice, (found, _) in zip(said["choices"], cited, strict=True)],
            "usage": usage(answer.usage, said.get("usage")),
            "sources": sources(answer.sources),
            "unknown_citations": sum(unknown for _, unknown in cited),
        }

    def _with(self, choice: Object, found: Sequence[Object]) -> Object:
        """The choice as this route has it."""
        if self.route == "chat":
            return {**choice, "message": {**choice["message"], "annotations": found}}
        return _as_text(choice, choice["message"]["content"] or "") | {"annotations": found}


class Relay:
    """A server's events as ours: under our id and name, the sources first, the citations last, all else as it came."""

    def __init__(self, envelope: Envelope, hits: Sequence[Hit] = ()) -> None:
        self._envelope = envelope
        self.hits = hits
        """What the answer may cite; known before its first event."""
        self._said: defaultdict[int, list[str]] = defaultdict(list)
        self._counted: Mapping[str, Any] = {}
        self._theirs: bytes | None = None
        self._ours = json.dumps(envelope.head(streamed=True), separators=(",", ":"))[:-1].encode() + b","
        self._begun = False
        self.unknown_citations = 0

    @property
    def text(self) -> str:
        """What the first choice has said so far."""
        return "".join(self._said[0])

    def heard(self, chunk: Chunk) -> bytes:
        """The event for the caller; nothing for one that only counts tokens, which come at the end."""
        choices = chunk.data["choices"]
        self._counted = chunk.data.get("usage") or self._counted
        if not choices:
            return b""
        ends = False
        for choice in choices:
            if piece := choice["delta"].get("content"):
                self._said[choice["index"]].append(piece)
            ends = ends or bool(choice["finish_reason"])
        if self._begun and not ends and self._envelope.route == "chat" and (renamed := self._renamed(chunk.raw)):
            return renamed
        return self._rewritten(chunk.data)

    def made(self, answer: Answer) -> Iterator[bytes]:
        """An answer that nobody heard while it was made, as events."""
        deltas: tuple[Object, ...] = ({"role": "assistant", "content": ""}, {"content": answer.text}, {})
        for delta, reason in zip(deltas, (None, None, answer.finish_reason), strict=True):
            data = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            yield self.heard(Chunk(b"", data))

    def ending(self, answer: Answer, include_usage: bool) -> bytes:
        """The tokens, when they were asked for, and the end."""
        if not include_usage:
            return DONE
        counted = usage(answer.usage, self._counted)
        return event({**self._envelope.head(streamed=True), "choices": [], "usage": counted}) + DONE

    def _renamed(self, raw: bytes) -> bytes:
        """The event with our id, time and name, its other bytes untouched; nothing when it begins in another way."""
        if self._theirs is None:
            self._theirs = self._found(raw)
        if self._theirs and raw.startswith(self._theirs):
            return b"data: " + self._ours + raw[len(self._theirs) :] + b"\n\n"
        return b""

    def _found(self, raw: bytes) -> bytes:
        """What stands before `choices` in every event of this server, if that is what names it."""
        theirs, choices, rest = raw.partition(b'"choices"')
        try:
            read = json.loads(self._ours + choices + rest)
        except ValueError:
            return b""
        return theirs if self._envelope.head(streamed=True).items() <= read.items() else b""

    def _rewritten(self, data: Mapping[str, Any]) -> bytes:
        ours = {**data, **self._envelope.head(streamed=True), "choices": [self._marked(one) for one in data["choices"]]}
        ours.pop("usage", None)
        if not self._begun:
            ours["sources"] = sources(self.hits)
        self._begun = True
        return event(ours)

    def _marked(self, choice: Object) -> Object:
        """The choice as this route has it; where it ends, with what it has cited."""
        found: Object = {}
        if choice["finish_reason"]:
            found["annotations"], unknown = citations("".join(self._said[choice["index"]]), self.hits)
            self.unknown_citations += unknown
        if self._envelope.route == "chat":
            return {**choice, "delta": {**choice["delta"], **found}}
        return _as_text(choice, choice["delta"].get("content") or "") | found


def event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + encoded(data) + b"\n\n"


def encoded(data: Mapping[str, Any]) -> bytes:
    """JSON as it is sent."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def sources(hits: Sequence[Hit]) -> list[Object]:
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


def citations(text: str | None, hits: Sequence[Hit]) -> tuple[list[Object], int]:
    """Where an answer cites its sources, in OpenAI's shape, and how often it cites what it was not given.

    The URL is the document's (`meta.url`), or `source:` and the passage.
    """
    marked = list(MARKER.finditer(text or ""))
    known = [found for found in marked if 1 <= int(found[1]) <= len(hits)]
    return [_annotation(hits[int(found[1]) - 1], found) for found in known], len(marked) - len(known)


def usage(counted: Usage, details: Mapping[str, Any] | None = None) -> Object:
    """The tokens of all calls; `details` are those that the server told of the answer's own."""
    prompt, completion = counted.prompt_tokens, counted.completion_tokens
    ours = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**(details or {}), **ours}


def card(name: str, combination: Combination, created: int) -> Object:
    """An entry of `/v1/models`: a combination, under its own name or an alias."""
    parts = {**asdict(combination), "combination": str(combination)}
    return {"id": name, "object": "model", "created": created, "owned_by": "fulcrum", **parts}


def _annotation(hit: Hit, place: re.Match[str]) -> Object:
    """A URL citation, even of what has no URL: OpenAI's chat knows no other kind, and some clients refuse any other."""
    passage = hit.passage
    url = passage.meta.get("url")
    cited = {
        "url": url if isinstance(url, str) else f"source:{quote(passage.id)}",
        "title": passage.title,
        "start_index": place.start(),
        "end_index": place.end(),
        "document": passage.document,
        "passage": passage.id,
    }
    return {"type": "url_citation", "url_citation": cited}


def _choice(answer: Answer) -> Object:
    message = {"role": "assistant", "content": answer.text}
    return {"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}


def _as_text(choice: Object, text: str) -> Object:
    """A choice of the older completions."""
    return {"index": choice["index"], "text": text, "finish_reason": choice["finish_reason"], "logprobs": None}
