"""`best_of`: answer several times, let the model grade each answer against its passages, and give the best.

Knows nothing of what is asked, or of how one answer is made.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.layout import layout, passages
from serve.meter import at_once
from serve.passed import spoken
from serve.strategies.kind import Kind, Parts, Strategy, prompt
from serve.strategies.vote import ballot, drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOf(Kind):
    """Best of n by self-evaluation (Kadavath et al. 2022, 2207.05221): as good as the model is a judge of itself."""

    kind: Literal["best_of"]
    of: str
    """The strategy that answers each time."""
    samples: Annotated[int, Field(ge=1)] = 3
    """1: the answer is only graded, for its `confidence`."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Of the answers; grades are sampled as the stack says."""
    instructions: str = ""
    """How to grade, instead of our own words: the model is to write a number from 0 to 10, or yes or no."""

    def build(self, parts: Parts) -> Strategy:
        """Its notes have the best grade as `confidence`, and how many answers were `different`."""
        ask = parts.strategy(self.of)
        instructions = prompt("best_of", self.instructions)

        async def best_of(query: Query, retriever: Retriever, model: Model) -> Answer:
            async def graded(answer: Answer) -> float:
                shown = replace(query, text=f"{query.text}\n\nAnswer: {answer.text}")
                return grade((await model.chat(layout((), shown, passages(answer.sources), instructions))).text)

            models = drawn(model, self.samples, self.temperature) if self.samples > 1 else (model,)
            answers = await at_once(*(ask(query, retriever, one) for one in models))
            first = {ballot(one): one for one in reversed(answers)}
            # The commonest first: of answers with one grade it is given.
            different = [first[words] for words, _ in Counter(map(ballot, answers)).most_common()]
            grades = await at_once(*(graded(one) for one in different))
            best = max(grades)
            return different[grades.index(best)].noted(confidence=best, different=float(len(different)))

        return best_of


def grade(text: str) -> float:
    """From 0 to 1: the first number from 0 to 10, or the first yes or no; 0 for a reply that has none.

    >>> grade("8/10, since S1 says so."), grade("Yes."), grade("I cannot tell.")
    (0.8, 1.0, 0.0)
    """
    said = re.search(r"\b(?:(10|\d(?:\.\d+)?)(?![\d.]*\d)|(yes)|(no))\b", spoken(text), re.IGNORECASE)
    if not said:
        return 0.0
    return float(said[1]) / 10 if said[1] else float(bool(said[2]))
