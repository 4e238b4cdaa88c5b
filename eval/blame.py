"""Who is to blame for each answer: an ordered tree over the arms of one way of asking, in which the first match wins.

    closed-book  adapter:none:strategy       what the model knows by heart
    retrieved    adapter:RETRIEVER:strategy  the combination itself
    oracle       adapter:gold:strategy       the marked evidence alone

An arm that was not run is not guessed: its leaf is `undecided`, and `untold` says why. Not in the tree: evidence that
was found and then cut from the prompt, since a record has only what was shown. Knows nothing of statistics or pages.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from eval.evidence import was_there
from eval.folder import Results, first_answers, planned
from eval.gold import is_oracle
from eval.record import Record
from eval.scoring.calls import calls_of
from eval.scoring.kinds import EXECUTE, loosely
from eval.scoring.scorers import SCORERS, abstention
from eval.task import Example, TaskSettings
from eval.wording import counted
from serve.chat import UNREAD
from serve.combination import GOLD, NONE, Combination
from serve.layout import shown_in
from serve.reading import first_object, loose_field
from serve.sql.queries import query_in

Fault = Literal["run", "length", "form", "retrieval", "company", "reading", "test set", "unknown"]
Leaf = Literal[
    "no answer",
    "from evidence",
    "by heart",
    "unsupported",
    "unexplained",
    "abstained",
    "too long",
    "form",
    "unreadable",
    "answered anyway",
    "retrieval",
    "overcautious",
    "context",
    "suspect",
    "behaviour",
    "undecided",
]

ARMS: Final = (NONE, GOLD)
"""The retrievers whose answers tell what another one's lacked."""
FAULTS: Final[Mapping[Fault, str]] = {
    "run": "there is no answer",
    "length": "the prompt is longer than the model can read",
    "form": "the answer is right but for its form, or none can be read in it",
    "retrieval": "the evidence was not in the prompt, and with it the answer is right",
    "company": "the evidence was in the prompt, and the answer is right when nothing else is",
    "reading": "the answer does not follow from what the prompt says",
    "test set": "no combination ever gets it right: too hard for all of them, or wrongly marked",
    "unknown": "nobody can tell, because an arm was not run or the evidence is not marked exactly",
}
"""What a wrong answer is the fault of; of equals the first is named."""

RIGHT: Final[Mapping[Leaf, str]] = {
    "from evidence": "right, with the marked evidence in the prompt",
    "by heart": "right without the evidence, and closed-book as well",
    "unsupported": "right without the evidence, but wrong closed-book",
    "unexplained": "right; from where cannot be told",
    "abstained": "right: no document has the answer, and it says so",
}
WRONG: Final[Mapping[Leaf, tuple[Fault, str]]] = {
    "no answer": ("run", "the call failed or was not made: never a score"),
    "too long": ("length", "nothing was said: the prompt is longer than the model can read"),
    "form": ("form", "the right answer, not in the form that was asked for"),
    "unreadable": ("form", "no answer can be read in it, however loosely"),
    "retrieval": ("retrieval", "the evidence was not in the prompt, and with it alone the answer is right"),
    "context": ("company", "the evidence was in the prompt; right when nothing else is"),
    "behaviour": ("reading", "wrong even with the evidence alone in the prompt"),
    "overcautious": ("reading", "says that the documents do not have it, though the evidence was in the prompt"),
    "answered anyway": ("reading", "no document has the answer, and it gives one"),
    "suspect": (
        "test set",
        "no combination ever gets it right: too hard for all, or the question, its answer or its evidence is wrong",
    ),
    "undecided": ("unknown", "wrong; without the arms that are missing nobody can say why"),
}
MEANING: Final[Mapping[Leaf, str]] = {**RIGHT, **{leaf: meaning for leaf, (_, meaning) in WRONG.items()}}
"""Every leaf, in the order in which it is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the arms show of one question asked one way; None is what nobody can tell."""

    answered: bool
    read: bool
    """Whether the model could read its prompt."""
    right: bool
    but_for_form: bool
    """Right when looked at loosely."""
    readable: bool
    unanswerable: bool
    abstained: bool
    """Wrong with the evidence in the prompt, and it says that the documents do not have the answer."""
    evidence: bool | None
    """Whether all of the marked evidence was in the prompt."""
    closed_book: bool | None
    """Whether the same without any passage is right, its form aside."""
    oracle: bool | None
    """Whether the same with the evidence alone is right, its form aside; of an answer that is partly right, whether
    that wins more of what it lacks than it leaves."""
    suspect: bool
    """Whether no combination ever is."""


