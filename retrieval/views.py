"""What of a passage is searched: its text, its title too, or something that a model writes about it.

Pure: a view is a function of a passage. Knows nothing of who writes, or of how what is written is searched.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from retrieval.masking import NAMES, masked
from retrieval.passage import Document, Passage, Query

View: TypeAlias = Literal["titled", "text", "answer", "masked", "summary", "questions", "context"]

Seen: TypeAlias = Callable[[Passage, str], str]
"""(passage, what a model wrote about it) -> the text that is embedded and matched."""

VIEWS: Final[Mapping[View, Seen]] = {
    "titled": lambda passage, _: passage.searchable,
    "text": lambda passage, _: passage.text,
    # Worked examples by their answers: ask with a draft of this one (`expand: {kind: draft}`).
    "answer": lambda passage, _: str(passage.meta.get("answer", "")),
    "masked": lambda passage, _: masked(passage.text, passage.meta.get(NAMES, ())),
    "summary": lambda _, written: written,
    # Questions stand before the text (doc2query, 1904.08375), and so does the context (Anthropic, 2024).
    "questions": lambda passage, written: f"{written}\n{passage.searchable}",
    "context": lambda passage, written: f"{written}\n{passage.searchable}",
}

PROMPTS: Final[Mapping[View, str]] = {
    "summary": "Summarise this passage in one or two sentences that name what it is about. Write nothing else.\n\n"
    "{title}\n{text}",
    "questions": "Write three short questions that this passage answers, one a line. Write nothing else.\n\n"
    "{title}\n{text}",
    "context": "A document:\n\n{title}\n{document}\n\nA passage of it:\n\n{text}\n\nIn one or two sentences, say what "
    "the passage is about and where in the document it stands, so that a search finds it. Write nothing else.",
}
"""What a model is asked, for the views that it writes."""

SHOWN: Final = 12_000
"""Characters of a document, from its beginning, that a model sees with a passage of it."""


def by_a_model(view: View) -> bool:
    return view in PROMPTS


def prompt(view: View, passage: Passage, document: Document) -> str:
    """What a model is asked about a passage."""
    return PROMPTS[view].format(title=passage.title, text=passage.text, document=document.text[:SHOWN])


def asked(view: View, query: Query) -> str:
    """The question as it is searched for: hidden names are found by a question whose names are hidden."""
    return masked(query.text, query.meta.get(NAMES, ())) if view == "masked" else query.text
