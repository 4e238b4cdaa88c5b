"""`summarise`: long passages are told in short before they are read, and what is told in short again, until it fits.

Recursive summarisation (Wu et al. 2021, 2109.10862), of each passage alone, with the question in view. Knows nothing of
how the question is answered.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from retrieval.chunking import spans
from retrieval.passage import Hit, Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.layout import demonstrations, layout, passages
from serve.meter import at_once
from serve.passed import Through, spoken
from serve.strategies.kind import Kind, Parts, Strategy, prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Summarise(Kind):
    """For retrievers that find more than a prompt should hold; a passage that fits stays word for word."""

    kind: Literal["summarise"]
    of: str
    """The strategy that answers from the summaries."""
    to: Annotated[int, Field(ge=1)] = 600
    """Characters of a passage that may be shown."""
    at_once: Annotated[int, Field(ge=1)] = 4_000
    """Characters that the model reads in one call."""
    instructions: str = ""
    """How to summarise, instead of our own words."""

    def build(self, parts: Parts) -> Strategy:
        """Worked examples are left whole."""
        ask = parts.strategy(self.of)
        instructions = prompt("summarise", self.instructions, words=str(max(1, self.to // 8)))

        async def summarise(query: Query, retriever: Retriever, model: Model) -> Answer:
            async def step(query: Query, hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
                told = await at_once(*(self._told(query, hit, model, instructions) for hit in passages(hits)))
                return (*told, *demonstrations(hits))

            return await ask(query, Through(retriever, step), model)

        return summarise

    async def _told(self, query: Query, hit: Hit, model: Model, instructions: str) -> Hit:
        """The hit, told in short: it then claims no characters of its document, since it shows none.

        Stops where the model makes it no shorter.
        """

        async def summary(piece: str) -> str:
            part = replace(hit, passage=replace(hit.passage, text=piece))
            return spoken((await model.chat(layout((), query, (part,), instructions))).text)

        text = hit.passage.text
        while len(text) > self.to:
            pieces = [text[start:end] for start, end in spans(text, self.at_once, 0)]
            shorter = "\n".join(await at_once(*map(summary, pieces))).strip()
            if not 0 < len(shorter) < len(text):
                break
            text = shorter
        if text == hit.passage.text:
            return hit
        return replace(hit, passage=replace(hit.passage, text=text, end=hit.passage.start))
