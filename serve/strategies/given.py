"""What a tool gave, as a passage among those that are found: it is numbered, fenced, cited and kept like any other.

Knows nothing of tools.
"""

from dataclasses import dataclass, field, replace

from retrieval.passage import Hit, Passage, Query
from retrieval.retriever import NoRetrieval, Retriever


@dataclass(frozen=True, slots=True)
class Given:
    """A retriever that finds these, and then what another finds."""

    hits: tuple[Hit, ...]
    retriever: Retriever = field(default_factory=NoRetrieval)

    async def search(self, query: Query) -> tuple[Hit, ...]:
        """All of them, numbered anew."""
        hits = (*self.hits, *await self.retriever.search(query))
        return tuple(replace(hit, rank=n) for n, hit in enumerate(hits, start=1))


def given(tool: str, title: str, text: str) -> Hit:
    """What a tool gave; `tool` stands where a document's name would."""
    return Hit(Passage(tool, title, text, 0, len(text)), score=1.0, rank=1)
