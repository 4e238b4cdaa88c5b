"""What to try next: the remedy for what most wrong answers have in common, what it can bring at most, and its price.

The rule: of the best combination that searches, the heaviest fault; each fault has one remedy, written down here. It
cannot bring more than the score that those answers lack. Knows nothing of how a fault was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eval.blame import Fault, fault_of
from eval.enough import Enough
from eval.findings import Findings
from eval.headroom import Headroom
from eval.summary import Row, average, clusters
from eval.tally import Weakest, lost
from eval.wording import counted, lasting, percent, points, span
from serve.combination import Combination

REMEDIES: Final[Mapping[Fault, str]] = {
    "retrieval": "Better retrieval (another retriever, fusion, more passages)",
    "company": "Less beside the evidence (fewer passages, a re-ranker, or training with distractors)",
    "reading": "Behaviour (prompt or adapter)",
    "length": "Shorter prompts (fewer passages or examples), or an engine that reads longer ones (`max_model_len`)",
    "form": "The form of answers (prompt, adapter, or a schema that the engine enforces)",
    "test set": "The test set",
}
"""What mends each fault, where something can."""
ABOUT_EVIDENCE: Final[tuple[Fault, ...]] = ("retrieval", "company", "reading")
"""Faults that only the oracle arm tells apart."""
UNMARKED: Final = (
    "Read the wrong answers in the report, the worst slices first. No question has its evidence marked, so nobody can "
    "tell missing knowledge from behaviour; where documents have the answers, mark it and add `gold` to the retrievers."
)
UNSTEADY: Final = (
    "Make answers steadier (a lower temperature, or a strategy that votes): the first answers are all right where "
    "blame was looked for, and what is lost is lost when the same question is asked again."
)
WHY: Final[Mapping[Fault, str]] = {
    "retrieval": "their evidence was not in the prompt, and with it they are right",
    "company": "they are right once nothing but the evidence is in the prompt",
    "reading": "they do not follow from what the prompt says",
    "length": "their prompt is longer than the model can read",
    "form": "nothing but their form is wrong, or none can be read in them",
    "test set": "no combination ever gets them right; read those questions first",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`next` in verdict.json."""

    sentence: str
    fault: Fault | None = None
    """What it is to mend; None when it mends nothing but the run, the grid or the test set's size."""
    at_most: float | None = None
    """The score that it can bring over all questions, if it mends every one of `items` and harms none."""
    ci: tuple[float, float] | None = None
    items: tuple[str, ...] = ()
    """The questions it should fix."""
    answers: int | None = None
    """What one more combination asks."""
    minutes: float | None = None
    """And how long that takes, as measured in this run."""
    training_minutes: float | None = None
    """What the training of the adapter in question took; None where there is none or its card does not say."""


def next_step(found: Findings) -> Step:
    """The first that applies: fill the gaps, stop, or mend the heaviest fault."""
    results, judged, fault = found.results, found.enough, found.fault
    if any(map(results.missing, results.records)):
        return Step(sentence="Run the same command again: it asks only for what is missing.")
    if found.finding is None:
        return Step(sentence="Add a second adapter, retriever or strategy to the grid, to compare with the first.")
    if judged and judged.reached == "yes":
        return Step(sentence=_stop(judged))
    if fault is None and found.rows[0].score < 1:
        return Step(sentence=UNSTEADY)
    if fault is None:
        return Step(sentence="Nothing is left to win on these questions; ask harder ones.")
    if not any(example.has_gold for example in results.examples):
        return Step(sentence=UNMARKED, fault=fault.fault)
    if fault.fault == "unknown" or (found.room is None and fault.fault in ABOUT_EVIDENCE):
        return Step(sentence=_untold(found.room), fault=fault.fault)
    row = next(row for row in found.rows if row.combination == fault.combination)
    return _mended(found, row, fault)


def _mended(found: Findings, row: Row, fault: Weakest) -> Step:
    cell = Combination.parse(fault.combination)
    leaves, training = found.blamed[cell], found.trained.get(row.adapter)
    items = {
        item: lacks
        for item, lacks in lost(found.results, cell, leaves).items()
        if fault_of(leaves[item]) == fault.fault
    }
    bound = average({item: items.get(item, 0.0) for item in leaves}, clusters(found.results))
    minutes = row.minutes_per_1000 * row.n / 1000
    price = f"One more combination is {counted(row.n, 'answer')}, about {lasting(60 * minutes)}"
    if training:
        price += f"; the training of {row.adapter} took {lasting(60 * training.minutes)}"
    sentence = (
        f"{REMEDIES[fault.fault]}: of the {counted(fault.wrong, 'wrong answer')} of {fault.combination}, {len(items)} "
        f"have in common that {WHY[fault.fault]}. That is at most {points(bound.value)} points, 95% interval "
        f"{span(bound)}. {price}."
    )
    return Step(
        sentence=sentence,
        fault=fault.fault,
        at_most=bound.value,
        ci=(bound.low, bound.high),
        items=tuple(items),
        answers=row.n,
        minutes=minutes,
        training_minutes=training.minutes if training else None,
    )


def _stop(judged: Enough) -> str:
    return (
        f"Stop: good enough. {judged.combination} scores {percent(judged.score)} where {percent(judged.needed)} is "
        "needed; of those that surely reach it, it takes the fewest tokens. Confirm it on questions that chose nothing "
        "(`locked:` in the task, then `python -m eval confirm RUN`)."
    )


def _untold(room: Headroom | None) -> str:
    """Where nobody can tell whose fault most wrong answers are: the oracle's figures, if it was asked."""
    if room is None:
        return "Add `gold` to the grid's retrievers: it shows whether knowledge or behaviour is what is missing."
    knowledge, behaviour = room.knowledge.estimate.value, 1 - room.ceiling.value
    if knowledge > behaviour:
        return f"{REMEDIES['retrieval']}: the marked evidence would bring {room.top} {points(knowledge)} points."
    way = f"{room.top.adapter}:{room.top.strategy}"
    return f"{REMEDIES['reading']}: even with the marked evidence alone {way} loses {percent(behaviour)}."
