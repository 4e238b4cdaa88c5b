"""Whether anything helped, and what: a decision by a rule that was fixed beforehand.

The rule: the best combination that is clearly better than the baseline, corrected for every combination that could have
been chosen; where none is, the best. A lever is named when its own main effect is clear, and the others too when it is
clearly worse without them. Knows nothing of files, plots or how answers were made.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval.effects import LEVERS, Effect, Factor
from eval.folder import Results
from eval.summary import Comparison, Row, clusters, comparisons, ranked
from retrieval.power import fewest_clusters, items_needed, spread_seen
from retrieval.stats import Difference
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
    """The highest score and all that cannot be told from it; where something is to be adopted, not the baseline."""
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
    best = next((row for row in others if row.direction > 0), others[0])
    comparison = compared[Combination.parse(best.combination)]
    family = len(others) + results.out
    decision = _decide(best)
    tied = tuple(row for row in (others if decision == "adopt" else ranked(rows)) if row.tied)
    base = next(row for row in rows if row.combination == str(results.baseline))
    return Finding(
        decision=decision,
        best=best,
        base=base,
        comparison=comparison,
        family=family,
        moved=_moved(best, base, effects, ranked(rows)) if decision == "adopt" else (),
        tied=tied,
        cheaper=_cheaper(best, others) if decision == "adopt" else None,
        more_questions=_wanted(results, comparison.difference, family) if decision == "not decisive" else None,
    )


def chosen(finding: Finding | None, rows: Sequence[Row]) -> Row | None:
    """What a verdict is about: what is to be adopted, otherwise the highest score; None where nothing is ranked."""
    if finding and finding.decision == "adopt":
        return finding.best
    return next(iter(ranked(rows)), None)


def _decide(best: Row) -> Decision:
    if (best.delta or 0) <= 0:
        return "nothing helped"
    return "adopt" if best.direction > 0 else "not decisive"


def _wanted(results: Results, seen: Difference, family: int) -> int:
    """The spread of the questions asked is taken for that of more like them; never fewer than were asked, or than the
    clusters take from which any gain could come out clear."""
    each = seen.n / len({*clusters(results).values()})
    spread = items_needed(seen.estimate.value, spread_seen(seen.estimate, seen.n), family)
    return max(spread, seen.n + 1, math.ceil(each * fewest_clusters(family)))


def _moved(best: Row, base: Row, effects: Sequence[Effect], rows: Sequence[Row]) -> tuple[Factor, ...]:
    """The factors in which the best differs, less those that do nothing on average while another one does, and those
    without which the same cannot be told from it and keeps nine tenths of the gain. If what is left is clearly worse
    alone, the others count as well."""
    changed = tuple(factor for factor in LEVERS if getattr(best, factor) != getattr(base, factor))
    clear = {(one.factor, one.level) for one in effects if one.direction > 0}
    moving = tuple(factor for factor in changed if (factor, getattr(best, factor)) in clear) or changed
    enough = base.score + 0.9 * (best.score - base.score)
    worse = {row.combination for row in rows if not row.tied}
    equal = {row.combination for row in rows if row.tied and row.score >= enough}

    def without(factors: Iterable[Factor]) -> str:
        return str(replace(Combination.parse(best.combination), **{one: getattr(base, one) for one in factors}))

    def needed(among: tuple[Factor, ...]) -> tuple[Factor, ...]:
        return tuple(one for one in among if without([one]) not in equal) or among

    alone = without(one for one in changed if one not in needed(moving))
    return needed(changed if alone in worse else moving)


def _cheaper(best: Row, others: Sequence[Row]) -> Row | None:
    """Whether a tenth of the tokens or more can be saved at a score that is not provably worse."""
    better = [row for row in others if row.direction > 0 and row.combination != best.combination]
    tied = [row for row in better if row.tied and row.tokens < 0.9 * best.tokens]
    return min(tied, key=lambda row: row.tokens, default=None)
