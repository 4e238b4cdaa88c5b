"""`arithmetic`: the model writes calculations, and a program works them out.

Program-aided answers (Gao et al. 2022, 2211.10435), with arithmetic in place of a programming language. Knows nothing
of how the answer is made.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.arithmetic import ArithmeticMistake, value
from serve.chat import Answer, Model
from serve.layout import instructed
from serve.strategies.kind import Kind, Parts, Strategy, prompt

CALCULATION: Final = re.compile(r"<<([^<>=\n]{1,500})(?:=[^<>\n]*)?>>")
"""`<<48/2>>`, or `<<48/2=24>>` as in GSM8K: what the model says it is worth is not believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic(Kind):
    """`of` answers with calculations in `<<` and `>>`; each is replaced by its value."""

    kind: Literal["arithmetic"]
    of: str
    """The strategy that answers; it is told how to write calculations before its own instructions."""
    instructions: str = ""
    """Instead of `serve/prompts/arithmetic.txt`."""

    def build(self, parts: Parts) -> Strategy:
        """Notes how many calculations there were, and how many had no value: those stand as they were written."""
        ask = parts.strategy(self.of)

        async def calculate(query: Query, retriever: Retriever, model: Model) -> Answer:
            answer = await ask(instructed(query, prompt("arithmetic", self.instructions)), retriever, model)
            text, calculations, mistakes = worked_out(answer.text)
            return answer.saying(text).noted(calculations=calculations, mistakes=mistakes)

        return calculate


def worked_out(text: str) -> tuple[str, int, int]:
    """The text with each calculation replaced by its value, how many there were, and how many have none.

    >>> worked_out("<<48/2=25>> in May, <<48/0>> in June")
    ('24 in May, <<48/0>> in June', 2, 1)
    """
    mistakes = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal mistakes
        try:
            return str(value(found[1]))
        except ArithmeticMistake:
            mistakes += 1
            return found[0]

    text, calculations = CALCULATION.subn(replaced, text)
    return text, calculations, mistakes
