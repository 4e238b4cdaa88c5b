"""Blame, counted: shares with their intervals for each combination and slice, and the one fault that weighs most.

    blame.csv is `to_csv(tallies)`

Knows nothing of how a leaf was found or where the figures are shown.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.blame import MEANING, WRONG, Fault, Leaf, Leaves, fault_of, faults
from eval.effects import Clusters
from eval.folder import Results
from eval.summary import Row, average, clusters, ranked, scores
from retrieval.stats import Estimate, mean
from serve.combination import NONE, Combination

Blamed = Mapping[Combination, Leaves]


@dataclass(frozen=True, slots=True)
class Part:
    """So many of so many questions."""

    hits: int
    of: int
    estimate: Estimate
    """The share, its interval over clusters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One combination: how many of its questions came to each leaf, and whose fault the wrong ones are."""

    combination: str
    leaves: Mapping[Leaf, Part]
    """In the order of the tree's meanings; only those that occur."""
    faults: Mapping[Fault, Part]
    right: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakest:
    """What one combination loses most score by; `verdict.json` has it as `blame`."""

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


def tally(combination: str, leaves: Leaves, alike: Clusters) -> Tally:
    """The leaves of one combination, counted."""
    said, labels = list(leaves.values()), [alike[item] for item in leaves]

    def part(hits: Sequence[bool]) -> Part:
        return Part(sum(hits), len(hits), mean([float(hit) for hit in hits], labels))

    return Tally(
        combination=combination,
        leaves={one: part([leaf == one for leaf in said]) for one in MEANING if one in said},
        faults={fault: part([fault_of(leaf) == fault for leaf in said]) for fault in faults(leaves)},
        right=part([leaf not in WRONG for leaf in said]),
    )


def tallies(results: Results, rows: Sequence[Row], blamed: Blamed) -> tuple[Tally, ...]:
    """Every combination, in the order of the rows."""
    alike = clusters(results)
    return tuple(tally(row.combination, blamed[Combination.parse(row.combination)], alike) for row in rows)


def by_slice(results: Results, leaves: Leaves) -> tuple[Tally, ...]:
    """One combination's tallies, slice by slice, where it fails most first."""
    slices: dict[str, dict[str, Leaf]] = {}
    for example in results.examples:
        if example.id in leaves:
            slices.setdefault(example.slice, {})[example.id] = leaves[example.id]
    alike = clusters(results)
    counted = [tally(name, members, alike) for name, members in slices.items()]
    return tuple(sorted(counted, key=lambda one: one.right.estimate.value))


def lost(results: Results, cell: Combination, leaves: Leaves) -> Mapping[str, float]:
    """What each question that is not right costs: the score that it lacks, where there is no answer all of it."""
    found = scores(results, cell)
    return {item: 1 - found.get(item, 0.0) for item, leaf in leaves.items() if leaf in WRONG}


def weakest(results: Results, rows: Sequence[Row], blamed: Blamed, best: Row | None) -> Weakest | None:
    """What costs the best combination most score; while answers are missing, the one that misses most, and the run.

    None when nothing is wrong. Where the best one does not search, the best of those that do is looked at: of one that
    does not, only the evidence it never had could be said.
    """
    gaps = max(results.records, key=results.missing)
    if results.missing(gaps) or best is None:
        cell = gaps
    elif not faults(blamed[Combination.parse(best.combination)]):
        return None
    else:
        cell = Combination.parse(min([best, *ranked(rows)], key=lambda row: row.retriever == NONE).combination)
    leaves = blamed[cell]
    counted, wrong = faults(leaves), lost(results, cell, leaves)
    if not counted:  # it is the first answers that are blamed: what is missed may be missed in later ones
        return None
    costs = {one: math.fsum(lacks for item, lacks in wrong.items() if fault_of(leaves[item]) == one) for one in counted}
    fault: Fault = "run" if counted["run"] else max(costs, key=costs.__getitem__)
    share = average({item: float(fault_of(leaves[item]) == fault) for item in wrong}, clusters(results))
    return Weakest(
        combination=str(cell),
        fault=fault,
        n=counted[fault],
        wrong=len(wrong),
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
            fault = fault_of(leaf) or ""
            shown = [f"{value:.4f}" for value in (share.estimate.value, share.estimate.low, share.estimate.high)]
            writer.writerow([one.combination, leaf, fault, share.hits, share.of, *shown])
    return sheet.getvalue()
