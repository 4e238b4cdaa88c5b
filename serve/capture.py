"""`capture: FILE` of a stack: chats and what people said of them, kept for `scripts.curate`; off unless it is named.

One JSON object a line, whole lines only, readable by its owner alone. A full file becomes FILE.0001, the next one
FILE.0002, so that they can be moved away; nothing is ever deleted. A chat's sources are kept with their texts: an
index is built again, and what the model was shown would be lost. Knows nothing of HTTP, but for the shape of feedback.
"""

import fcntl
import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field

from retrieval.files import STRICT, FileError, read_jsonl
from retrieval.passage import Hit, Passage
from serve.asked import Refusal
from serve.chat import ServeError
from serve.exchange import Exchange

COMPLETION: Final = "chatcmpl-"
"""What the id of an answer has before the id of its request."""
MOST_IDS: Final = 100_000
"""Chats that feedback may still be about, the latest: about 15 MB of ids."""
PIECE_BYTES: Final = 1 << 30
"""A file of this size is full."""
TAIL_BYTES: Final = 64 << 20
"""So much of the file's end is read for ids after a restart."""

_logger = logging.getLogger(__name__)

Prose = Annotated[str, Field(max_length=20_000)]
Rating = Literal["up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The body of `POST /v1/feedback`: what a person says of an answer. What is said later counts, key by key."""

    id: str
    """The answer's `id`, or the request's."""
    rating: Rating | None = None
    comment: Prose = ""
    correction: Prose = ""
    """What should have been answered."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not (self.rating or self.comment.strip() or self.correction.strip()):
            raise ValueError("give a rating (`up` or `down`), a comment or a correction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A chat as it was kept, with what was said of it since."""

    id: str
    at: float
    combination: str
    messages: tuple[Mapping[str, Any], ...]
    text: str
    sources: tuple[Hit, ...]
    finish_reason: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    rating: Rating | None = None
    correction: str = ""


class Capture:
    """An open file of chats. One gateway writes it; closing lets another have it."""

    def __init__(self, path: Path) -> None:
        """ServeError when the file cannot be written, or another gateway writes it."""
        self._path: Final = path
        self._lost = 0
        self._ids: Final[OrderedDict[str, None]] = OrderedDict()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: Final = os.open(path, _OPEN, 0o600)
        except OSError as error:
            raise self._unfit(error) from None
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        os.close(self._file)

    def observe(self, exchange: Exchange) -> None:
        """Keep a chat that was answered whole. Never raises: a full disk is no reason to answer nobody."""
        if exchange.route != "chat" or exchange.status != 200:
            return
        try:
            self._append(row(exchange))
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                _logger.error("%s: chats are no longer kept (%s); answers go on", self._path, error.strerror)
            return
        self._know(exchange.id)
        if self._lost:
            _logger.warning("%s: chats are kept again; %d were lost", self._path, self._lost)
            self._lost = 0

    def knows(self, feedback: Feedback) -> bool:
        """Whether the chat it is about was kept."""
        return feedback.id.removeprefix(COMPLETION) in self._ids

    def hear(self, feedback: Feedback) -> None:
        """Keep what a person says of a chat; Refusal when it was never kept, or this cannot be."""
        name = feedback.id.removeprefix(COMPLETION)
        if not self.knows(feedback):
            raise Refusal(404, f"there is no captured chat {feedback.id!r}; its answer's `id` is meant", param="id")
        said = {key: value for key, value in asdict(feedback).items() if key != "id" and value}
        try:
            self._append({"id": name, "feedback": said})
        except OSError as error:
            raise Refusal(503, f"the feedback could not be kept ({error.strerror}); try again later") from None

    def _append(self, kept: Mapping[str, Any]) -> None:
        """A whole line, or nothing and an OSError."""
        line = (json.dumps(kept, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")
        if os.fstat(self._file).st_size >= PIECE_BYTES:
            with suppress(OSError):  # a full file takes more, where no other can be made
                self._turn()
        before = os.fstat(self._file).st_size
        written = os.write(self._file, line)
        if written < len(line):  # a disk that is nearly full takes a part
            os.ftruncate(self._file, before)
            raise OSError(0, "the disk is full")

    def _turn(self) -> None:
        """Begin another file in the place of the full one."""
        if self._path.exists():
            last = max((int(one.suffix[1:]) for one in _full(self._path)), default=0)
            self._path.rename(f"{self._path}.{last + 1:04}")
        new = os.open(self._path, _OPEN, 0o600)
        try:
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.dup2(new, self._file, inheritable=False)
        finally:
            os.close(new)

    def _know(self, name: str) -> None:
        self._ids[name] = None
        if len(self._ids) > MOST_IDS:
            self._ids.popitem(last=False)

    def _take(self) -> None:
        """Have the file for ourselves, and know what is in it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume()
            os.fchmod(self._file, 0o600)  # it may have been made by other means
        except BlockingIOError:
            why = "another gateway captures to this file; give each a `capture:` of its own"
            raise ServeError(f"{self._path}: {why}") from None
        except OSError as error:
            raise self._unfit(error) from None

    def _unfit(self, error: OSError) -> ServeError:
        return ServeError(f"{self._path}: chats cannot be kept here ({error.strerror}); name another `capture:`")

    def _resume(self) -> None:
        """The latest ids; half a line at the end of the file, left by a power cut, goes."""
        for full in _full(self._path)[-1:]:
            with full.open("rb") as file:
                self._know_all(_tail(file.fileno())[0])
        tail, start = _tail(self._file)
        whole = tail.rfind(b"\n") + 1
        if half := tail[whole:]:
            if not (_BEGINS.startswith(half) or half.startswith(_BEGINS)):
                raise ServeError(f"{self._path}: ends with what is no captured chat; name another file as `capture:`")
            os.ftruncate(self._file, start + whole)
            _logger.warning("%s: its last line was broken off and is removed", self._path)
        self._know_all(tail[:whole])

    def _know_all(self, lines: bytes) -> None:
        for found in _CHAT.finditer(lines):
            self._know(json.loads(found[1]))


def _tail(file: int) -> tuple[bytes, int]:
    """The end of a file, and where it begins."""
    size = os.fstat(file).st_size
    start = max(0, size - TAIL_BYTES)
    return os.pread(file, size - start, start), start


def _full(path: Path) -> list[Path]:
    """The files that were full before this one, the oldest first."""
    return sorted(path.parent.glob(f"{escape(path.name)}.[0-9][0-9][0-9][0-9]"))


_OPEN: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT
_BEGINS: Final = b'{"id": "'
_CHAT: Final = re.compile(rb'^\{"id": ("(?:[^"\\]|\\.)*"), "at": ', re.MULTILINE)
"""The beginning of a chat's line, as `row` writes it."""


def row(exchange: Exchange) -> dict[str, Any]:
    """A chat as a line of the file; without keys, `key` is left out."""
    return {
        "id": exchange.id,
        "at": exchange.at,
        "combination": exchange.combination,
        **({"key": exchange.key} if exchange.key else {}),
        "messages": list(exchange.messages),
        "text": exchange.text,
        "sources": [{**asdict(hit.passage), "score": hit.score} for hit in exchange.sources],
        "usage": asdict(exchange.usage),
        "finish_reason": exchange.finish_reason,
        "sampling": dict(exchange.sampling),
    }


def read_captured(path: Path) -> tuple[Captured, ...]:
    """Every chat of the file and of the full ones before it, with its feedback. FileError has every line that is
    neither."""
    chats: dict[str, Captured] = {}
    wrong: list[str] = []
    for place, number, kept in ((one, *line) for one in (*_full(path), path) for line in read_jsonl(one)):
        try:
            if "feedback" not in kept:
                chats[kept["id"]] = _chat(kept)
            elif kept["id"] in chats:
                chats[kept["id"]] = _heard(chats[kept["id"]], kept["feedback"])
        except (KeyError, TypeError, ValueError):
            wrong.append(f"{place}:{number}: is neither a captured chat nor feedback on one; remove the line")
    if wrong or not chats:
        raise FileError("\n".join(wrong) or f"{path}:1: has no chats; ask something while `capture:` names it")
    return tuple(chats.values())


def _chat(kept: Mapping[str, Any]) -> Captured:
    return Captured(
        id=str(kept["id"]),
        at=float(kept["at"]),
        combination=str(kept["combination"]),
        messages=tuple(dict(message) for message in kept["messages"]),
        text=str(kept["text"]),
        sources=tuple(_hits(kept["sources"])),
        finish_reason=str(kept["finish_reason"]),
        sampling=dict(kept["sampling"]),
    )


def _hits(sources: Sequence[Mapping[str, Any]]) -> Iterator[Hit]:
    for rank, source in enumerate(sources, start=1):
        passage = {key: value for key, value in source.items() if key != "score"}
        yield Hit(Passage(**passage), source["score"], rank)


def _heard(chat: Captured, said: Mapping[str, Any]) -> Captured:
    return replace(chat, rating=said.get("rating") or chat.rating, correction=said.get("correction") or chat.correction)
