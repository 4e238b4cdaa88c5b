"""Which share of hybrid search's score should be the dense one's: chosen on judged questions, measured on others.

    python -m retrieval tune out/index/demo out/demo/world --split dev

The weight is chosen by nDCG@10 among 0, 0.05 ... 1. In turn each fold is measured with the weight chosen on the other
folds, so no question is measured with a weight that it helped to choose (cross-fitting). Knows nothing of models.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any, Final

import numpy as np

from retrieval.comparison import p_text
from retrieval.index import Index
from retrieval.measure import holds_relevant, passages_for
from retrieval.metrics import judged
from retrieval.passage import RetrievalError
from retrieval.ranking import Ranking, Scores, convex, fuse
from retrieval.search import DEPTH
from retrieval.stats import Difference, Estimate, holm, known, mean, paired
from retrieval.topics import Topic, folds

WEIGHTS: Final = tuple(n / 20 for n in range(21))
METRIC: Final = "nDCG@10"
FITTED: Final = "convex, cross-fitted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What either search finds for one topic, with the scores of both."""

    topic: Topic
    documents: tuple[str, ...]
    """The document of each candidate passage."""
    dense: Scores
    lexical: Scores
    untuned: Mapping[str, tuple[str, ...]]
    """Ways that have no weight -> the documents that they find, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The weight to use, and what one chosen like it is worth on questions that it was not chosen on."""

    questions: int
    weight: float
    """The best on all questions."""
    flattered: float
    """Its mean there: too good, since they chose it."""
    chosen: tuple[float, ...]
    """The weight of each fold, chosen on the others."""
    means: Mapping[str, Estimate]
    """Way -> nDCG@10; the last is the cross-fitted one."""
    differences: Mapping[str, Difference]
    """Way without a weight -> how much higher the cross-fitted one is."""

    @property
    def p_holm(self) -> dict[str, float]:
        """Way without a weight -> p, corrected for all of them."""
        return dict(zip(self.differences, holm([one.p for one in self.differences.values()]), strict=True))


def tune(index: Index, topics: Sequence[Topic], count: int) -> Tuned:
    """Choose the weight of hybrid search over this index; FileError when there are too few topics for so many folds."""
    parts = folds(topics, count)
    if not holds_relevant(index, topics):
        raise RetrievalError(
            "the index holds no document that is marked as relevant; was it built from another corpus?"
        )
    return crossfit(asyncio.run(_candidates(index, topics)), parts)


def crossfit(found: Sequence[Candidates], parts: Sequence[Sequence[Topic]]) -> Tuned:
    """The same of candidates that are there. Pure: each weight costs an addition and a sort."""
    by_weight = {weight: _values(found, partial(_convex, weight=weight)) for weight in WEIGHTS}
    ways = {way: _values(found, partial(_untuned, way=way)) for way in found[0].untuned}
    everything = [one.topic.id for one in found]
    chosen, fitted = [], {}
    for part in parts:
        held_out = {topic.id for topic in part}
        weight = _best(by_weight, [topic for topic in everything if topic not in held_out])
        chosen.append(weight)
        fitted.update({topic: by_weight[weight][topic] for topic in held_out})
    ways[FITTED] = fitted
    columns = {way: [values[topic] for topic in everything] for way, values in ways.items()}
    weight = _best(by_weight, everything)
    return Tuned(
        questions=len(everything),
        weight=weight,
        flattered=fmean(by_weight[weight].values()),
        chosen=tuple(chosen),
        means={way: mean(column) for way, column in columns.items()},
        differences={way: paired(columns[FITTED], column) for way, column in columns.items() if way != FITTED},
    )


