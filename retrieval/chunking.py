"""Documents into passages, each of which knows where it stands: `document.text[start:end]` is its text.

A short document stays whole; a long one is cut where a paragraph, a sentence or at worst a word ends.
Knows nothing of tokens or embedders.
"""

import re
from collections.abc import Iterator
from typing import Final

from retrieval.passage import Document, Passage

PARAGRAPH: Final = re.compile(r"\n\s*?\n")
SENTENCE: Final = re.compile(r"[.!?]['\")\]]*\s")
WORD: Final = re.compile(r"\s")
VISIBLE: Final = re.compile(r"\S")


def passages(document: Document, size: int, overlap: int) -> Iterator[Passage]:
    """The document in passages of at most `size` characters, of which up to `overlap` repeat the one before."""
    only_title = [(0, 0)] if document.title.strip() else []
    for start, end in list(spans(document.text, size, overlap)) or only_title:
        yield document.cut(start, end)


def spans(text: str, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Where each passage starts and ends; `overlap` is less than half of `size`, so that each begins after the last.

    >>> text = "One two. Three four. Five six. Seven."
    >>> [text[start:end] for start, end in spans(text, 22, 10)]
    ['One two. Three four.', 'Five six. Seven.']
    """
    start, last = _begin(text, 0), len(text.rstrip())
    while last - start > size:
        cut = _cut(text, start + size // 2, start + size + 1)
        yield start, start + len(text[start:cut].rstrip())
        start = _begin(text, _resume(text, cut - overlap, cut))
    if start < last:
        yield start, last


def _begin(text: str, start: int) -> int:
    """The first character from `start` that is not white."""
    found = VISIBLE.search(text, start)
    return found.start() if found else len(text)


def _cut(text: str, low: int, high: int) -> int:
    """The last end of a paragraph between the two, or else of a sentence, or else of a word."""
    for boundary in (PARAGRAPH, SENTENCE, WORD):
        ends = [match.end() for match in boundary.finditer(text, low, high)]
        if ends:
            return ends[-1]
    return high - 1


def _resume(text: str, low: int, cut: int) -> int:
    """Where the next passage begins: with the first sentence after `low`, or else the first word."""
    for boundary in (SENTENCE, WORD):
        match = boundary.search(text, low, cut)
        if match:
            return match.end()
    return low
