"""`fact_check`: each claim of an answer is held against the passages; what they do not support is blocked.

Claims are sentences, as FActScore (2305.14251) takes an answer apart and CoVe (2309.11495) asks about each part alone.
"""

from dataclasses import dataclass
from typing import Literal

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Message, Model
from serve.layout import passages, titled, user_turn
from serve.meter import at_once
from serve.reading import sentences
from serve.sampled import one_of, sampled
from serve.strategies.checked import Checked
from serve.strategies.kind import Parts, Strategy, prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class FactCheck(Checked):
    """The model itself is asked, greedily, whether the passages support a claim: yes or no.

    What is answered without passages rests on nothing and is blocked unasked.
    """

    kind: Literal["fact_check"]
    instructions: str = ""
    """How to check, instead of our own words; the reply is `yes` or `no`."""

    def build(self, parts: Parts) -> Strategy:
        """The answer of `of`, with the share of its claims that are supported as `confidence`."""
        ask, instructions = parts.strategy(self.of), prompt("fact_check", self.instructions)

        async def fact_check(query: Query, retriever: Retriever, model: Model) -> Answer:
            answer = await ask(query, retriever, model)
            if self.abstains(answer.text):
                return self.judged(answer, [True], claims=0)
            above = titled(passages(answer.sources))
            claims = sentences(query.text, self.value(answer.text)) if above else []
            verifier = one_of(sampled(model, temperature=0.0), ("yes", "no"))
            replies = await at_once(
                *(
                    verifier.chat(
                        (Message("system", instructions), Message("user", user_turn(above, claim, asks="Claim")))
                    )
                    for claim in claims
                )
            )
            said = [reply.text.strip().casefold().startswith("yes") for reply in replies]
            return self.judged(answer, said, claims=len(claims))

        return fact_check
