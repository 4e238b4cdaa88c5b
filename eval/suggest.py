"""Where the evidence of a question may stand: a piece of a document found by words, for a person to confirm.

A suggestion is never taken for evidence: words that agree prove nothing. Knows nothing of files or models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eval.scoring.words import contains
from eval.task import Example
from retrieval.chunking import spans
from retrieval.lexical import Words
from retrieval.passage import Document, Passage

SIZE: Final = 300
"""Characters of a piece: enough to show a sentence with what it refers to."""
LOOKED_AT: Final = 20
"""Pieces among which one that holds the answer goes before the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A line of `evidence.suggested.jsonl`."""

    id: str
    question: str
    answers: tuple[str, ...]
    evidence: str
    """`doc@120-480`"""
    text: str
    score: float
    """BM25 of the piece for the question and its first answer: comparable within one question only."""
    holds_answer: bool
    """Whether one of the answers stands in it, word for word."""


def suggest(examples: Sequence[Example], documents: Sequence[Document]) -> tuple[Suggestion, ...]:
    """A piece for each question that lacks evidence and should have some; none where no word agrees."""
    open_ones = [one for one in examples if not one.has_gold]
    pieces = [one.cut(start, end) for one in documents for start, end in spans(one.text, SIZE, 0)]
    if not open_ones or not pieces:
        return ()
    words = Words.build([piece.searchable for piece in pieces])
    found = ((one, words.search(f"{one.question} {one.answers[0]}", LOOKED_AT)) for one in open_ones)
    return tuple(_best(one, [(pieces[row], score) for row, score in ranking]) for one, ranking in found if ranking)


def _best(example: Example, found: Sequence[tuple[Passage, float]]) -> Suggestion:
    holding = [pair for pair in found if any(contains(pair[0].text, answer) for answer in example.answers)]
    piece, score = (holding or found)[0]
    return Suggestion(
        id=example.id,
        question=example.question,
        answers=example.answers,
        evidence=piece.id,
        text=piece.text,
        score=round(score, 3),
        holds_answer=bool(holding),
    )
