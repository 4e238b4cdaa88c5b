"""How well each kind of search finds what people marked as relevant: nDCG@10, recall, MRR on a BEIR folder.

    python -m retrieval measure out/index/scifact beir/scifact

Ranks documents, each by its best passage, through the very retrievers that answer. Knows nothing of models.
"""

import asyncio
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final

from retrieval.files import FileError, read_jsonl, read_text
from retrieval.index import Index
from retrieval.passage import Passage, Query, RetrievalError
from retrieval.retriever import KINDS, Kind, Retriever

Grades = Mapping[str, int]
"""Document -> how relevant it is, for one query; only what is relevant at all."""

MEASURED: Final[tuple[Kind, ...]] = ("lexical", "dense", "hybrid")


@dataclass(frozen=True, slots=True)
class Topic:
    """A query and the documents that people marked as relevant to it."""

    text: str
    grades: Grades


def ndcg(ranked: Sequence[str], grades: Grades, k: int) -> float:
    """The gain of the first k, discounted by log2(rank + 1), over that of the best order (Järvelin, Kekäläinen 2002).

    >>> round(ndcg(["b", "x", "a"], {"a": 2, "b": 1}, k=10), 3)
    0.76
    """
    return _gain([grades.get(document, 0) for document in ranked[:k]]) / _gain(
        sorted(grades.values(), reverse=True)[:k]
    )


def recall(ranked: Sequence[str], grades: Grades, k: int) -> float:
    """The share of what is relevant that is among the first k.

    >>> recall(["b", "x", "a"], {"a": 2, "b": 1}, k=2)
    0.5
    """
    return sum(document in grades for document in ranked[:k]) / len(grades)


def reciprocal_rank(ranked: Sequence[str], grades: Grades, k: int) -> float:
    """1 / the rank of the first relevant one among the first k, else 0; its mean is the MRR.

    >>> reciprocal_rank(["x", "b", "a"], {"a": 2, "b": 1}, k=10)
    0.5
    """
    return next((1 / rank for rank, document in enumerate(ranked[:k], start=1) if document in grades), 0.0)


def _gain(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


METRICS: Final[dict[str, Callable[[Sequence[str], Grades], float]]] = {
    "nDCG@10": partial(ndcg, k=10),
    "recall@10": partial(recall, k=10),
    "recall@100": partial(recall, k=100),
    "MRR@10": partial(reciprocal_rank, k=10),
}


def read_topics(beir: Path) -> list[Topic]:
    """The queries of a BEIR folder that something is relevant to: `queries.jsonl` and every `qrels/*.tsv`."""
    texts = {str(row.get("_id")): str(row.get("text", "")) for _, row in read_jsonl(beir / "queries.jsonl")}
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for file in sorted((beir / "qrels").glob("*.tsv")):
        for query, document, grade in _judgements(file, texts):
            judged[query][document] = grade
    topics = [Topic(texts[query], grades) for query, grades in judged.items()]
    if not topics:
        raise FileError(
            f"{beir}: no relevant document in qrels/*.tsv (query-id, corpus-id and score, with tabs between)"
        )
    return topics


def _judgements(file: Path, queries: Container[str]) -> Iterator[tuple[str, str, int]]:
    """(query, document, grade) for each line whose grade is above 0; FileError has every bad line."""
    problems: list[str] = []
    for number, line in enumerate(read_text(file).splitlines()[1:], start=2):
        cells = line.split("\t")
        if len(cells) != 3 or not re.fullmatch(r"-?\d+", cells[2]):
            problems.append(f"{file}:{number}: expected query-id, corpus-id and a whole number, with tabs between")
        elif cells[0] not in queries:
            problems.append(f"{file}:{number}: query {cells[0]!r} is not in queries.jsonl")
        elif int(cells[2]) > 0:
            yield cells[0], cells[1], int(cells[2])
    if problems:
        raise FileError("\n".join(problems))


def measure(index: Index, topics: Sequence[Topic]) -> dict[str, dict[str, float]]:
    """Kind of search -> metric -> mean over the topics; a topic for which nothing is found counts 0."""
    known = {passage.document for passage in index.passages}
    if not any(known & topic.grades.keys() for topic in topics):
        raise RetrievalError(
            "the index holds no document that is marked as relevant; was it built from another corpus?"
        )
    return asyncio.run(_measure(index, topics))


async def _measure(index: Index, topics: Sequence[Topic]) -> dict[str, dict[str, float]]:
    k = _passages_for(100, index.passages)
    return {kind: await _means(KINDS[kind](index, k), topics) for kind in MEASURED}


async def _means(retriever: Retriever, topics: Sequence[Topic]) -> dict[str, float]:
    found = await asyncio.gather(*(retriever.search(Query(topic.text)) for topic in topics))
    ranked = [list(dict.fromkeys(hit.passage.document for hit in hits)) for hits in found]
    pairs = list(zip(ranked, (topic.grades for topic in topics), strict=True))
    return {name: fmean(metric(documents, grades) for documents, grades in pairs) for name, metric in METRICS.items()}


def _passages_for(documents: int, passages: Sequence[Passage]) -> int:
    """How many passages always contain this many documents."""
    return documents * max(Counter(passage.document for passage in passages).values())
