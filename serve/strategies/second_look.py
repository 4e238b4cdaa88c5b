"""`second_look`: an answer, and then once more: did you miss anything? What the model then says is the answer.

Self-Refine (Madaan et al. 2023, 2303.17651) with one round, and without a critique of its own.
Knows nothing of how the first answer is made.
"""

from dataclasses import dataclass, replace
from typing import Literal

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Message, Model
from serve.passed import spoken
from serve.strategies.kind import Kind, Parts, Strategy, prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondLook(Kind):
    """The whole answer is written again; where the model writes nothing, the first stands."""

    kind: Literal["second_look"]
    of: str
    """The strategy that answers first."""
    instructions: str = ""
    """What is asked then, instead of our own words."""

    def build(self, parts: Parts) -> Strategy:
        """Its notes say whether the answer has `changed`."""
        ask = parts.strategy(self.of)
        again = Message("user", prompt("second_look", self.instructions))

        async def second_look(query: Query, retriever: Retriever, model: Model) -> Answer:
            first = await ask(query, retriever, model)
            reply = await model.chat((*first.messages, Message("assistant", first.text), again))
            text = spoken(reply.text) or first.text
            # Its prompt stays that of the first call: the last that showed passages, above the question.
            answer = replace(first.saying(text), finish_reason=reply.finish_reason)
            return answer.noted(changed=float(text != first.text))

        return second_look
