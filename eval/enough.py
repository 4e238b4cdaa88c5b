"""Is it good enough? A task says from which score on; what an answer is worth says it, too (`enough` in task.yaml).

    break-even   p* = F / (S + F)     a right answer brings S, a wrong one costs F

"Good enough" is said only where chance is no explanation: a one-sided test against that score, corrected for every
combination that could have been picked. Knows nothing of what to do where it is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.folder import Results
from eval.screening import in_family
from eval.summary import Row, clusters, ranked, scores
from eval.task import Stakes
from retrieval.stats import ALPHA, above
from serve.combination import Combination


@dataclass(frozen=True, slots=True, kw_only=True)
class Enough:
    """`enough` in verdict.json."""

    needed: float
    """The score from which on it is good enough."""
    reached: Literal["yes", "perhaps", "no"]
    """Surely; the data allow it; surely not, by the highest score's interval."""
    combination: str
    """Of those that surely are, the one with the fewest tokens an answer; otherwise the one with the highest score."""
    score: float
    ci: tuple[float, float]
    p_holm: float
    """Of its score, if it were not good enough."""
    per_1000: float | None
    """What 1,000 of its answers bring, less what the wrong ones among them cost; in the task's own unit."""
    per_1000_ci: tuple[float, float] | None


def enough(results: Results, rows: Sequence[Row]) -> Enough | None:
    """The judgement; None when the task does not say what is enough, or nothing can be ranked."""
    wanted, choices = results.config.task.enough, ranked(rows)
    if wanted is None or not choices:
        return None
    needed, alike = (wanted.break_even if isinstance(wanted, Stakes) else wanted), clusters(results)
    tables = [scores(results, Combination.parse(row.combination)) for row in choices]
    p_values = in_family(
        [above([*table.values()], needed, [alike[item] for item in table]) for table in tables], results.out
    )
    sure = [(row, p) for row, p in zip(choices, p_values, strict=True) if p < ALPHA]
    row, p = min(sure, key=lambda one: one[0].tokens) if sure else (choices[0], p_values[0])
    known = (row.score, row.ci_low, row.ci_high)
    worth = [1000 * wanted.net(one) for one in known] if isinstance(wanted, Stakes) else None
    return Enough(
        needed=needed,
        reached="yes" if sure else "no" if row.ci_high < needed else "perhaps",
        combination=row.combination,
        score=row.score,
        ci=(row.ci_low, row.ci_high),
        p_holm=p,
        per_1000=worth[0] if worth else None,
        per_1000_ci=(worth[1], worth[2]) if worth else None,
    )
