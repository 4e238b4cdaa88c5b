"""Records, failures, and the append-only files that hold them: what is written stays written, whatever dies when.

Knows nothing of how answers are made or what their scores mean.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from sys import intern
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from retrieval.files import FileError
from serve.chat import Message, Usage
from serve.combination import Combination

T = TypeVar("T")


class RunError(RuntimeError):
    """A run that cannot begin, go on or be reported; the message says what is safe and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that was shown to the model, in the order of the prompt."""

    passage: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One example through one combination."""

    id: str
    combination: Combination
    prompt: tuple[Message, ...]
    sources: tuple[Source, ...]
    text: str
    usage: Usage
    seconds: float
    scores: Mapping[str, float]
    finish_reason: str
    """The engine's word: `stop`, `length` where it was cut off ...; UNREAD where the prompt was too long to be read."""
    repeat: int = 0
    """Which of the answers to this question: each but the first has a seed of its own."""
    shared: bool = False
    """Whether the reply was asked for by another cell or example with the same prompt. Tokens and seconds are those of
    that call: what the answer would have cost alone."""
    search_seconds: float = 0.0
    """The part of the seconds that retrieval took."""
    in_flight: float = 0
    """How many calls the engine had while it was asked, this one included, on average by shares: the load that the
    seconds were measured under, and seconds over it are what the engine spent on it. 0 where it was not noted."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """What the strategy told about how the answer came about: `confidence`, `retries` ..."""
    steps: tuple[str, ...] = ()
    """What the model wrote in each call, where the answer took more than one."""


LATER: Final = ("repeat", "shared", "search_seconds", "in_flight", "notes", "steps")
"""Fields that records of earlier versions do not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no record. It is never a score: an outage says nothing about a model."""

    id: str
    combination: Combination
    reason: str
    attempts: int
    """How often this question was tried this way, over all runs of the same command."""
    repeat: int = 0


def row_of(entry: Record | Failure) -> dict[str, Any]:
    """The entry as JSON has it; a combination is its one name."""
    row = asdict(entry) | {"combination": str(entry.combination)}
    return {name: value for name, value in row.items() if value or name not in ("notes", "steps")}


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file; none when there is no file yet."""
    return _read(path, _record)


def read_failures(path: Path) -> Iterator[Failure]:
    """The failures of a file, oldest first; later ones replace earlier ones."""
    return _read(path, _failure)


class Journal:
    """A JSONL file that only grows, by whole lines."""

    def __init__(self, path: Path) -> None:
        """Open for appending. A torn last line, left by a death in mid-write, is cut off: it is asked again."""
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._length = _whole_lines(path)
        os.ftruncate(self._file, self._length)

    def append(self, entry: Record | Failure) -> None:
        """Keep it."""
        self.write(row_of(entry))

    def write(self, row: Mapping[str, Any]) -> None:
        """Hand one line to the operating system, which keeps it even if this process is killed the moment after."""
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):  # a disk takes what still fits and says so only at the next write
                os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, self._length)
            raise RunError(
                f"{self.path}: cannot be written: {error.strerror}. Every answer before this one is kept; "
                "free some space and run the same command to go on."
            ) from None
        self._length += len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def _whole_lines(path: Path) -> int:
    """Bytes of the lines that were finished."""
    with path.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Each whole line; what stands after the last line break was never finished."""
    if not path.exists():
        return
    # Bytes, whose lines end at \n alone: text also breaks at U+2028, which a model may well write inside a string.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield parse(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise FileError(f"{path}:{number}: not a line of this program ({error!r}); remove the line") from None


def _record(row: dict[str, Any]) -> Record:
    """What many records say in the same words, a prompt or a passage's name, is in memory once."""
    return Record(
        id=intern(row["id"]),
        combination=_combination(row["combination"]),
        prompt=tuple(Message(**turn | {"content": intern(turn["content"])}) for turn in row["prompt"]),
        sources=tuple(Source(intern(one["passage"]), one["score"]) for one in row["sources"]),
        text=intern(row["text"]),
        usage=Usage(**row["usage"]),
        seconds=row["seconds"],
        scores={intern(name): score for name, score in row["scores"].items()},
        finish_reason=intern(row["finish_reason"]),
        **{name: row[name] for name in LATER if name in row} | {"steps": tuple(row.get("steps", ()))},
    )


def _failure(row: dict[str, Any]) -> Failure:
    return Failure(**row | {"combination": _combination(row["combination"])})


@cache
def _combination(name: str) -> Combination:
    return Combination.parse(name)
