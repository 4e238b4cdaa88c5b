"""What one call of a strategy passes on to the next: passages that were found, turns that were said, what was aloud.

Knows nothing of what is asked, or of any kind of strategy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from retrieval.passage import Hit, Passage, Query
from retrieval.retriever import Retriever, Step
from retrieval.steps import ranked
from serve.chat import Conversation, Message
from serve.layout import earlier


@dataclass(frozen=True, slots=True)
class Given:
    """A retriever that finds what was found already, whatever is asked."""

    hits: tuple[Hit, ...]

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return self.hits


@dataclass(frozen=True, slots=True)
class Besides:
    """A retriever that finds these, and then what another finds."""

    hits: tuple[Hit, ...]
    retriever: Retriever

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return ranked((*self.hits, *await self.retriever.search(query)))


@dataclass(frozen=True, slots=True)
class Through:
    """A retriever whose hits go through one more step before anybody reads them."""

    retriever: Retriever
    step: Step

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return await self.step(query, await self.retriever.search(query))


def tool_hit(tool: str, title: str, text: str) -> Hit:
    """What a tool gave, as a passage: so it is numbered, fenced, cited and kept like any other."""
    return Hit(Passage(tool, title, text, 0, len(text)), score=1.0, rank=1)


def told(query: Query, turns: Iterable[tuple[str, str]]) -> Conversation:
    """The question after more turns, each (what was asked, what the model said).

    They are no part of its history: nobody said them to the user, and no retriever searches for them.
    """
    more = (Message(*one) for asked, said in turns for one in (("user", asked), ("assistant", said)))
    after = query.after if isinstance(query, Conversation) else ()
    return Conversation(query.text, query.history, query.meta, before=(*earlier(query), *more), after=after)


def continued(query: Query, *turns: Message) -> Conversation:
    """The question and, below it, turns that it has led to: a strategy that is asked again goes on from there.

    >>> [turn.content for turn in continued(Query("Who?"), Message("assistant", "Odo")).after]
    ['Odo']
    """
    after = query.after if isinstance(query, Conversation) else ()
    return Conversation(query.text, query.history, query.meta, before=earlier(query), after=(*after, *turns))


def spoken(text: str) -> str:
    """What was said after the last `</think>`: the thought before it is nobody's business.

    >>> spoken("<think>Two and two.</think>\\n4"), spoken("4")
    ('4', '4')
    """
    return text.rpartition("</think>")[2].strip()
