"""`intent`: the model names the kind of a question, and each kind is answered in a way of its own.

Knows nothing of what the kinds mean, or of how any is answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.layout import layout
from serve.passed import spoken
from serve.sampled import one_of
from serve.strategies.kind import Kind, Parts, Strategy, prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent(Kind):
    """The question is classified from its words and the turns before it, without passages."""

    kind: Literal["intent"]
    routes: Annotated[Mapping[str, str], Field(min_length=2)]
    """Label -> the strategy that answers such questions."""
    fallback: str
    """The strategy for a question whose label the model does not name."""
    instructions: str = ""
    """How to classify, instead of our own words; it should name the labels."""

    @property
    def strategies(self) -> tuple[str, ...]:
        """Those of the routes, and the fallback."""
        return tuple(dict.fromkeys((*self.routes.values(), self.fallback)))

    def build(self, parts: Parts) -> Strategy:
        """Its notes say whether the question was `routed`; the label is its first step."""
        routes = {label: parts.strategy(name) for label, name in self.routes.items()}
        otherwise = parts.strategy(self.fallback)
        instructions = prompt("intent", self.instructions, labels=", ".join(routes))

        async def intent(query: Query, retriever: Retriever, model: Model) -> Answer:
            reply = await one_of(model, tuple(routes)).chat(layout((), query, (), instructions))
            label = named(reply.text, tuple(routes))
            answer = await (routes[label] if label else otherwise)(query, retriever, model)
            return answer.noted(routed=float(bool(label)))

        return intent


def named(text: str, labels: tuple[str, ...]) -> str:
    """The label that the text is, quotes, a full stop and capitals apart; nothing when it is none.

    >>> named('"Billing".', ("billing", "repair")), named("It could be billing or repair.", ("billing", "repair"))
    ('billing', '')
    """
    said = spoken(text).strip(" \n\"'`.*").casefold()
    return next((label for label in labels if label.casefold() == said), "")
