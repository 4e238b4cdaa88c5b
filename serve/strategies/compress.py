"""`compress`: of the passages, only the sentences that share most with the question are shown.

Extractive, by words alone, without a model: the idea of prompt compression (LLMLingua, 2310.05736), none of its means.
Every passage is then a run of sentences that stood together, with its place in its document, so that what is cited and
what is blamed is what was shown. Knows nothing of how the question is answered.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field

from retrieval.passage import Hit, Passage, Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.layout import demonstrations, passages
from serve.passed import Through
from serve.strategies.kind import Kind, Parts, Strategy

SENTENCE: Final = re.compile(r"\S.*?(?:[.!?]+(?=\s)|(?=\n)|\Z)", re.DOTALL)
"""A line is one at least. A rule for prose, which cuts `Dr. Owl` in two."""


class Sentence(NamedTuple):
    """A sentence of a hit."""

    hit: int
    """Which of them, from 0."""
    start: int
    end: int
    words: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compress(Kind):
    """Fewer tokens; whether the answers stay as good is for an evaluation to say."""

    kind: Literal["compress"]
    of: str
    """The strategy that answers from what is left."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of the passages' characters that is shown, or the best sentence where that is more."""

    def build(self, parts: Parts) -> Strategy:
        """Worked examples are left whole."""
        ask = parts.strategy(self.of)

        async def step(query: Query, hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
            return (*compressed(query.text, passages(hits), self.keep), *demonstrations(hits))

        async def compress(query: Query, retriever: Retriever, model: Model) -> Answer:
            return await ask(query, Through(retriever, step), model)

        return compress


def compressed(question: str, hits: tuple[Hit, ...], keep: float) -> tuple[Hit, ...]:
    """The runs of kept sentences, in the order of the hits; the hits as they are when no sentence shares a word.

    A word counts as much as it is rare among the sentences. Of sentences that share as much, the first goes first.
    """
    sentences = [one for place, hit in enumerate(hits) for one in _sentences(place, hit.passage.text)]
    common = Counter(word for one in sentences for word in one.words)
    asked = _words(question)

    def shared(one: Sentence) -> float:
        return sum(log(1 + len(sentences) / common[word]) for word in one.words & asked)

    room = keep * sum(one.end - one.start for one in sentences)
    kept: list[Sentence] = []
    for one in sorted(filter(shared, sentences), key=shared, reverse=True):
        if kept and one.end - one.start > room:
            break
        kept.append(one)
        room -= one.end - one.start
    runs = _runs(set(kept), sentences)
    cut = [(hits[run[0].hit], _cut(hits[run[0].hit].passage, run[0].start, run[-1].end)) for run in runs]
    return tuple(replace(hit, passage=part, rank=rank) for rank, (hit, part) in enumerate(cut, start=1)) or hits


def _runs(kept: set[Sentence], sentences: list[Sentence]) -> Iterator[list[Sentence]]:
    """The kept sentences, those together that stood together."""
    run: list[Sentence] = []
    for one in sentences:
        if run and (one not in kept or one.hit != run[-1].hit):
            yield run
            run = []
        if one in kept:
            run.append(one)
    if run:
        yield run


def _sentences(place: int, text: str) -> Iterator[Sentence]:
    for found in SENTENCE.finditer(text):
        yield Sentence(place, found.start(), found.end(), _words(found[0]))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def _cut(passage: Passage, start: int, end: int) -> Passage:
    """A piece of a passage with its own place; a passage that is no piece of its document keeps the place it claims."""
    text = passage.text[start:end]
    if passage.end - passage.start != len(passage.text):
        return replace(passage, text=text)
    return replace(passage, text=text, start=passage.start + start, end=passage.start + end)
