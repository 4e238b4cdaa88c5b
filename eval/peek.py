"""Wrong answers to read, each with who is to blame. Knows nothing of statistics or HTML."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from eval.blame import MEANING, Leaf, Leaves
from eval.folder import Results
from eval.gold import document_of
from eval.record import Record
from eval.task import Example
from serve.combination import Combination

SHOWN: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """One wrong answer."""

    example: Example
    record: Record
    blame: Leaf
    evidence_found: bool | None
    """Whether any marked document was among the sources; None when none is marked."""


def wrong_answers(results: Results, cell: Combination, leaves: Leaves) -> list[Peek]:
    """Every answer of the cell that is not fully right, in the order of the test set."""
    primary, records = results.config.task.primary, results.records[cell]
    return [
        Peek(
            example=example,
            record=records[example.id],
            blame=leaves[example.id],
            evidence_found=_found(example, records[example.id]),
        )
        for example in results.examples
        if example.id in records and records[example.id].scores[primary] < 1
    ]


def blamed(wrong: list[Peek]) -> dict[Leaf, int]:
    """How many wrong answers each cause has, in the order of MEANING."""
    counted = Counter(peek.blame for peek in wrong)
    return {blame: counted[blame] for blame in MEANING if counted[blame]}


def varied(wrong: list[Peek]) -> list[Peek]:
    """A few of them, of as many causes and slices as there are: six alike teach no more than one."""
    turns: Counter[tuple[Leaf, str]] = Counter()
    queue = []
    for place, peek in enumerate(wrong):
        kind = (peek.blame, peek.example.slice)
        queue.append((turns[kind], place))
        turns[kind] += 1
    return [wrong[place] for _, place in sorted(queue)[:SHOWN]]


def _found(example: Example, record: Record) -> bool | None:
    if not example.evidence:
        return None
    marked = set(map(document_of, example.evidence))
    return any(document_of(source.passage) in marked for source in record.sources)
