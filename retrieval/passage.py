"""The nouns of retrieval: a document, a piece of it, a piece that was found, and what was asked.

Knows nothing of how pieces are made, stored or searched.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class RetrievalError(ValueError):
    """Documents, an index or a setting that cannot be used; the message says where and what to do."""


def whole(text: str) -> str:
    """The text with U+FFFD for half of a character (a surrogate alone), which no tokenizer takes and no file holds.

    >>> whole("a fox: \\ud83e")
    'a fox: �'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A source text; `meta` is what its owner says about it (domain, year, answer ...)."""

    id: str
    title: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    pages: tuple[int, ...] = ()
    """Where each page begins, in characters, the first at 0; empty when the source has no pages."""

    def cut(self, start: int, end: int) -> "Passage":
        """The passage from character `start` up to `end`."""
        page = bisect_right(self.pages, start) or None
        return Passage(self.id, self.title, self.text[start:end], start, end, page=page, meta=self.meta)

    def page(self, number: int) -> "Passage":
        """Page `number`, counted from 1; KeyError when there is no such page."""
        if not 1 <= number <= len(self.pages):
            raise KeyError(number)
        start, *after = self.pages[number - 1 : number + 1]
        return self.cut(start, after[0] if after else len(self.text))


@dataclass(frozen=True, slots=True)
class Passage:
    """`document.text[start:end]`, with enough of its document to be shown and cited."""

    document: str
    title: str
    text: str
    start: int
    end: int
    page: int | None = field(default=None, kw_only=True)
    """The page on which it begins, counted from 1; None when its document has no pages."""
    meta: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def id(self) -> str:
        """`doc@120-480`: the form in which a test set names its evidence."""
        return f"{self.document}@{self.start}-{self.end}"

    @property
    def searchable(self) -> str:
        """What is embedded, matched and re-ranked: the title gives a piece of a document its subject."""
        return f"{self.title}\n{self.text}".strip()


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found; rank 1 is the best, and a score compares only within one search."""

    passage: Passage
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked: the text, the turns before it (oldest first), and what the caller knows besides.

    JSON that arrives over a network can spell half of a character: it is replaced here, before anything reads it.
    """

    text: str
    history: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", whole(self.text))
        object.__setattr__(self, "history", tuple(map(whole, self.history)))
