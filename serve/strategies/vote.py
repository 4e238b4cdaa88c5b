"""`vote`: ask several times and give the answer that most agree on.

Knows nothing of what is asked, or of how one answer is made.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.meter import at_once
from serve.sampled import sampled
from serve.strategies.kind import Kind, Parts, Strategy

APART: Final = 1_000
"""Between the seeds of two votes, so that a repeat of the question (a seed further) has votes of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voting(Kind):
    """Self-consistency (Wang et al. 2022, 2203.11171): of `samples` answers, the one most often given."""

    of: str
    """The strategy that answers each time."""
    samples: Annotated[int, Field(ge=2)] = 5
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Above 0: at 0 all answers would be one."""

    async def ballots(self, query: Query, answers: Sequence[Answer]) -> list[str | None]:
        """For each answer what it says, so that two that say the same have the same; None for one that has no vote."""
        raise NotImplementedError

    def build(self, parts: Parts) -> Strategy:
        """Its answer is one of those of `of`, with the share of votes that it had as `confidence`."""
        ask = parts.strategy(self.of)

        async def vote(query: Query, retriever: Retriever, model: Model) -> Answer:
            voters = drawn(model, self.samples, self.temperature)
            answers = await at_once(*(ask(query, retriever, voter) for voter in voters))
            return elected(answers, await self.ballots(query, answers))

        return vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote(Voting):
    """Answers agree when their words do."""

    kind: Literal["vote"]

    async def ballots(self, query: Query, answers: Sequence[Answer]) -> list[str | None]:
        """The words, whatever their case."""
        return [ballot(one) for one in answers]


def drawn(model: Model, samples: int, temperature: float) -> Iterator[Model]:
    """The model, so many times, each with seeds of its own."""
    return (sampled(model, temperature=temperature, ahead=n * APART) for n in range(samples))


def ballot(answer: Answer) -> str:
    """Its words, capitals and spaces apart: what two answers share that say the same."""
    return " ".join(answer.text.casefold().split())


def elected(answers: Sequence[Answer], ballots: Sequence[str | None]) -> Answer:
    """The first answer of those with the commonest ballot; of two as common, and where nobody votes, the first.

    >>> one, two = (Answer(text=text, messages=(), sources=()) for text in ("4", "5"))
    >>> elected([two, one, one], ["5", "4", "4"]).text
    '4'
    >>> elected([two, one], [None, None]).notes
    {'confidence': 0.0}
    """
    counted = Counter(one for one in ballots if one is not None).most_common(1)
    winner, votes = counted[0] if counted else (None, 0)
    return answers[ballots.index(winner)].noted(confidence=votes / len(answers))
