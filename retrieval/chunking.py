"""Documents into passages, each of which knows where it stands: `document.text[start:end]` is its text.

A short document stays whole, and so does a worked example, since half a question has no answer. semchunk cuts a long
document where it holds together least: between paragraphs, lines, sentences, clauses, at worst words. The only door to
that library. Knows nothing of tokens or embedders.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from retrieval.passage import Document, Passage
from retrieval.worked import is_worked

WORD: Final = re.compile(r"(?<=\s)\S")
VISIBLE: Final = re.compile(r"\S")


def passages(document: Document, size: int, overlap: int) -> Iterator[Passage]:
    """The document in passages of at most `size` characters, of which up to `overlap` repeat the one before."""
    only_title = [(0, 0)] if document.title.strip() else []
    most = max(size, len(document.text)) if is_worked(document.meta) else size
    for start, end in list(spans(document.text, most, overlap)) or only_title:
        yield document.cut(start, end)


def spans(text: str, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Where each passage starts and ends, in characters; `overlap` is less than half of `size`.

    >>> text = "One two. Three four. Five six. Seven."
    >>> [text[start:end] for start, end in spans(text, 22, 0)]
    ['One two. Three four.', 'Five six. Seven.']
    """
    import semchunk

    if len(text.strip()) <= size:
        pieces: Any = [(0, len(text))]
    else:
        # semchunk's own overlap makes pieces that are longer than `size`: ours leaves room, and reaches back.
        pieces = semchunk.chunkerify(len, size - overlap, memoize=False)(text, offsets=True)[1]
    before = 0
    for first, last in pieces:
        end = first + len(text[first:last].rstrip())
        start = _begin(text, max(first - overlap, before) if before else first, first)
        if start < end:
            yield start, end
            before = start + 1


def _begin(text: str, low: int, high: int) -> int:
    """The first beginning of a word between the two, or else the first visible character from `high` on."""
    found = WORD.search(text, low, high) or VISIBLE.search(text, high)
    return found.start() if found else len(text)
