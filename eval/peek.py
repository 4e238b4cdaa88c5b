"""Wrong answers to read, each with who is to blame: the form, the context, or the behaviour.

A first, simple split by the oracle arm. Knows nothing of statistics or HTML.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from eval.folder import Results
from eval.record import Record
from eval.task import Example
from serve.combination import GOLD, Combination

Blame = Literal["format", "context", "behaviour", "undecided"]

SHOWN: Final = 6
MEANING: Final[Mapping[Blame, str]] = {
    "format": "the answer is right, its form is not",
    "context": "right once the marked evidence, and nothing else, is in the prompt",
    "behaviour": "wrong even with the marked evidence in the prompt",
    "undecided": "no oracle arm to tell context from behaviour",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """One wrong answer."""

    example: Example
    record: Record
    blame: Blame
    evidence_found: bool | None
    """Whether any marked document was among the sources; None when none is marked."""


def wrong_answers(results: Results, cell: Combination) -> list[Peek]:
    """Every answer of the cell that is not fully right, in the order of the test set."""
    primary, records = results.config.task.primary, results.records[cell]
    return [
        Peek(
            example=example,
            record=records[example.id],
            blame=_blame(results, cell, example),
            evidence_found=_found(example, records[example.id]),
        )
        for example in results.examples
        if example.id in records and records[example.id].scores[primary] < 1
    ]


def blamed(wrong: list[Peek]) -> dict[Blame, int]:
    """How many wrong answers each cause has, in the order of MEANING."""
    counted = Counter(peek.blame for peek in wrong)
    return {blame: counted[blame] for blame in MEANING if counted[blame]}


def varied(wrong: list[Peek]) -> list[Peek]:
    """A few of them, of as many causes and slices as there are: six alike teach no more than one."""
    turns: Counter[tuple[Blame, str]] = Counter()
    queue = []
    for place, peek in enumerate(wrong):
        kind = (peek.blame, peek.example.slice)
        queue.append((turns[kind], place))
        turns[kind] += 1
    return [wrong[place] for _, place in sorted(queue)[:SHOWN]]


def _blame(results: Results, cell: Combination, example: Example) -> Blame:
    """The first that fits: a looser scorer finds it right; the oracle was right; the oracle was wrong."""
    task = results.config.task
    record = results.records[cell][example.id]
    looser = [name for name, scorer in task.scorers.items() if scorer.loose]
    if any(record.scores[name] == 1 for name in looser):
        return "format"
    oracle = results.records.get(Combination(cell.adapter, GOLD, cell.strategy), {}).get(example.id)
    if oracle is None:
        return "undecided"
    return "context" if oracle.scores[task.primary] == 1 else "behaviour"


def _found(example: Example, record: Record) -> bool | None:
    if not example.evidence:
        return None
    marked = {_document(place) for place in example.evidence}
    return any(_document(source.passage) in marked for source in record.sources)


def _document(place: str) -> str:
    return place.rpartition("@")[0] or place
