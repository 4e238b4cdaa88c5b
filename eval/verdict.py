"""Which lever to pull: a decision by a rule that was fixed beforehand.

The rule: the best combination against the baseline, corrected for every combination that could have been chosen; a
lever is named when its own main effect is clear. Knows nothing of files, plots or how answers were made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.effects import LEVERS, Effect, Factor
from eval.folder import Results
from eval.gold import is_oracle
from eval.summary import Comparison, Row, comparisons, ranked
from eval.tally import Weakest
from retrieval.stats import ALPHA as ALPHA
from serve.combination import BASE, GOLD, NONE, Combination

Decision = Literal["adopt", "not decisive", "nothing helped", "incomplete"]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the comparison came to, before it is put into words."""

    decision: Decision
    best: Row
    base: Row
    comparison: Comparison
    family: int
    """How many combinations were compared with the baseline, or could have been, had screening not stopped them."""
    moved: tuple[Factor, ...]
    """The factors that made the difference."""
    tied: tuple[Row, ...]
    """The highest score and all that cannot be told from it."""
    cheaper: Row | None
    """The cheapest of those that beat the baseline and cannot be told apart from the best; None when it is the best."""


def find(results: Results, rows: Sequence[Row], effects: Sequence[Effect]) -> Finding | None:
    """Apply the rule; None when the baseline has gaps, or nothing else is without."""
    compared = comparisons(results)
    others = [row for row in ranked(rows) if row.combination != str(results.baseline)]
    if not compared or not others:
        return None
    best = others[0]
    comparison = compared[Combination.parse(best.combination)]
    decision = _decide(comparison)
    return Finding(
        decision=decision,
        best=best,
        base=next(row for row in rows if row.combination == str(results.baseline)),
        comparison=comparison,
        family=len(others) + sum(not is_oracle(cell.retriever) for cell in results.stopped),
        moved=_moved(best, results.baseline, effects) if decision == "adopt" else (),
        tied=tuple(row for row in ranked(rows) if row.tied),
        cheaper=_cheaper(others) if decision == "adopt" else None,
    )


def verdict_of(results: Results, finding: Finding | None, fault: Weakest | None, sentence: str) -> Verdict:
    """The finding as `verdict.json` has it."""
    baseline, untested = str(results.baseline), tuple(not_tested(results))
    if finding is None:
        return Verdict(decision="incomplete", baseline=baseline, not_tested=untested, sentence=sentence, blame=fault)
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
        ),
        not_tested=untested,
        sentence=sentence,
        tied=tuple(row.combination for row in finding.tied),
        blame=fault,
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


def _decide(comparison: Comparison) -> Decision:
    if comparison.difference.estimate.value <= 0:
        return "nothing helped"
    return "adopt" if comparison.p_holm < ALPHA else "not decisive"


def _moved(best: Row, baseline: Combination, effects: Sequence[Effect]) -> tuple[Factor, ...]:
    """The factors in which the best differs, less those that do nothing on average while another one does."""
    changed = tuple(factor for factor in LEVERS if getattr(best, factor) != getattr(baseline, factor))
    clear = {(one.factor, one.level) for one in effects if one.p_holm < ALPHA and one.estimate.value > 0}
    return tuple(factor for factor in changed if (factor, getattr(best, factor)) in clear) or changed


def _lever(moved: Sequence[Factor]) -> Lever | None:
    if not moved:
        return None
    return LEVERS[moved[0]] if len(moved) == 1 else "combination"


def _cheaper(others: Sequence[Row]) -> Row | None:
    """Whether a tenth of the tokens or more can be saved at a score that is not provably worse."""
    best, *rest = others
    better = [row for row in rest if (row.p_holm or 0) < ALPHA and (row.delta or 0) > 0]
    tied = [row for row in better if row.tied and row.tokens < 0.9 * best.tokens]
    return min(tied, key=lambda row: row.tokens, default=None)
