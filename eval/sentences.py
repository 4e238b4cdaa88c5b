"""What a run means, in plain words with its figures: the finding, who is to thank, what hurts, what it is worth.

Knows nothing of how any of it was computed or where it is shown.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from eval.blame import FAULTS
from eval.effects import LEVERS, Effect
from eval.enough import Enough
from eval.finding import Finding
from eval.findings import Findings
from eval.folder import Results
from eval.headroom import Headroom
from eval.payback import Payback
from eval.screening import ends
from eval.tally import Blamed, Weakest, lost
from eval.wording import counted, lasting, listed, number, p_value, percent, points, span
from retrieval.stats import Estimate

NAMED: Final = 3
"""Combinations that a sentence names; the table marks them all."""
LITTLE: Final = 0.05
"""What retrieval may still bring when it is said to have little left to bring."""


def headline(finding: Finding | None) -> str:
    """The verdict in a few words."""
    if finding is None:
        return "No verdict yet"
    if finding.moved:
        levers = [LEVERS[factor] for factor in finding.moved]
        return f"The lever{'s are' if len(levers) > 1 else ' is'} {listed(levers)}"
    return finding.decision.capitalize()


def sentences(found: Findings) -> tuple[str, ...]:
    """The verdict in full, the finding first."""
    if found.finding is None:
        alone = tuple(_gaps(found.results)) or ("There is nothing to compare: the grid has one combination.",)
        return (*alone, *_blame(found.fault))
    return (
        _finding(found.finding),
        *_thanks(found.finding),
        *_harm(found.effects),
        *_axes(found.results, found.room, found.blamed),
        *_blame(found.fault),
        *_enough(found.enough),
        *_payback(found.payback),
        *_stopped(found.results),
        *_gaps(found.results),
    )


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
                f"{base.combination} {percent(base.score)}, but that may be chance ({figures}). A gain of this size "
                f"takes about {counted(finding.more_questions or 0, 'question')} to be seen."
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
        if effect.direction < 0:
            yield (
                f"The {effect.factor} {effect.level} hurts: against {effect.against} the score changes by "
                f"{_gain(effect.estimate)}, on average over the grid."
            )


def _axes(results: Results, room: Headroom | None, blamed: Blamed) -> Iterator[str]:
    if room is None:
        return
    knowledge, leaves = room.knowledge.estimate, blamed[room.top]
    yield (
        f"With the marked evidence and nothing else in its prompt instead of what is retrieved, {room.top} would score "
        f"{percent(room.ceiling.value)} ({_gain(knowledge)})."
    )
    if knowledge.high < LITTLE:
        yield "So better retrieval has little left to bring."
    elif knowledge.low <= 0:
        yield "That may be chance: whether better retrieval has anything left to bring, these questions cannot tell."
    elif "undecided" not in leaves.values():
        unfound = [lacks for item, lacks in lost(results, room.top, leaves).items() if leaves[item] == "retrieval"]
        yield (
            f"Evidence that was not found is {counted(len(unfound), 'question')} of that, so better retrieval alone "
            f"can bring {points(math.fsum(unfound) / len(leaves))} points at most."
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


def _enough(judged: Enough | None) -> Iterator[str]:
    if judged is None:
        return
    interval = f"95% interval {percent(judged.ci[0])} to {percent(judged.ci[1])}"
    chance = f"Holm-corrected {p_value(judged.p_holm)}"
    match judged.reached:
        case "yes":
            yield f"Good enough: {judged.combination} reaches the {percent(judged.needed)} that are needed ({chance})."
        case "perhaps":
            yield (
                f"Whether it is good enough cannot be told: {percent(judged.needed)} are needed, and "
                f"{judged.combination} scores {percent(judged.score)} ({interval}; {chance})."
            )
        case "no":
            yield (
                f"Not good enough: {percent(judged.needed)} are needed, and the best, {judged.combination}, scores "
                f"{percent(judged.score)} ({interval})."
            )
    if judged.per_1000 is not None and judged.per_1000_ci is not None:
        low, high = (f"{bound:,.0f}" for bound in judged.per_1000_ci)
        yield f"1,000 of its answers are worth {judged.per_1000:,.0f}, 95% interval {low} to {high}."


def _payback(saved: Payback | None) -> Iterator[str]:
    if saved is None:
        return
    tokens, minutes = saved.tokens_saved_per_1000, saved.minutes_saved_per_1000
    what = "fewer" if tokens >= 0 else "more"
    took = f"The training of {saved.adapter} took {lasting(60 * saved.training_minutes)} ({saved.device})."
    beside = f"Beside {saved.against}, the best without an adapter, {saved.combination} takes {number(abs(tokens))} "
    if saved.answers is None:
        yield f"{took} {beside}{what} tokens for 1,000 answers and saves no time: what it brings is its score."
    else:
        after = f"the training has come back after {number(saved.answers)} answers"
        yield f"{took} {beside}{what} tokens and {number(minutes)} minutes less for 1,000 answers: {after}."


def _gain(estimate: Estimate) -> str:
    return f"{points(estimate.value)} points, 95% interval {span(estimate)}"


def _stopped(results: Results) -> Iterator[str]:
    if results.screening is None:
        return
    first = min(ends(len(results.examples)), default=len(results.examples))  # one question has no look
    every = len(results.records) + len(results.stopped)
    yield (
        f"Screening stopped {len(results.stopped)} of {counted(every, 'combination')} early; they count in every "
        f"correction. What a lever does on average rests on the first {counted(first, 'question')}, which all were "
        "asked."
    )


def _gaps(results: Results) -> list[str]:
    gaps = [cell for cell in results.records if results.missing(cell)]
    if not gaps:
        return []
    answers, combinations = counted(results.lacking, "answer"), counted(len(results.records), "combination")
    return [f"{answers} missing: {len(gaps)} of {combinations} cannot be ranked."]