def leaf(seen: Seen) -> Leaf:
    """The tree; the first match wins."""
    if not seen.answered:
        return "no answer"
    if seen.right:
        return "abstained" if seen.unanswerable else _source(seen)
    if mute := _mute(seen):
        return mute
    if seen.unanswerable:
        return "answered anyway"
    if seen.suspect:
        return "suspect"
    if seen.oracle is None or (seen.oracle and seen.evidence is None):
        return "undecided"
    if seen.oracle and not seen.evidence:
        return "retrieval"
    if seen.abstained and seen.evidence:
        return "overcautious"
    return "context" if seen.oracle else "behaviour"


def _mute(seen: Seen) -> Leaf | None:
    """Why nobody need ask what it says."""
    if not seen.read:
        return "too long"
    if seen.but_for_form:
        return "form"
    return None if seen.readable else "unreadable"


def _source(seen: Seen) -> Leaf:
    if seen.evidence is None:
        return "unexplained"
    if seen.evidence:
        return "from evidence"
    if seen.closed_book is None:
        return "unexplained"
    return "by heart" if seen.closed_book else "unsupported"


Leaves = Mapping[str, Leaf]
"""Example id -> leaf, in the order of the test set."""


def look(results: Results) -> Mapping[Combination, Mapping[str, Seen]]:
    """What the arms show of every question that was planned, in every combination."""
    court = _Court(results)
    return {
        cell: {one.id: court.seen(cell, one) for one in planned(cell, results.examples)} for cell in results.records
    }


def blame(seen: Mapping[Combination, Mapping[str, Seen]]) -> Mapping[Combination, Leaves]:
    """The leaf of each of them."""
    return {cell: {item: leaf(one) for item, one in questions.items()} for cell, questions in seen.items()}


def fault_of(leaf: Leaf) -> Fault | None:
    """What it is the fault of; None where nothing is wrong."""
    return WRONG[leaf][0] if leaf in WRONG else None


def faults(leaves: Leaves) -> Counter[Fault]:
    """How many wrong answers are whose fault, in the order of FAULTS."""
    found = Counter(map(fault_of, leaves.values()))
    return Counter({fault: found[fault] for fault in FAULTS if found[fault]})


def untold(results: Results) -> Iterator[str]:
    """What the tree cannot tell in this run, and what to add so that it can."""
    retrievers = results.config.grid.retrievers
    unmarked = sum(not example.has_gold for example in results.examples)
    if GOLD not in retrievers:
        yield "whether a wrong answer lacked its evidence or misread it: add `gold` to the grid's retrievers"
    if NONE not in retrievers:
        yield "whether a right answer without evidence is known by heart: add `none` to the grid's retrievers"
    elif any(cell.retriever == NONE for cell in results.stopped):
        yield "whether a right answer without evidence is known by heart, where screening stopped the closed-book arm"
    if not any(is_oracle(name) and name != GOLD for name in retrievers):
        searched = next((name for name in retrievers if name != NONE and not is_oracle(name)), "RETRIEVER")
        yield f"whether other passages distract from the evidence: add `gold-{searched}` to the grid's retrievers"
    if unmarked:
        yield f"anything about {counted(unmarked, 'question')} whose `evidence` is empty: mark it in the test set"
    if not any(example.meta.get("unanswerable") for example in results.examples):
        yield "whether it abstains when it should: the test set has no question marked `unanswerable`"


