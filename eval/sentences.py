"""What a run means, in plain words with its figures: the finding, who is to thank, what hurts, and what to try next.

Knows nothing of how any of it was computed or where it is shown.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from eval.blame import FAULTS
from eval.effects import LEVERS, Effect
from eval.folder import Results
from eval.headroom import Headroom
from eval.screening import ends
from eval.tally import Weakest
from eval.verdict import ALPHA, Finding
from eval.wording import counted, listed, p_value, percent, points, span
from retrieval.stats import Estimate

NAMED: Final = 3
"""Combinations that a sentence names; the table marks them all."""


def headline(finding: Finding | None) -> str:
    """The verdict in a few words."""
    if finding is None:
        return "No verdict yet"
    if finding.moved:
        levers = [LEVERS[factor] for factor in finding.moved]
        return f"The lever{'s are' if len(levers) > 1 else ' is'} {listed(levers)}"
    return finding.decision.capitalize()


def sentences(
    results: Results,
    finding: Finding | None,
    effects: Sequence[Effect],
    room: Headroom | None,
    fault: Weakest | None,
) -> tuple[str, ...]:
    """The verdict in full, the finding first."""
    if finding is None:
        alone = tuple(_gaps(results)) or ("There is nothing to compare: the grid has one combination.",)
        return (*alone, *_blame(fault))
    return (
        _finding(finding),
        *_thanks(finding),
        *_harm(effects),
        *_axes(room),
        *_blame(fault),
        *_stopped(results),
        *_gaps(results),
    )


def next_step(results: Results, finding: Finding | None, room: Headroom | None, fault: Weakest | None) -> str:
    """One line: where the larger part of the remaining loss lies."""
    if any(map(results.missing, results.records)):
        return "Run the same command again: it asks only for what is missing."
    if finding is None:
        return "Add a second adapter, retriever or strategy to the grid, to compare with the first."
    if fault is None:
        return "Nothing is left to win on these questions; ask harder ones."
    share = f"{fault.n} of the {fault.wrong} wrong answers of {fault.combination}"
    if fault.fault == "form":
        return f"The form of answers (prompt or adapter): it is all that is wrong with {share}."
    if fault.fault == "test set":
        return f"The test set: with {share}, every other combination is wrong too. Read those questions first."
    if room is None:
        return "Add `gold` to the grid's retrievers: it shows whether knowledge or behaviour is what is missing."
    missing_knowledge, missing_behaviour = room.knowledge.estimate.value, 1 - room.ceiling.value
    if fault.fault == "retrieval" or (fault.fault == "unknown" and missing_knowledge > missing_behaviour):
        lever, left = (
            "Better retrieval",
            f"the marked evidence would bring {room.top} {points(missing_knowledge)} points",
        )
    else:
        way = f"{room.top.adapter}:{room.top.strategy}"
        lever = "Behaviour (prompt or adapter)"
        left = f"even with the marked evidence alone {way} loses {percent(missing_behaviour)}"
    blamed = "" if fault.fault == "unknown" else f"it is what is wrong with {share}; "
    return f"{lever}: {blamed}{left}."


def _finding(finding: Finding) -> str:
    best, base, gain = finding.best, finding.base, finding.comparison.difference
    surprise = f"Holm-corrected {p_value(finding.comparison.p_holm)} over {counted(finding.family, 'comparison')}"
    figures = f"{_gain(gain.estimate)}; {surprise}; {counted(gain.n, 'question')}"
    match finding.decision:
        case "adopt":
            return (
                f"Adopt {best.combination}: it scores {percent(best.score)} where the baseline {base.combination} "
                f"scores {percent(base.score)} ({figures})."
            )
        case "not decisive":
            return (
                f"Not decisive: {best.combination} scores highest with {percent(best.score)}, the baseline "
                f"{base.combination} {percent(base.score)}, but that may be chance ({figures})."
            )
        case _:
            return (
                f"Nothing helped: the baseline {base.combination} scores {percent(base.score)}, and no other "
                f"combination scores more; the best of them is {best.combination} ({figures})."
            )


def _thanks(finding: Finding) -> Iterator[str]:
    if finding.moved:
        yield f"What moved it: {listed([LEVERS[factor] for factor in finding.moved])}."
    if finding.decision == "adopt" and len(finding.tied) > 1:
        others = [row.combination for row in finding.tied if row.combination != finding.best.combination]
        more = [f"{len(others) - NAMED} more"] if len(others) > NAMED else []
        yield f"Not clearly worse on these questions: {listed([*others[:NAMED], *more])}."
    if finding.cheaper:
        share = finding.cheaper.tokens / finding.best.tokens
        yield f"{finding.cheaper.combination} cannot be told apart from it and takes {share:.0%} of its tokens."


def _harm(effects: Sequence[Effect]) -> Iterator[str]:
    """A lever that costs score is as much a finding as one that brings some."""
    for effect in effects:
        if effect.p_holm < ALPHA and effect.estimate.value < 0:
            yield (
                f"The {effect.factor} {effect.level} hurts: against {effect.against} the score changes by "
                f"{_gain(effect.estimate)}, on average over the grid."
            )


def _axes(room: Headroom | None) -> Iterator[str]:
    if room is None:
        return
    knowledge = room.knowledge.estimate
    more = "could still bring" if knowledge.low > 0 else "has little left to bring:"
    yield (
        f"With the marked evidence and nothing else in its prompt instead of what is retrieved, {room.top} would score "
        f"{percent(room.ceiling.value)}, so better retrieval {more} {_gain(knowledge)}."
    )
    if room.crowd and room.company:
        cost = room.company.estimate
        clear = "so finding it is not enough" if cost.high < 0 else "which may be chance"
        yield f"Other passages beside it ({room.crowd.retriever}) change the score by {_gain(cost)}, {clear}."
    if room.behaviour and room.adapter:
        yield (
            f"With that evidence, the adapter {room.adapter} differs from the base model by "
            f"{_gain(room.behaviour.estimate)}: that part is behaviour, not knowledge."
        )


def _blame(fault: Weakest | None) -> Iterator[str]:
    if fault is None:
        return
    low, high = (percent(bound) for bound in fault.ci)
    yield (
        f"{fault.combination} does not get {counted(fault.wrong, 'question')} right, {fault.n} of them "
        f"({percent(fault.n / fault.wrong)}, 95% interval {low} to {high}) for this reason: {FAULTS[fault.fault]}."
    )
    if rest := [f"{name} {n}" for name, n in fault.faults.items() if name != fault.fault]:
        yield f"The others: {listed(rest)}."


def _gain(estimate: Estimate) -> str:
    return f"{points(estimate.value)} points, 95% interval {span(estimate)}"


def _stopped(results: Results) -> Iterator[str]:
    if results.screening is None:
        return
    first = ends(len(results.examples))[0]
    every = len(results.records) + len(results.stopped)
    yield (
        f"Screening stopped {len(results.stopped)} of {counted(every, 'combination')} early; they count in every "
        f"correction. What a lever does on average rests on the first {counted(first, 'question')}, which all were "
        "asked."
    )


def _gaps(results: Results) -> list[str]:
    gaps = {cell: missing for cell in results.records if (missing := results.missing(cell))}
    if not gaps:
        return []
    answers, combinations = counted(sum(gaps.values()), "answer"), counted(len(results.records), "combination")
    return [f"{answers} missing: {len(gaps)} of {combinations} cannot be ranked."]
