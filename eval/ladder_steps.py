"""What came of each step of a ladder: its figures, the paired difference to the step before it, and what that means.

    climbed = climb(load_ladder(path), load_results(folder))

A step that is no clear gain would be left out, whatever the story did with it. Knows nothing of how it is shown.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from eval.folder import Results
from eval.ladder import PARTS, Ladder, Step, compared_with
from eval.summary import Row, difference, scores, summarise
from eval.wording import counted, listed, p_value, percent, points, span
from retrieval.stats import Difference, direction, holm, known
from serve.combination import Combination

Outcome = Literal["start", "helps", "hurts", "no gain", "incomplete", "not run"]

KEEP: Final[Mapping[Outcome, bool]] = {"start": True, "helps": True, "hurts": False, "no gain": False}
"""Whether we would keep a step; of the others nobody can say."""
NAMED: Final = 3
"""Kinds of question that a sentence names on either side."""
DEARER: Final = 1.1
"""A sentence speaks of tokens when there are this many times as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A step as it came out here."""

    step: Step
    outcome: Outcome
    row: Row | None = None
    """Its line of summary.csv; None where it was not run."""
    against: str = ""
    """The name of the step that it is compared with."""
    before: Row | None = None
    difference: Difference | None = None
    p_holm: float = math.nan
    """Corrected for all steps that are compared."""
    changed: tuple[str, ...] = ()
    """The settings in which it differs from the step it is compared with."""
    moved: Mapping[str, int] = field(default_factory=dict)
    """How many questions more it gets right, by kind; those that it moved."""

    @property
    def keep(self) -> bool | None:
        """Whether we would keep it; None where that cannot be said."""
        return KEEP.get(self.outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """A ladder, climbed."""

    ladder: Ladder
    results: Results
    rungs: tuple[Rung, ...]
    whole: Difference | None
    """The last step that was kept and run against the first; None while one of them misses answers."""

    @property
    def compared(self) -> list[Rung]:
        return [one for one in self.rungs if one.difference is not None]

    @property
    def missing(self) -> int:
        """Answers that there are none of yet."""
        return self.results.lacking


def climb(ladder: Ladder, results: Results) -> Climb:
    """Every step against the one that it is compared with."""
    rows = {row.combination: row for row in summarise(results)}
    against = compared_with(ladder.steps)
    steps = {step.name: step for step in ladder.steps}
    pairs = {name: (steps[name].cell, steps[before].cell) for name, before in against.items() if before}
    whole = {name: pair for name, pair in pairs.items() if not any(map(results.missing, pair))}
    found = {name: difference(results, *pair) for name, pair in whole.items()}
    corrected = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
    rungs = []
    for step in ladder.steps:
        change, p_holm = found.get(step.name), corrected.get(step.name, math.nan)
        pair = pairs.get(step.name)
        rungs.append(
            Rung(
                step=step,
                outcome=_outcome(step, results, change, p_holm),
                row=None if step.needs else rows[step.combination],
                against=against.get(step.name, ""),
                before=rows[str(pair[1])] if pair else None,
                difference=change,
                p_holm=p_holm,
                changed=changed(results.config.stack, *pair) if pair else (),
                moved=_moved(results, *pair) if change and pair else {},
            )
        )
    return Climb(ladder=ladder, results=results, rungs=tuple(rungs), whole=_whole(rungs, results))


def changed(stack: Mapping[str, Any], after: Combination, before: Combination) -> tuple[str, ...]:
    """The settings in which two combinations of a stack differ; of another kind of thing, `kind` stands for all.

    >>> stack = {"retrievers": {"near": {"kind": "dense", "k": 3}, "wide": {"kind": "dense", "k": 9}}}
    >>> changed(stack, Combination.parse("base:wide:direct"), Combination.parse("base:near:direct"))
    ('retriever: k',)
    """
    return tuple(_changed(stack, after, before))


def _changed(stack: Mapping[str, Any], after: Combination, before: Combination) -> Iterator[str]:
    for part, name in PARTS.items():
        ours, theirs = getattr(after, name), getattr(before, name)
        settings = stack.get(part, {})
        new, old = settings.get(ours), settings.get(theirs)
        if ours == theirs:
            continue
        if not isinstance(new, Mapping) or not isinstance(old, Mapping):  # an adapter, or none
            yield name
        elif new.get("kind") != old.get("kind"):
            yield f"{name}: kind"
        else:
            yield from (f"{name}: {key}" for key in {**old, **new} if new.get(key) != old.get(key))


def _outcome(step: Step, results: Results, change: Difference | None, p_holm: float) -> Outcome:
    if step.needs:
        return "not run"
    if change is None:
        return "incomplete" if results.missing(step.cell) or step.cell != results.baseline else "start"
    outcomes: Mapping[int, Outcome] = {1: "helps", 0: "no gain", -1: "hurts"}
    return outcomes[direction(change.estimate, p_holm)]


def _moved(results: Results, after: Combination, before: Combination) -> dict[str, int]:
    """The net number of questions won, by slice."""
    ours, theirs = scores(results, after), scores(results, before)
    net: Counter[str] = Counter()
    for one in results.examples:
        net[one.slice] += (ours[one.id] > theirs[one.id]) - (ours[one.id] < theirs[one.id])
    return {name: count for name, count in net.items() if count} if len(net) > 1 else {}


def _kept(rungs: Sequence[Rung]) -> list[tuple[Rung, Row]]:
    """The steps that the story kept and that run here, with their figures."""
    return [(one, one.row) for one in rungs if one.row and not one.step.rejected]


def _whole(rungs: Sequence[Rung], results: Results) -> Difference | None:
    kept = [rung.step.cell for rung, _ in _kept(rungs)]
    if len(kept) < 2 or results.missing(kept[0]) or results.missing(kept[-1]):
        return None
    return difference(results, kept[-1], kept[0])


# What is said -------------------------------------------------------------------------------------------------------


def headline(climbed: Climb) -> str:
    """The one thing to know."""
    ran, helped = climbed.compared, [one for one in climbed.rungs if one.outcome == "helps"]
    hurt = sum(one.outcome == "hurts" for one in ran)
    return f"{len(helped)} of {counted(len(ran), 'step')} {'helps' if len(helped) == 1 else 'help'} here" + (
        f", {hurt} {'hurts' if hurt == 1 else 'hurt'}" if hurt else ""
    )


def lead(climbed: Climb) -> str:
    """From where to where, here and in the story."""
    story, kept = climbed.ladder.settings.story, [row for _, row in _kept(climbed.rungs)]
    bars = [one.step.published for one in climbed.rungs if not one.step.rejected]
    told = [bar for bar in bars if bar is not None]
    theirs = f" In {story}: from {percent(told[0])} to {percent(told[-1])}." if len(told) > 1 else ""
    if climbed.whole is None:
        return f"Answers are missing, so it cannot be said where the journey ends here.{theirs}"
    gain = f"{points(climbed.whole.estimate.value)} points, 95% interval {span(climbed.whole.estimate)}"
    return (
        f"With every step that {story} kept and that runs here, from {percent(kept[0].score)} to "
        f"{percent(kept[-1].score)} ({gain}).{theirs}"
    )


def sentence(rung: Rung, story: str) -> str:
    """What is to be said of one step."""
    return " ".join(_said(rung, story))


def next_step(climbed: Climb) -> str:
    """One thing to do now."""
    if climbed.missing:
        return f"{counted(climbed.missing, 'answer')} missing: the same command asks only for those."
    under = {one.against for one in climbed.rungs}
    kept = [one for one in climbed.rungs if one.keep is False and one.step.name in under and not one.step.rejected]
    for outcome in ("hurts", "no gain"):
        if idle := [one.step.name for one in kept if one.outcome == outcome]:
            does = "it hurts" if outcome == "hurts" else "it brought nothing that could be seen"
            return (
                f"“{idle[0]}” stands under the steps after it, and here {does}: mark it `rejected: true`, take it out "
                "of the settings of the steps after it, and run the same command; only what is new is asked."
            )
    if waiting := [one.step.name for one in climbed.rungs if one.step.needs]:
        return f"not run here: {listed(waiting)}; take away their `needs` where it is met."
    return "nothing that does not help stands under another step; ask questions that nobody has looked at next."


def to_json(climbed: Climb) -> dict[str, Any]:
    """`ladder.json`."""
    settings, results = climbed.ladder.settings, climbed.results
    return {
        "name": settings.name,
        "story": settings.story,
        "task": results.config.task.name,
        "scorer": results.config.task.primary,
        "questions": len(results.examples),
        "headline": headline(climbed),
        "lead": lead(climbed),
        "next": next_step(climbed),
        "steps": [known(_row(one, settings.story)) for one in climbed.rungs],
    }


def _said(rung: Rung, story: str) -> Iterator[str]:
    name, row, change = rung.step.name, rung.row, rung.difference
    if rung.outcome == "not run":
        yield f"{name} is not run here: it needs {rung.step.needs}."
    elif rung.outcome == "start" and row:
        yield f"{name} is where it begins: {percent(row.score)} right."
    elif rung.outcome == "incomplete" and row:
        lacking = row.n_infra or (rung.before.n_infra if rung.before else 0)
        whose = "its" if row.n_infra else f"“{rung.against}”’s"
        yield f"{name} cannot be judged: {lacking} of {whose} answers are missing."
    elif change is not None:
        yield _effect(rung, change)
        yield from _why(rung)
        yield _advice(rung, story)
    if rung.step.note:
        yield rung.step.note


def _effect(rung: Rung, change: Difference) -> str:
    name, against = rung.step.name, f"“{rung.against}”"
    figures = f"95% interval {span(change.estimate)}, Holm-corrected {p_value(rung.p_holm)}"
    if rung.outcome != "no gain":
        does = "helps" if rung.outcome == "helps" else "hurts here"
        return f"{name} {does}: {points(change.estimate.value)} points against {against} ({figures})."
    if not change.gained and not change.lost:
        return f"{name} changes no score: each of {counted(change.n, 'question')} scores as with {against}."
    return (
        f"{name} brings nothing that {counted(change.n, 'question')} can show: {points(change.estimate.value)} points "
        f"against {against} ({figures}), {change.gained} won and {change.lost} lost."
    )


def _why(rung: Rung) -> Iterator[str]:
    """Where it moved something, and what it costs."""
    order = sorted(rung.moved.items(), key=lambda one: (-abs(one[1]), one[0]))
    won = [f"{name} {count:+d}" for name, count in order if count > 0][:NAMED]
    lost = [f"{name} −{-count}" for name, count in order if count < 0][:NAMED]
    if won or lost:
        yield f"Questions won and lost, by kind: {', '.join(won + lost)}."
    if len(rung.changed) > 1:
        yield f"It changes {len(rung.changed)} things at once ({listed(rung.changed)}), so nobody can say which did it."
    if rung.row and rung.before and rung.before.tokens and rung.row.tokens / rung.before.tokens >= DEARER:
        yield f"It takes {rung.row.tokens / rung.before.tokens:.1f} times the tokens."


def _advice(rung: Rung, story: str) -> str:
    did = "rejected" if rung.step.rejected else "kept"
    agrees = rung.keep is not rung.step.rejected
    return f"We would {'keep it' if rung.keep else 'leave it out'}, " + (
        f"as {story} did." if agrees else f"though {story} {did} it."
    )


def _row(rung: Rung, story: str) -> dict[str, Any]:
    step, row, change = rung.step, rung.row, rung.difference
    return {
        "name": step.name,
        "combination": step.combination,
        "story": "rejected" if step.rejected else "kept",
        "published": step.published,
        "needs": step.needs,
        "outcome": rung.outcome,
        "keep": rung.keep,
        "n": row.n if row else 0,
        "missing": row.n_infra if row else 0,
        "score": row.score if row else None,
        "ci": (row.ci_low, row.ci_high) if row else None,
        "tokens": row.tokens if row else None,
        "seconds": row.latency_p50_s if row else None,
        "against": rung.against,
        "changed": rung.changed,
        "delta": change.estimate.value if change else None,
        "delta_ci": (change.estimate.low, change.estimate.high) if change else None,
        "p": change.p if change else None,
        "p_holm": rung.p_holm,
        "gained": change.gained if change else None,
        "lost": change.lost if change else None,
        "moved": rung.moved,
        "sentence": sentence(rung, story),
    }
