"""How good a ranking is, and how much of what is handed over is of use. The only door to ir-measures.

Document metrics are trec_eval's (ir-measures, pytrec_eval underneath), each document where its best passage stands.
Knows nothing of how passages are found.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from statistics import fmean
from typing import Any, Final

from retrieval.passage import Hit
from retrieval.topics import Grades

RANKED: Final[Mapping[str, str]] = {
    "nDCG@10": "nDCG@10",
    "recall@10": "R@10",
    "recall@100": "R@100",
    "MRR@10": "RR@10",
    "success@1": "Success@1",
    "success@5": "Success@5",
}
"""Our names, and ir-measures'."""

HANDED_OVER: Final = ("precision", "context precision")
"""Of what reaches the prompt: the share that is relevant, and that share weighted by rank."""

METRICS: Final = (*RANKED, *HANDED_OVER)


def judged(found: Mapping[str, Sequence[str]], grades: Mapping[str, Grades]) -> dict[str, dict[str, float]]:
    """Query -> metric -> value, of the documents found for each query, best first.

    Every query of `grades` counts, with 0 when nothing is found for it. A document's score is -rank, so that no
    tie is broken in another order than ours (trec_eval breaks them by name).

    >>> judged({"q": ["b", "x", "a"]}, {"q": {"a": 2, "b": 1}})["q"]["MRR@10"]
    1.0
    """
    rows: dict[str, dict[str, float]] = {query: dict.fromkeys(RANKED, 0.0) for query in grades}
    run = {
        query: {document: -float(rank) for rank, document in enumerate(found.get(query, ()), start=1)}
        for query in grades
    }
    measures = _measures()
    for one in _evaluator(measures.values(), grades).iter_calc(run):
        rows[one.query_id][str(one.measure)] = one.value
    return {query: {name: row[str(measure)] for name, measure in measures.items()} for query, row in rows.items()}


def scores(hits: Sequence[Hit], grades: Grades) -> dict[str, float]:
    """Every metric of one search. Documents are ranked by their best passage; passages count in the prompt's order.

    What has rank 0 (a note about a domain) was not searched for, and does not count.
    """
    documents = ranked(hits)
    relevant = [hit.passage.document in grades for hit in hits if hit.rank]
    found = {"precision": fmean(relevant) if relevant else 0.0, "context precision": context_precision(relevant)}
    return {**judged({"": documents}, {"": grades})[""], **found}


def ranked(hits: Sequence[Hit]) -> list[str]:
    """The documents of the hits, each where its best passage stands, however the hits were arranged for a prompt."""
    return list(dict.fromkeys(hit.passage.document for hit in sorted(hits, key=lambda hit: hit.rank) if hit.rank))


def context_precision(relevant: Sequence[bool]) -> float:
    """The mean, over the relevant places, of the precision up to there; 0 without any (Ragas, Context Precision@K).

    It divides by what was found, not by what there is to find: high when the relevant come first, however few.

    >>> context_precision([True, False, True])
    0.8333333333333333
    """
    up_to = [seen / place for place, seen in enumerate(accumulate(relevant), start=1)]
    return (
        fmean(share for share, is_relevant in zip(up_to, relevant, strict=True) if is_relevant)
        if any(relevant)
        else 0.0
    )


@cache
def _measures() -> dict[str, Any]:
    import ir_measures

    return {name: ir_measures.parse_measure(theirs) for name, theirs in RANKED.items()}


def _evaluator(measures: Any, grades: Mapping[str, Grades]) -> Any:
    import ir_measures

    return ir_measures.evaluator(list(measures), {query: dict(marked) for query, marked in grades.items()})
