"""`confident`: an answer with its likelihood, as the model itself gives it, for answering only when sure.

Knows nothing of what is done with a confidence: see `fallback`, and `eval`'s selective answering.
"""

import math
from dataclasses import dataclass
from typing import Literal

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model, Reply, ServeError
from serve.heard import Heard
from serve.sampled import asking
from serve.strategies.kind import Kind, Parts, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Confident(Kind):
    """The `confidence` is the geometric mean of the probabilities of the reply's tokens: 1 is sure, whatever is true.

    It orders answers; that 0.8 of those at 0.8 are right is not promised, and tokens of a fixed form count like others.
    """

    kind: Literal["confident"]
    of: str
    """The strategy that answers; of its replies, the last that has the answer in it counts."""

    def build(self, parts: Parts) -> Strategy:
        """The answer of `of` with its confidence."""
        ask = parts.strategy(self.of)

        async def confident(query: Query, retriever: Retriever, model: Model) -> Answer:
            heard = Heard(asking(model, logprobs=True))
            answer = await ask(query, retriever, heard)
            said = [one for one in heard.replies if answer.text in one.text] or heard.replies
            return answer.noted(confidence=likelihood(said[-1]) if said else 0.0)

        return confident


def likelihood(reply: Reply) -> float:
    """The geometric mean of the probabilities of a reply's tokens; 0 for a reply that has none.

    ServeError when the server did not tell them.
    """
    if reply.text and not reply.logprobs:
        raise ServeError("the server tells no log-probabilities (`logprobs`), and `confident` is made of them")
    return math.exp(math.fsum(reply.logprobs) / len(reply.logprobs)) if reply.logprobs else 0.0