def lines_of(tuned: Tuned) -> Iterator[str]:
    """What a person reads; the last line says what to write where."""
    yield f"{tuned.questions} queries".ljust(24) + f"{METRIC}     95% interval"
    for way, estimate in tuned.means.items():
        yield way.ljust(24) + f"{estimate.value:.4f}      {estimate.low:.4f} to {estimate.high:.4f}"
    yield f"{FITTED}, against".ljust(34) + "difference      95% interval   p (Holm)  better  worse"
    for way, one in tuned.differences.items():
        interval = f"{one.estimate.low:+.4f} to {one.estimate.high:+.4f}"
        value, p = f"{one.estimate.value:+.4f}", p_text(tuned.p_holm[way])
        yield f"{way:34}{value:>10}{interval:>20}{p:>11}{one.gained:8}{one.lost:7}"
    each = " ".join(f"{weight:.2f}" for weight in tuned.chosen)
    yield f"Chosen fold by fold, each on the others: {each}."
    if set(tuned.chosen) == {tuned.weight}:
        yield f"The same is best on all {tuned.questions} questions."
    else:
        yield (
            f"On all {tuned.questions} questions {tuned.weight:.2f} is best, with {tuned.flattered:.4f}: flattered, "
            "since these questions chose it; the cross-fitted figure is what to expect."
        )
    yield f"Next: write `weight: {tuned.weight:g}` into the hybrid retriever of stack.yaml."


def plain(tuned: Tuned) -> dict[str, Any]:
    """The same for programs."""
    differences = {
        way: known({**asdict(one.estimate), "p": one.p, "p_holm": tuned.p_holm[way]})
        for way, one in tuned.differences.items()
    }
    return {
        "queries": tuned.questions,
        "metric": METRIC,
        "weight": tuned.weight,
        "flattered": tuned.flattered,
        "chosen": list(tuned.chosen),
        "means": {way: known(asdict(one)) for way, one in tuned.means.items()},
        "differences": differences,
    }


async def _candidates(index: Index, topics: Sequence[Topic]) -> list[Candidates]:
    from tqdm import tqdm

    bar = tqdm(topics, unit=" questions", disable=not sys.stderr.isatty())
    return [await _candidates_of(index, topic) for topic in bar]


async def _candidates_of(index: Index, topic: Topic) -> Candidates:
    """Both searches, as far down as hybrid search looks for ten documents."""
    k = passages_for(10, index.passages)
    depth = max(DEPTH, 2 * k)
    dense, lexical = await asyncio.gather(index.nearest(topic.query, depth), index.matching(topic.query, depth))
    rows = np.unique([row for row, _ in (*dense, *lexical)]).astype(np.int64)

    def documents(ranking: Ranking) -> tuple[str, ...]:
        return tuple(dict.fromkeys(index.passages[row].document for row, _ in ranking))

    near, matching = await index.scores(topic.query, rows)
    return Candidates(
        topic=topic,
        documents=tuple(index.passages[row].document for row in rows),
        dense=near,
        lexical=matching,
        untuned={
            "lexical": documents(lexical),
            "dense": documents(dense),
            "rrf": documents(fuse((dense, lexical), depth)),
        },
    )


def _convex(one: Candidates, weight: float) -> tuple[str, ...]:
    ranking = convex(one.dense, one.lexical, weight, len(one.documents))
    return tuple(dict.fromkeys(one.documents[row] for row, _ in ranking))


def _untuned(one: Candidates, way: str) -> tuple[str, ...]:
    return one.untuned[way]


def _values(found: Sequence[Candidates], documents: Callable[[Candidates], Sequence[str]]) -> dict[str, float]:
    """Topic -> nDCG@10."""
    rows = judged({one.topic.id: documents(one) for one in found}, {one.topic.id: one.topic.grades for one in found})
    return {topic: row[METRIC] for topic, row in rows.items()}


def _best(by_weight: Mapping[float, Mapping[str, float]], topics: Sequence[str]) -> float:
    """The weight with the highest mean on these; of equals the smallest."""
    return max(by_weight, key=lambda weight: fmean(by_weight[weight][topic] for topic in topics))
