"""`verdict.json`: what was found and what to do about it, as a machine reads it.

Knows nothing of how any of it was decided.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.effects import LEVERS, Factor
from eval.enough import Enough
from eval.finding import Decision
from eval.findings import Findings
from eval.folder import Results
from eval.gold import is_oracle
from eval.payback import Payback
from eval.remedies import Step
from eval.tally import Weakest
from serve.combination import BASE, GOLD, NONE

Lever = Literal["prompt", "retrieval", "adapter", "combination"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """On how many questions the gain rests, and how many went each way."""

    compared: int
    gained: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one answer takes: tokens are means, seconds the median."""

    tokens: float
    baseline_tokens: float
    seconds: float
    baseline_seconds: float
    minutes_per_1000: float
    baseline_minutes_per_1000: float
    per_1000: float | None
    """Money, where the grid says what an hour costs."""
    baseline_per_1000: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`verdict.json`; when answers are missing there is a sentence and little else."""

    decision: Decision
    lever: Lever | None = None
    """What moved the score; None when nothing provably did."""
    baseline: str
    best: str | None = None
    """The best combination other than the baseline."""
    gain: float | None = None
    ci: tuple[float, float] | None = None
    p_holm: float | None = None
    items: Items | None = None
    cost: Cost | None = None
    not_tested: tuple[str, ...]
    sentence: str
    tied: tuple[str, ...] = ()
    """The highest score and all that cannot be told from it: with these questions, the choice among them is free."""
    blame: Weakest | None = None
    """What most of the best combination's wrong answers are the fault of; the run's, while answers are missing."""
    more_questions: int | None = None
    """Where it is not decisive: how many questions it takes to see a gain of this size with a power of 80 %."""
    enough: Enough | None = None
    payback: Payback | None = None
    next: Step | None = None


def verdict_of(found: Findings, step: Step, sentence: str) -> Verdict:
    """The findings as `verdict.json` has them."""
    finding, baseline, untested = found.finding, str(found.results.baseline), tuple(not_tested(found.results))
    if finding is None:
        return Verdict(
            decision="incomplete",
            baseline=baseline,
            not_tested=untested,
            sentence=sentence,
            blame=found.fault,
            enough=found.enough,
            next=step,
        )
    gain, best, base = finding.comparison.difference, finding.best, finding.base
    return Verdict(
        decision=finding.decision,
        lever=_lever(finding.moved),
        baseline=baseline,
        best=best.combination,
        gain=gain.estimate.value,
        ci=(gain.estimate.low, gain.estimate.high),
        p_holm=finding.comparison.p_holm,
        items=Items(compared=gain.n, gained=gain.gained, lost=gain.lost),
        cost=Cost(
            tokens=best.tokens,
            baseline_tokens=base.tokens,
            seconds=best.latency_p50_s,
            baseline_seconds=base.latency_p50_s,
            minutes_per_1000=best.minutes_per_1000,
            baseline_minutes_per_1000=base.minutes_per_1000,
            per_1000=best.cost_per_1000,
            baseline_per_1000=base.cost_per_1000,
        ),
        not_tested=untested,
        sentence=sentence,
        tied=tuple(row.combination for row in finding.tied),
        blame=found.fault,
        more_questions=finding.more_questions,
        enough=found.enough,
        payback=found.payback,
        next=step,
    )


def not_tested(results: Results) -> Iterator[str]:
    """What the grid could have tried and did not, so that nobody reads its silence as an answer."""
    grid, retrievers = results.config.grid, results.config.stack["retrievers"]
    searched = [name for name in grid.retrievers if name != NONE and not is_oracle(name)]
    if set(grid.adapters) == {BASE}:
        yield "fine-tuning: the grid has no adapter"
    if not searched:
        yield "retrieval: the grid has no retriever"
    elif not any(retrievers[name]["kind"] == "random" for name in searched):
        yield "a control with random passages, which any search must beat"
    if len(grid.strategies) == 1:
        yield "prompting: the grid has one strategy"
    if GOLD not in grid.retrievers:
        yield "perfect retrieval: without `gold` among the retrievers, its ceiling is unknown"


def _lever(moved: Sequence[Factor]) -> Lever | None:
    if not moved:
        return None
    return LEVERS[moved[0]] if len(moved) == 1 else "combination"
