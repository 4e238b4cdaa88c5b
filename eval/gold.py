"""The oracle arms: retrievers that find the marked evidence; what is still wrong then is not their fault.

`gold` finds it and nothing else, `gold-NAME` finds it before passages of the stack's retriever NAME that are none of
it, as a perfect ranking would. Knows nothing of models or scores; both are never ranked and never served.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from retrieval.passage import Document, Hit, Passage, Query
from serve.combination import GOLD

PART: Final = re.compile(r"(?P<document>.+)(#p(?P<page>\d+)|@(?P<start>\d+)-(?P<end>\d+))")
AMONG: Final = f"{GOLD}-"
"""Begins the name of the oracle arm in company; the rest of it is a retriever of the stack."""


def is_oracle(retriever: str) -> bool:
    """Whether a retriever of this name is made from the test set.

    >>> [is_oracle(name) for name in ("gold", "gold-hybrid", "hybrid", "golden")]
    [True, True, False, False]
    """
    return retriever == GOLD or retriever.startswith(AMONG)


def searched(retriever: str) -> str:
    """The retriever that is really searched: for the oracle arm in company, the one whose passages are its company.

    >>> searched("gold-hybrid"), searched("hybrid"), searched("gold")
    ('hybrid', 'hybrid', 'gold')
    """
    return retriever.removeprefix(AMONG)


@dataclass(frozen=True, slots=True)
class GoldRetriever:
    """Finds the evidence of one example, in the order in which the test set names it, whatever is asked."""

    evidence: tuple[Passage, ...]

    async def search(self, query: Query) -> tuple[Hit, ...]:
        """The evidence; equal scores, because nothing was weighed."""
        return tuple(Hit(passage, score=1.0, rank=rank) for rank, passage in enumerate(self.evidence, start=1))


@dataclass(frozen=True, slots=True)
class CrowdedRetriever:
    """Finds the evidence of one example before the best passages of a retriever that are none of it.

    What that retriever would hand over if it ranked the evidence first: as many passages in all, and at least one
    stranger, laid out in its own order, wherever it puts the best.
    """

    evidence: tuple[Passage, ...]
    find: Callable[[Query], Awaitable[tuple[Hit, ...]]]

    async def search(self, query: Query) -> tuple[Hit, ...]:
        """The evidence and its company; equal scores, because the evidence was not weighed."""
        found = await self.find(query)
        places = sorted(range(len(found)), key=lambda place: found[place].rank)
        strangers = [found[place].passage for place in places]
        strangers = [one for one in strangers if not any(_overlap(one, other) for other in self.evidence)]
        crowd = [*self.evidence, *strangers[: max(1, len(found) - len(self.evidence))]]
        hits = [Hit(passage, score=1.0, rank=rank) for rank, passage in enumerate(crowd, start=1)]
        laid = dict(zip(places, hits, strict=False))
        return (*(laid[place] for place in sorted(laid)), *hits[len(places) :])


def _overlap(one: Passage, other: Passage) -> bool:
    return one.document == other.document and one.start < other.end and other.start < one.end


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
