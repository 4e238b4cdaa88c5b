"""Whether anything helped, and what: a decision by a rule that was fixed beforehand.

The rule: the best combination against the baseline, corrected for every combination that could have been chosen; a
lever is named when its own main effect is clear. Knows nothing of files, plots or how answers were made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval.effects import LEVERS, Effect, Factor
from eval.folder import Results
from eval.summary import Comparison, Row, comparisons, ranked
from retrieval.power import items_needed, spread_seen
from retrieval.stats import ALPHA, Difference
from serve.combination import Combination

Decision = Literal["adopt", "not decisive", "nothing helped", "incomplete"]


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
    more_questions: int | None
    """Where it is not decisive: how many it takes to see a gain of this size."""


def find(results: Results, rows: Sequence[Row], effects: Sequence[Effect]) -> Finding | None:
    """Apply the rule; None when the baseline has gaps, or nothing else is without."""
    compared = comparisons(results)
    others = [row for row in ranked(rows) if row.combination != str(results.baseline)]
    if not compared or not others:
        return None
    best = others[0]
    comparison = compared[Combination.parse(best.combination)]
    family = len(others) + results.out
    decision, tied = _decide(comparison), tuple(row for row in ranked(rows) if row.tied)
    base = next(row for row in rows if row.combination == str(results.baseline))
    return Finding(
        decision=decision,
        best=best,
        base=base,
        comparison=comparison,
        family=family,
        moved=_moved(best, base, effects, tied) if decision == "adopt" else (),
        tied=tied,
        cheaper=_cheaper(others) if decision == "adopt" else None,
        more_questions=_wanted(comparison.difference, family) if decision == "not decisive" else None,
    )


def _decide(comparison: Comparison) -> Decision:
    if comparison.difference.estimate.value <= 0:
        return "nothing helped"
    return "adopt" if comparison.p_holm < ALPHA else "not decisive"


def _wanted(seen: Difference, family: int) -> int:
    """The spread of the questions asked is taken for that of more like them."""
    return items_needed(seen.estimate.value, spread_seen(seen.estimate, seen.n), family)


def _moved(best: Row, base: Row, effects: Sequence[Effect], tied: Sequence[Row]) -> tuple[Factor, ...]:
    """The factors in which the best differs, less those that do nothing on average while another one does, and those
    without which the same cannot be told from it and keeps nine tenths of the gain."""
    changed = tuple(factor for factor in LEVERS if getattr(best, factor) != getattr(base, factor))
    clear = {(one.factor, one.level) for one in effects if one.p_holm < ALPHA and one.estimate.value > 0}
    moving = tuple(factor for factor in changed if (factor, getattr(best, factor)) in clear) or changed
    enough, cell = base.score + 0.9 * (best.score - base.score), Combination.parse(best.combination)
    equal = {row.combination for row in tied if row.score >= enough}
    needed = tuple(one for one in moving if str(replace(cell, **{one: getattr(base, one)})) not in equal)
    return needed or moving


def _cheaper(others: Sequence[Row]) -> Row | None:
    """Whether a tenth of the tokens or more can be saved at a score that is not provably worse."""
    best, *rest = others
    better = [row for row in rest if (row.p_holm or 0) < ALPHA and (row.delta or 0) > 0]
    tied = [row for row in better if row.tied and row.tokens < 0.9 * best.tokens]
    return min(tied, key=lambda row: row.tokens, default=None)
