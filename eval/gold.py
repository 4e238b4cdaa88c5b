"""The oracle arm: a retriever that finds exactly the marked evidence; what is still wrong then is not its fault.

Knows nothing of models, scores or indexes; it is never ranked and never served.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from retrieval.passage import Document, Hit, Passage, Query

PART: Final = re.compile(r"(?P<document>.+)(#p(?P<page>\d+)|@(?P<start>\d+)-(?P<end>\d+))")


@dataclass(frozen=True, slots=True)
class GoldRetriever:
    """Finds the evidence of one example, in the order in which the test set names it, whatever is asked."""

    evidence: tuple[Passage, ...]

    async def search(self, query: Query) -> tuple[Hit, ...]:
        """The evidence; equal scores, because nothing was weighed."""
        return tuple(Hit(passage, score=1.0, rank=rank) for rank, passage in enumerate(self.evidence, start=1))


def cite(evidence: str, documents: Mapping[str, Document]) -> Passage:
    """The passage that `doc`, `doc#p12` or `doc@120-480` names. Raises ValueError with a sentence.

    >>> cite("fox@4-7", {"fox": Document(id="fox", title="Foxes", text="The red fox")}).text
    'red'
    """
    if evidence in documents:
        return documents[evidence].cut(0, len(documents[evidence].text))
    part = PART.fullmatch(evidence)
    if part is None or part["document"] not in documents:
        raise ValueError(f"evidence {evidence!r} names no document: write its id, or id#p12, or id@start-end")
    document = documents[part["document"]]
    return _page(evidence, document, int(part["page"])) if part["page"] else _span(evidence, document, part)


def document_of(evidence: str) -> str:
    """The id of the document that it names a part of, as far as one can tell without the documents.

    >>> document_of("fox#p12"), document_of("fox@4-7"), document_of("fox")
    ('fox', 'fox', 'fox')
    """
    part = PART.fullmatch(evidence)
    return part["document"] if part else evidence


def _page(evidence: str, document: Document, number: int) -> Passage:
    if not 1 <= number <= len(document.pages):
        has = f"pages 1 to {len(document.pages)}" if document.pages else "no pages"
        raise ValueError(f"evidence {evidence!r} names no page: the document has {has}")
    page = document.page(number)
    if not page.text.strip():
        raise ValueError(f"evidence {evidence!r} names a page without text: leave it out")
    return document.cut(page.start, page.start + len(page.text.rstrip()))


def _span(evidence: str, document: Document, part: re.Match[str]) -> Passage:
    start, end = int(part["start"]), int(part["end"])
    if not start < end <= len(document.text):
        raise ValueError(
            f"evidence {evidence!r} is out of range: the document has characters 0 to {len(document.text)}"
        )
    return document.cut(start, end)
