"""How well each kind of search finds what people marked as relevant: nDCG@10, recall, MRR on a BEIR folder.

    python -m retrieval measure out/index/scifact beir/scifact

Ranks documents, each by its best passage, through the very retrievers that answer. Knows nothing of models.
"""

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final

from retrieval.files import FileError, read_jsonl, read_judgements
from retrieval.index import Index
from retrieval.passage import Hit, Passage, Query, RetrievalError
from retrieval.retriever import Retriever
from retrieval.search import KINDS
from retrieval.settings import Kind

Grades = Mapping[str, int]
"""Document -> how relevant it is, for one query; only what is relevant at all."""

MEASURED: Final[tuple[Kind, ...]] = ("lexical", "dense", "hybrid")


@dataclass(frozen=True, slots=True)
class Topic:
    """A query and the documents that people marked as relevant to it."""

    id: str
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


def read_topics(beir: Path, split: str = "") -> list[Topic]:
    """The queries of a BEIR folder that something is relevant to, by `qrels/SPLIT.tsv` or the only file there is."""
    texts = {str(row.get("_id")): str(row.get("text", "")) for _, row in read_jsonl(beir / "queries.jsonl")}
    file = _judgements(beir / "qrels", split)
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for query, document, grade in read_judgements(file, texts):
        if grade > 0:
            judged[query][document] = grade
    if not judged:
        raise FileError(f"{file}: no relevant document (query-id, corpus-id and score, with tabs between)")
    return [Topic(query, texts[query], grades) for query, grades in judged.items()]


def _judgements(folder: Path, split: str) -> Path:
    """The file to measure by. No two are pooled: one of them may be what a model was trained on."""
    files = {file.stem: file for file in sorted(folder.glob("*.tsv"))}
    if split in files:
        return files[split]
    there = ", ".join(files) or "none"
    if split:
        raise FileError(f"{folder}: there are no judgements named {split!r}; there are: {there}")
    if len(files) != 1:
        raise FileError(f"{folder}: name the judgements to measure by with --split; there are: {there}")
    return next(iter(files.values()))


def measure(index: Index, topics: Sequence[Topic], rerank: Retriever | None = None) -> dict[str, dict[str, float]]:
    """Kind of search -> metric -> mean over the topics; a topic for which nothing is found counts 0.

    With `rerank`, also hybrid search that it has put in another order: it finds no more than that reads.
    """
    known = {passage.document for passage in index.passages}
    if not any(known & topic.grades.keys() for topic in topics):
        raise RetrievalError(
            "the index holds no document that is marked as relevant; was it built from another corpus?"
        )
    k = passages_for(100, index.passages)
    retrievers: dict[str, Retriever] = {kind: KINDS[kind](index, k) for kind in MEASURED}
    if rerank:
        retrievers["reranked"] = rerank
    return asyncio.run(_measure(retrievers, topics))


async def _measure(retrievers: Mapping[str, Retriever], topics: Sequence[Topic]) -> dict[str, dict[str, float]]:
    return {name: await _means(retriever, topics) for name, retriever in retrievers.items()}


async def _means(retriever: Retriever, topics: Sequence[Topic]) -> dict[str, float]:
    found = await asyncio.gather(*(retriever.search(Query(topic.text)) for topic in topics))
    rows = [scores(hits, topic.grades) for hits, topic in zip(found, topics, strict=True)]
    return {name: fmean(row[name] for row in rows) for name in METRICS}


def scores(hits: Sequence[Hit], grades: Grades) -> dict[str, float]:
    """Every metric of one search, over documents, each of which stands where its best passage does."""
    documents = list(dict.fromkeys(hit.passage.document for hit in hits))
    return {name: metric(documents, grades) for name, metric in METRICS.items()}


def passages_for(documents: int, passages: Sequence[Passage]) -> int:
    """How many passages always contain this many documents."""
    return documents * max(Counter(passage.document for passage in passages).values())
