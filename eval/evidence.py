"""Whether the marked evidence was in a prompt, as far as the records tell: yes, no, or it cannot be told.

A mark of characters must be covered whole. A page or a document is a coarse mark: a piece of it may be the wrong piece,
so then it counts whether a gold answer stands in the piece. Knows nothing of scores, or of who is to blame.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eval.gold import PART, document_of, is_oracle
from eval.record import Record
from eval.scoring.words import contains
from eval.task import Example
from serve.layout import shown_in

GAP: Final = 2
"""Characters that may be missing at the ends of passages: the line breaks at which a document is cut."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage that was shown."""

    document: str
    start: int
    end: int
    text: str


def was_there(example: Example, record: Record, oracles: Iterable[Mapping[str, Record]]) -> bool | None:
    """Whether all of the evidence was in this prompt, as it is in every oracle's; None where none is marked, or the
    records cannot tell. `oracles` are the answers of the oracle arms, by example."""
    if not example.evidence:
        return None
    if is_oracle(record.combination.retriever):
        return True
    answers = (found.get(example.id) for found in oracles)
    return in_prompt(example, record, next(filter(None, answers), None))


def in_prompt(example: Example, record: Record, oracle: Record | None) -> bool | None:
    """Whether all of the evidence was there; None when the records cannot tell.

    `oracle` is an answer of the oracle arm to the same question, if there is one: it shows how far a page or a
    document reaches.
    """
    there = _pieces(record)
    whole = _pieces(oracle) if oracle else ()
    found = [_is_there(mark, example, there, whole) for mark in example.evidence]
    if not found or (None in found and False not in found):
        return None
    return False not in found


def marked(example: Example, record: Record) -> tuple[bool | None, ...]:
    """For each passage of a prompt, whether it has a part of the evidence; None where a coarse mark cannot tell."""
    return tuple(_holds(example, piece) for piece in _pieces(record))


def covers(pieces: Sequence[Piece], start: int, end: int) -> bool:
    """Whether pieces of one document hold all of these characters.

    >>> covers([Piece("a", 0, 50, ""), Piece("a", 51, 90, "")], 20, 80), covers([Piece("a", 0, 50, "")], 20, 80)
    (True, False)
    """
    at = start
    for piece in sorted(pieces, key=lambda piece: piece.start):
        if piece.start <= at + GAP:
            at = max(at, piece.end)
    return at > start and at + GAP >= end


def _holds(example: Example, piece: Piece) -> bool | None:
    mine = [mark for mark in example.evidence if document_of(mark) == piece.document]
    exact = [part for part in map(PART.fullmatch, mine) if part and part["start"]]
    if any(int(part["start"]) < piece.end and piece.start < int(part["end"]) for part in exact):
        return True
    return False if len(exact) == len(mine) else _says(example, [piece]) or None


def _is_there(mark: str, example: Example, there: Sequence[Piece], whole: Sequence[Piece]) -> bool | None:
    part = PART.fullmatch(mark)
    document = part["document"] if part else mark
    mine = [piece for piece in there if piece.document == document]
    if not mine:
        return False
    if part and part["start"]:
        return covers(mine, int(part["start"]), int(part["end"]))
    exact = {other for other in example.evidence if other != mark}
    reach = [one for one in whole if one.document == document and f"{document}@{one.start}-{one.end}" not in exact]
    if reach and all(covers(mine, one.start, one.end) for one in reach):
        return True
    if _says(example, mine):
        return True
    # The answer stands in the document, but not in what was shown of it: the wrong piece.
    return False if _says(example, reach) else None


def _says(example: Example, pieces: Sequence[Piece]) -> bool:
    return any(contains(piece.text, answer) for piece in pieces for answer in example.answers)


def _pieces(record: Record) -> tuple[Piece, ...]:
    """The passages of a record with their texts; passages come first among its sources, in the order of the prompt."""
    texts = shown_in(record.prompt)
    found = []
    for place, source in enumerate(record.sources):
        document, _, span = source.passage.rpartition("@")
        start, _, end = span.partition("-")
        text = texts[place] if place < len(texts) else ""
        found.append(Piece(document, int(start), int(end), text))
    return tuple(found)