class _Court:
    """Every record judged once, so that each arm may be looked at from all others."""

    def __init__(self, results: Results) -> None:
        task, self._records = results.config.task, first_answers(results)
        self._judge = _Judge(task, results.examples)
        self._examples = {one.id: one for one in results.examples}
        self._right = {
            cell: {
                one.id: self._judge.loosely_right(one, records[one.id]) for one in results.examples if one.id in records
            }
            for cell, records in self._records.items()
        }
        self._arms = {
            (cell, name): self._right.get(replace(cell, retriever=name), {}) for cell in self._right for name in ARMS
        }
        self._oracles = [cell for cell in results.records if cell.retriever == GOLD]
        self._solved = {item for right in self._right.values() for item, is_right in right.items() if is_right}
        self._solved |= set(self._solved_by(results.stopped))
        again = (one for one in results.answers if one.repeat and one.id not in self._solved)
        self._solved |= {one.id for one in again if self._judge.loosely_right(self._examples[one.id], one)}
        # A way of asking that fails most questions says nothing about the one it fails: only an able oracle does.
        self._tried = {item for cell in self._oracles if _able(self._right[cell]) for item in self._right[cell]}

    def seen(self, cell: Combination, example: Example) -> Seen:
        record = self._records[cell].get(example.id)
        loosely = self._right[cell].get(example.id, False)
        evidence = self._evidence(cell, example, record) if record else None
        return Seen(
            answered=record is not None,
            read=record is not None and record.finish_reason != UNREAD,
            right=record is not None and self._judge.right(record),
            but_for_form=loosely,
            readable=record is not None and self._judge.readable(record),
            unanswerable=bool(example.meta.get("unanswerable")),
            abstained=not loosely and record is not None and bool(evidence) and self._judge.abstained(example, record),
            evidence=evidence,
            closed_book=self._arm(cell, NONE, example),
            oracle=self._oracle(cell, example, record) if example.has_gold else None,
            suspect=example.id in self._tried and example.id not in self._solved,
        )

    def _solved_by(self, stopped: Mapping[Combination, Mapping[str, Record]]) -> Iterator[str]:
        """Who was stopped is no arm any more, but what it got right can be got right."""
        for records in stopped.values():
            for item, record in records.items():
                if self._judge.loosely_right(self._examples[item], record):
                    yield item

    def _arm(self, cell: Combination, retriever: str, example: Example) -> bool | None:
        return self._arms[cell, retriever].get(example.id)

    def _oracle(self, cell: Combination, example: Example, record: Record | None) -> bool | None:
        right = self._arm(cell, GOLD, example)
        if right is not False or record is None:
            return right
        # What an answer lacks, 1 - score, is parted at the score of the oracle: below is knowledge, above behaviour.
        oracle = self._judge.score(self._records[replace(cell, retriever=GOLD)][example.id])
        return oracle - self._judge.score(record) > 1 - oracle

    def _evidence(self, cell: Combination, example: Example, record: Record) -> bool | None:
        return was_there(example, record, (self._records[oracle] for oracle in self._oracles))


class _Judge:
    """The task's scorers, looked through loosely."""

    def __init__(self, task: TaskSettings, examples: tuple[Example, ...]) -> None:
        self._name, self._primary = task.primary, task.scorers[task.primary]
        # The primary's own scores stand in the records: neither the user's own code nor SQL is run to look at a run.
        _, *looser = loosely(task.scorers, task.primary)
        self._scorers = tuple(SCORERS[one.kind](one) for one in looser)
        kind = self._primary.kind
        self._noted = [name for name, one in task.scorers.items() if one.loose and one.kind == kind and kind in EXECUTE]
        self._abstains = abstention(task.scorers, task.primary, examples)

    def score(self, record: Record) -> float:
        return record.scores[self._name]

    def right(self, record: Record) -> bool:
        return self.score(record) == 1

    def loosely_right(self, example: Example, record: Record) -> bool:
        if self.right(record) or any(record.scores.get(name) == 1 for name in self._noted):
            return True
        shown = shown_in(record.prompt)
        return any(score(example, record.text, shown) == 1 for score in self._scorers)

    def abstained(self, example: Example, record: Record) -> bool:
        """Whether it is what the test set takes for an answer where there is none."""
        return self._abstains(example, record.text, shown_in(record.prompt))

    def readable(self, record: Record) -> bool:
        if self._primary.kind in ("tool_call", "arguments"):
            return calls_of(record.text) is not None
        if self._primary.kind == "json_fields":
            return first_object(record.text) is not None
        said = loose_field(record.text, self._primary.json) if self._primary.json else record.text
        return bool(said and (query_in(said) if self._primary.kind in EXECUTE else said.strip()))


def _able(right: Mapping[str, bool]) -> bool:
    """Whether it gets more than half of its questions right."""
    return sum(right.values()) > len(right) / 2
