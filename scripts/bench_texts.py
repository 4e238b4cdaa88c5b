"""The two benchmarks that start from text: embedding passages, and from a question's text to the rows that are nearest.

Knows nothing of vector stores; `python -m scripts.bench_retrieval` is the door.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from retrieval.embed import PACKAGED, Embedder, locate
from retrieval.files import read_jsonl
from retrieval.vectors import Vectors
from scripts.peers import Matrix, percentile
from scripts.pocket.files import SPLITS, corpus_rows, make_splits, question_rows

WARM: Final = 20
"""Questions before the clock starts."""


@dataclass(frozen=True, slots=True)
class Took:
    """Milliseconds of one question: its embedding, the search, and both with the event loop between them."""

    embedding: float
    search: float
    whole: float


def some_texts(file: Path | None, count: int) -> list[str]:
    """Titles and texts of a corpus.jsonl, or of the demo's world."""
    rows = [row for _, row in read_jsonl(file)] if file else corpus_rows(make_splits(0), 0)
    return [f"{row.get('title', '')}\n{row['text']}".strip() for row in rows[:count]]


def some_questions(file: Path | None, count: int) -> list[str]:
    """Different ones, of a queries.jsonl or of the demo's world: one that was asked before would cost nothing."""
    if file:
        texts = [str(row["text"]) for _, row in read_jsonl(file)]
    else:
        worlds = make_splits(0)
        texts = [row["question"] for split in SPLITS for row in question_rows(split, worlds[split.name], 0)]
    return list(dict.fromkeys(texts))[: count + WARM]


def ask_all(vectors: Vectors, questions: Sequence[str], k: int = 10) -> list[Took]:
    """One after the other, as an index answers: embed, then search in a thread. The first WARM are left out."""
    embedder = Embedder(locate(PACKAGED))

    async def one(question: str) -> Took:
        began = time.perf_counter()
        vector = await embedder.question(question)
        embedded = time.perf_counter()
        await asyncio.to_thread(vectors.search, vector, k)
        found = time.perf_counter()
        return Took((embedded - began) * 1000, (found - embedded) * 1000, (found - began) * 1000)

    async def every() -> list[Took]:
        return [await one(question) for question in questions]

    return asyncio.run(every())[WARM:]


def questions_report(took: Sequence[Took]) -> list[tuple[str, float, float]]:
    """(part, p50, p95) in milliseconds."""
    parts = {name: [getattr(one, name) for one in took] for name in ("embedding", "search", "whole")}
    return [(name, percentile(times, 50), percentile(times, 95)) for name, times in parts.items()]


def agreement(ours: Matrix, theirs: Matrix) -> float:
    """The lowest cosine between two vectors of one text: 1 says that both do the same work."""
    return float(np.min(np.sum(ours * theirs, axis=1)))
