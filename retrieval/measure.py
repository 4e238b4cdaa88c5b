"""How well named retrievers find what people marked as relevant, and how long each takes, on a BEIR folder.

    python -m retrieval measure out/index/scifact beir/scifact
    python -m retrieval measure out/demo/world/stack.yaml out/demo/world --split test

Through the very retrievers that answer, one question after another. Knows nothing of models, nor of what its numbers
mean (see `metrics` and `comparison`).
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Final

import numpy as np
from pydantic import ConfigDict

from retrieval.files import FileError, model_hash, read_yaml
from retrieval.index import Index, open_index
from retrieval.metrics import METRICS, ranked, scores
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.rerank import locate, open_reranker
from retrieval.retriever import NO_HANDS, Hands, Retriever, open_retriever
from retrieval.settings import Kind, RetrieverSettings
from retrieval.store import Passages
from retrieval.topics import Topic

MEASURED: Final[tuple[Kind, ...]] = ("lexical", "dense", "hybrid")
WARM_UP: Final = ("a question that loads the model", "a second one", "and a third, by which all is at hand")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question, put to one retriever."""

    topic: Topic
    hits: tuple[Hit, ...]
    """In the order of the prompt."""
    seconds: float
    """From the text to the hits, the question's embedding included."""
    scores: Mapping[str, float]
    """Metric -> value."""


@dataclass(frozen=True, slots=True)
class Named:
    """The part of a `stack.yaml` that is measured. Its other keys are another room's affair, and passed over."""

    retrievers: dict[str, RetrieverSettings] = field(default_factory=dict)

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")


def read_named(file: Path, only: Sequence[str] = ()) -> dict[str, RetrieverSettings]:
    """The retrievers of a file, or only these, with paths relative to it; FileError has every problem with its line."""
    found = read_yaml(file, Named).retrievers
    there = ", ".join(found) or "none; name them under `retrievers:`"
    if unknown := [name for name in only if name not in found]:
        raise FileError(f"{file}: there is no retriever {' or '.join(map(repr, unknown))}; there are: {there}")
    if not found:
        raise FileError(f"{file}: no retriever to measure; there are: {there}")
    return {name: found[name].under(file.resolve().parent) for name in only or found}


def kinds_of(index: Path, rerank: Path | None = None, depth: int = 20) -> dict[str, RetrieverSettings]:
    """Each kind of search over an index, with as many passages as hold 100 documents.

    With `rerank`, the folder of a cross-encoder, also hybrid search of which that has read `depth` passages: it finds
    no more than those.
    """
    k = passages_for(100, open_index(index).passages)
    found: dict[str, RetrieverSettings] = {kind: RetrieverSettings(kind=kind, index=index, k=k) for kind in MEASURED}
    if rerank:
        found["reranked"] = RetrieverSettings(kind="hybrid", index=index, k=depth, depth=depth, rerank=rerank)
    return found


def handing_over(settings: RetrieverSettings, k: int) -> RetrieverSettings:
    """The same with another k; where k are chosen from `depth`, that grows where it must."""
    return replace(settings, k=k, depth=settings.depth and max(settings.depth, k))


def passages_for(documents: int, passages: Passages) -> int:
    """How many passages always contain this many documents."""
    return documents * int(np.bincount(passages.owners).max())


def holds_relevant(index: Index, topics: Sequence[Topic]) -> bool:
    """Whether any document that is marked as relevant is in the index."""
    known = {document.id for document in index.passages.each_document()}
    return any(known & topic.grades.keys() for topic in topics)


def measure(
    retrievers: Mapping[str, RetrieverSettings], topics: Sequence[Topic], hands: Hands = NO_HANDS
) -> dict[str, list[Asked]]:
    """Name -> what came of each topic, in their order; a topic for which nothing is found counts like any other.

    RetrievalError where an index or a model cannot be used, or an index holds nothing that is relevant: all of them are
    opened before the first is asked.
    """
    opened = {name: open_retriever(settings, hands) for name, settings in retrievers.items()}
    for name, settings in retrievers.items():
        _check_corpus(name, open_index(settings.index), topics)
    return asyncio.run(_measure(retrievers, opened, topics))


def rows(found: Mapping[str, Sequence[Asked]]) -> Iterator[dict[str, Any]]:
    """A row for each question and retriever, for a file that other programs can read."""
    for name, asked in found.items():
        for one in asked:
            figures = {metric: round(value, 6) for metric, value in one.scores.items()}
            row = {"id": one.topic.id, "retriever": name, **figures, "seconds": round(one.seconds, 6)}
            yield row | {"documents": ranked(one.hits)}


def means(asked: Sequence[Asked]) -> dict[str, float]:
    """Metric -> mean over the questions."""
    return {name: fmean(one.scores[name] for one in asked) for name in METRICS}


async def _measure(
    settings: Mapping[str, RetrieverSettings], opened: Mapping[str, Retriever], topics: Sequence[Topic]
) -> dict[str, list[Asked]]:
    from tqdm import tqdm

    found: dict[str, list[Asked]] = {name: [] for name in opened}
    with tqdm(total=len(opened) * len(topics), unit=" questions", disable=not sys.stderr.isatty()) as bar:
        for name, retriever in opened.items():
            for text in WARM_UP:
                await retriever.search(Query(text, meta=topics[0].meta))
            _forget(settings[name])
            for topic in topics:
                found[name].append(await _ask(retriever, topic))
                bar.update()
    return found


async def _ask(retriever: Retriever, topic: Topic) -> Asked:
    started = time.perf_counter()
    hits = await retriever.search(topic.query)
    seconds = time.perf_counter() - started
    return Asked(topic=topic, hits=hits, seconds=seconds, scores=scores(hits, topic.grades))


def _forget(settings: RetrieverSettings) -> None:
    """What an earlier retriever asked of the same models must not make this one look fast."""
    open_index(settings.index).embedder.question.forget()
    if settings.rerank:
        folder = locate(settings.rerank)
        open_reranker(folder, model_hash(folder)).scores.forget()


def _check_corpus(name: str, index: Index, topics: Sequence[Topic]) -> None:
    if not holds_relevant(index, topics):
        raise RetrievalError(
            f"{name}: its index holds no document that is marked as relevant; was it built from another corpus? "
            "Where it is meant to be, name the retrievers to measure with --only."
        )
