"""Blame, counted: shares with their intervals for each combination and slice, and the one fault that weighs most.

    blame.csv is `to_csv(tallies)`

Knows nothing of how a leaf was found or where the figures are shown.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.blame import MEANING, WRONG, Fault, Leaf, Leaves, faults
from eval.folder import Results
from eval.summary import Row, ranked
from retrieval.stats import Share, wilson
from serve.combination import NONE, Combination

Blamed = Mapping[Combination, Leaves]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One combination: how many of its questions came to each leaf, and whose fault the wrong ones are."""

    combination: str
    leaves: Mapping[Leaf, Share]
    """In the order of the tree's meanings; only those that occur."""
    faults: Mapping[Fault, Share]
    right: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakest:
    """What most of one combination's wrong answers are the fault of; `verdict.json` has it as `blame`."""

    combination: str
    fault: Fault
    n: int
    """Answers that are its fault."""
    wrong: int
    """Questions that it does not get right, whoever is to blame."""
    ci: tuple[float, float]
    """Of the share of the first in the second."""
    faults: Mapping[Fault, int]
    """All of the second, by fault."""


def tally(combination: str, leaves: Leaves) -> Tally:
    """The leaves of one combination, counted."""
    said, of = list(leaves.values()), len(leaves)
    return Tally(
        combination=combination,
        leaves={one: Share(said.count(one), of) for one in MEANING if one in said},
        faults={fault: Share(n, of) for fault, n in faults(leaves).items()},
        right=Share(sum(one not in WRONG for one in said), of),
    )


def tallies(rows: Sequence[Row], blamed: Blamed) -> tuple[Tally, ...]:
    """Every combination, in the order of the rows."""
    return tuple(tally(row.combination, blamed[Combination.parse(row.combination)]) for row in rows)


def by_slice(results: Results, leaves: Leaves) -> tuple[Tally, ...]:
    """One combination's tallies, slice by slice, where it fails most first."""
    slices: dict[str, dict[str, Leaf]] = {}
    for example in results.examples:
        if example.id in leaves:
            slices.setdefault(example.slice, {})[example.id] = leaves[example.id]
    counted = [tally(name, members) for name, members in slices.items()]
    return tuple(sorted(counted, key=lambda one: one.right.estimate.value))


def weakest(results: Results, rows: Sequence[Row], blamed: Blamed) -> Weakest | None:
    """The heaviest fault of the best combination; while answers are missing, of the one that misses most, the run.

    None when nothing is wrong. Where the best one does not search, the best of those that do is looked at: of one that
    does not, only the evidence it never had could be said.
    """
    gaps = max(results.records, key=results.missing)
    choices = ranked(rows)
    if results.missing(gaps) or not choices:
        cell = gaps
    elif not faults(blamed[Combination.parse(choices[0].combination)]):
        return None
    else:
        cell = Combination.parse(min(choices, key=lambda row: row.retriever == NONE).combination)
    counted = faults(blamed[cell])
    if not counted:  # it is the first answers that are blamed: what is missed may be missed in later ones
        return None
    wrong = counted.total()
    fault: Fault = "run" if counted["run"] else max(counted, key=counted.__getitem__)
    share = wilson(counted[fault], wrong)
    return Weakest(
        combination=str(cell),
        fault=fault,
        n=counted[fault],
        wrong=wrong,
        ci=(share.low, share.high),
        faults=dict(counted),
    )


def to_csv(tallied: Sequence[Tally]) -> str:
    """One row a combination and leaf."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(["combination", "leaf", "fault", "n", "of", "share", "ci_low", "ci_high"])
    for one in tallied:
        for leaf, share in one.leaves.items():
            fault = WRONG[leaf][0] if leaf in WRONG else ""
            shown = [f"{value:.4f}" for value in (share.estimate.value, share.estimate.low, share.estimate.high)]
            writer.writerow([one.combination, leaf, fault, share.hits, share.of, *shown])
    return sheet.getvalue()
