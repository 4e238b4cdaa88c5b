"""`chain` and `scratchpad`: the model works towards the answer in calls of their own, each knowing what came before.

A chain has the user's steps. A scratchpad has one, ours, and hides it. Neither is `cot`, which thinks and answers in
one call: here the last call is any other strategy, in its own format, and reads what the calls before it said.
Knows nothing of what the steps are about.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from retrieval.passage import Hit, Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Conversation, Model
from serve.layout import layout, passages
from serve.passed import Given, spoken, told
from serve.strategies.kind import Kind, Parts, Strategy, prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain(Kind):
    """Prompt chaining: each step reads the passages, the question, and the steps before it with their replies.

    Staged chain of thought for SQL (DIN-SQL, 2304.11015) is one: `steps` that ask for the tables and the columns, and
    an `of` that writes the query.
    """

    kind: Literal["chain"]
    of: str
    """The strategy that answers in the end."""
    steps: Annotated[tuple[str, ...], Field(min_length=1)]
    """What the model is told in each step."""

    def build(self, parts: Parts) -> Strategy:
        """Passages are searched once."""
        ask = parts.strategy(self.of)

        async def chain(query: Query, retriever: Retriever, model: Model) -> Answer:
            hits = await retriever.search(query)
            for step in self.steps:
                query = await worked(step.strip(), query, hits, model)
            return await ask(query, Given(hits), model)

        return chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratchpad(Kind):
    """The model works out a solution of its own, which `of` reads before it answers, and nobody else.

    What `of` thinks before `</think>` is hidden too.
    """

    kind: Literal["scratchpad"]
    of: str
    """The strategy that answers."""
    instructions: str = ""
    """How to work, instead of our own words."""

    def build(self, parts: Parts) -> Strategy:
        """Its notes have the number of `hidden` words."""
        ask = parts.strategy(self.of)
        instructions = prompt("scratchpad", self.instructions)

        async def scratchpad(query: Query, retriever: Retriever, model: Model) -> Answer:
            hits = await retriever.search(query)
            after = await worked(instructions, query, hits, model)
            answer = await ask(after, Given(hits), model)
            text = spoken(answer.text)
            hidden = len(after.before[-1].content.split()) + len(answer.text.split()) - len(text.split())
            return answer.saying(text).noted(hidden=float(hidden))

        return scratchpad


async def worked(step: str, query: Query, hits: tuple[Hit, ...], model: Model) -> Conversation:
    """The question after one more step and what the model said to it. Worked examples show answers, and are no help."""
    reply = await model.chat(layout((), query, passages(hits), step))
    return told(query, [(step, spoken(reply.text))])
