"""How far the confidence that a strategy states can be relied on: each combination of a run that states one.

    Record.notes["confidence"]   0..1, whatever the strategy made it of: agreeing votes, checked facts, likely words

What is right says the primary scorer, an abstention like any other answer: it is right where the task says so. Decides
nothing, and knows nothing of where it is shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eval.folder import Results, each_answer
from eval.record import Record
from eval.selective import (
    Bin,
    Policy,
    Ranking,
    Step,
    calibration_error,
    policy,
    ranking,
    reliability,
    risks,
    steps,
)
from eval.summary import Row, clusters
from eval.task import Stakes
from eval.wording import p_value, percent, within
from serve.chat import UNREAD
from serve.combination import Combination

NOTE: Final = "confidence"
DRAWN: Final = 100
"""Points of a curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A combination that says how sure it is."""

    combination: str
    n: int
    """Answers, each repeat by itself: one answers, or passes on, an answer and no mean."""
    ranking: Ranking
    steps: tuple[Step, ...]
    bins: tuple[Bin, ...]
    calibration_error: float
    curve: tuple[tuple[float, float], ...]
    """(share answered, share of those right), thinned out."""
    policy: Policy | None
    """Where the task says what answers are worth."""


def find_stated(results: Results, rows: Sequence[Row]) -> tuple[Stated, ...]:
    """Those whose every answer states a confidence, in the order of the rows; who has gaps is left out."""
    cells = [Combination.parse(row.combination) for row in rows if not row.n_infra]
    each = each_answer(results)
    return tuple(
        _stated(results, cell, each[cell])
        for cell in cells
        if any(NOTE in one.notes for one in each[cell]) and all(NOTE in _notes(one) for one in each[cell])
    )


def told(one: Stated) -> Iterator[str]:
    """What it comes to, in sentences."""
    half = next((step for step in reversed(one.steps) if step.answered.estimate.value >= 0.5), one.steps[0])
    skill, everything = one.ranking.skill, percent(1 - one.ranking.blind)
    if skill.low > 0:
        yield (
            f"{one.combination} is right more often where it is surer: of the surest "
            f"{percent(half.answered.estimate.value)} of its answers {percent(half.right.value)} are "
            f"({within(half.right.low, half.right.high)}), of all {everything}."
        )
    elif skill.high < 0:
        yield f"{one.combination} is surest where it is wrong: what it states as its confidence misleads."
    else:
        yield f"What {one.combination} states as its confidence cannot be told from chance: it sorts out nothing."
    if one.policy:
        yield _said(one.policy)


def _said(policy: Policy) -> str:
    net, gain = policy.net, policy.gain
    brought = f"{worth(net.value)} per question ({worth(net.low)} to {worth(net.high)})"
    against = (
        f"{worth(policy.everything.value)} for answering all (difference {worth(gain.estimate.value)}, "
        f"{worth(gain.estimate.low)} to {worth(gain.estimate.high)}, {p_value(gain.p)})"
    )
    if policy.threshold is None:
        return (
            f"No threshold pays: passing everything on brings {worth(policy.nothing)}, thresholds chosen on other "
            f"questions {brought} against {against}."
        )
    return (
        f"Answering only where confidence is at least {policy.threshold:.3f}: "
        f"{percent(policy.answered.estimate.value)} answered, {percent(policy.right.value)} of those right, net value "
        f"{brought} against {against}; each question is judged by thresholds that were chosen on others."
    )


def worth(value: float) -> str:
    """What something brings, in the task's own unit.

    >>> worth(0.02), worth(-28.6), worth(-0.001)
    ('+0.02', '−28.60', '+0.00')
    """
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def _stated(results: Results, cell: Combination, answers: Sequence[Record]) -> Stated:
    alike = clusters(results)
    sure = [_notes(one)[NOTE] for one in answers]
    right = [one.scores[results.config.task.primary] for one in answers]
    labels = [alike[one.id] for one in answers]
    stakes, bins = results.config.task.enough, reliability(sure, right, labels)
    return Stated(
        combination=str(cell),
        n=len(answers),
        ranking=ranking(sure, right, labels),
        steps=steps(sure, right, labels),
        bins=bins,
        calibration_error=calibration_error(bins),
        curve=tuple(_thinned((1 - risks(sure, right)).tolist())),
        policy=policy(sure, right, stakes, labels) if isinstance(stakes, Stakes) else None,
    )


def _notes(record: Record) -> Mapping[str, float]:
    """Nothing is less sure than an answer that was not begun, since its prompt was too long."""
    return {NOTE: 0.0} if record.finish_reason == UNREAD else record.notes


def _thinned(shares: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Some points of a curve that has one for each answer, both ends among them."""
    n = len(shares)
    for place in dict.fromkeys(round(k * (n - 1) / (DRAWN - 1)) for k in range(DRAWN)):
        yield (place + 1) / n, float(shares[place])
