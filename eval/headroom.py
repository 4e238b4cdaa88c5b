"""What is left to win on the two axes, seen from the best combination: what it does not know, and how it acts.

The oracle arm splits the loss: what is right with the evidence alone and wrong otherwise is lost to what is retrieved,
evidence that is missing or other passages beside it; what is wrong even with it is behaviour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eval.blame import Seen
from eval.folder import Results
from eval.gold import AMONG
from eval.summary import Row, average, clusters, difference, ranked, score, scores
from retrieval.stats import Difference, Estimate
from serve.combination import BASE, GOLD, Combination


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """The oracle's figures for the best combination."""

    top: Combination
    oracle: Combination
    """The same, with the marked evidence in place of what its retriever finds."""
    ceiling: Estimate
    """The oracle's score: what is missing above it, no retrieval can add."""
    knowledge: Difference
    """The oracle against the top: what the evidence in place of what is retrieved would add."""
    crowd: Combination | None
    """The same, with the evidence before passages of a retriever, if the grid has that arm."""
    company: Difference | None
    """That against the oracle: what other passages beside the evidence cost."""
    adapter: str | None
    """The best adapter under the oracle."""
    behaviour: Difference | None
    """That adapter against the base model, both with the evidence: what training changed besides knowledge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a combination stands on the two axes: does it get what it needs to know, and does it act on it?"""

    row: Row
    rank: int
    context: Estimate
    """The share of questions whose marked evidence was all in the prompt."""
    behaviour: Estimate
    """What its adapter and strategy score with the evidence alone, form and all."""


def find_places(
    results: Results, rows: Sequence[Row], seen: Mapping[Combination, Mapping[str, Seen]]
) -> tuple[Place, ...]:
    """The places of all that could be chosen and have an oracle arm; questions without evidence have no place."""
    by_name, alike = {row.combination: row for row in rows}, clusters(results)
    found = []
    for rank, row in enumerate(ranked(rows), start=1):
        cell = Combination.parse(row.combination)
        shown = {item: float(one.evidence) for item, one in seen[cell].items() if one.evidence is not None}
        gold = replace(cell, retriever=GOLD)
        oracle = by_name.get(str(gold))
        if shown and oracle and not oracle.n_infra:
            acted = {item: one for item, one in scores(results, gold).items() if seen[gold][item].evidence}
            context, behaviour = average(shown, alike), average(acted, alike)
            found.append(Place(row=row, rank=rank, context=context, behaviour=behaviour))
    return tuple(found)


def find_headroom(results: Results, rows: Sequence[Row], best: Row | None) -> Headroom | None:
    """The diagnosis; None when the best combination has no complete oracle arm beside it."""
    if best is None:
        return None
    top = Combination.parse(best.combination)
    # Rows come best first, so the first adapter here is the best one.
    oracles = {
        row.adapter: Combination.parse(row.combination)
        for row in rows
        if row.retriever == GOLD and row.strategy == top.strategy and not row.n_infra
    }
    if top.adapter not in oracles:
        return None
    crowd = _crowd(top, [Combination.parse(row.combination) for row in rows if not row.n_infra])
    adapter = next((name for name in oracles if name != BASE), None)
    return Headroom(
        top=top,
        oracle=oracles[top.adapter],
        ceiling=score(results, oracles[top.adapter]),
        knowledge=difference(results, oracles[top.adapter], top),
        crowd=crowd,
        company=difference(results, crowd, oracles[top.adapter]) if crowd else None,
        adapter=adapter,
        behaviour=difference(results, oracles[adapter], oracles[BASE]) if adapter and BASE in oracles else None,
    )


def _crowd(top: Combination, cells: Sequence[Combination]) -> Combination | None:
    """The oracle arm in company: of several, the one whose company is what the top itself finds."""
    crowds = [
        cell for cell in cells if cell == replace(top, retriever=cell.retriever) and cell.retriever.startswith(AMONG)
    ]
    return min(crowds, key=lambda cell: cell.retriever != AMONG + top.retriever, default=None)
