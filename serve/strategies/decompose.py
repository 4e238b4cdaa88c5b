"""`decompose`: split the question into its parts, answer each on its own, and put the answers together.

Least-to-most prompting (Zhou et al. 2022, 2205.10625) and decomposed prompting (Khot et al. 2022, 2210.02406); the
parts are answered at once, so no part may need the answer to another. Knows nothing of how one part is answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from retrieval.expand import lines
from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.joined import as_json, in_a_row, union
from serve.layout import layout
from serve.meter import at_once
from serve.passed import Given, told
from serve.strategies.kind import Kind, Parts, Strategy, prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Decompose(Kind):
    """The model names the parts; a question with one part is asked as it stands."""

    kind: Literal["decompose"]
    of: str
    """The strategy that answers each part, with passages of its own."""
    then: str | None = None
    """A strategy that answers the whole: the parts and their answers stand before it, above it all their passages."""
    join: str | None = None
    """Instead of `then`: what stands between the answers, for instance " and "."""
    json: str | None = None
    """With `join`: the field that is joined, where answers are JSON objects. Where one is not, the texts are joined."""
    cited: str | None = None
    """With `json`: the field that lists passage numbers."""
    most: Annotated[int, Field(ge=2)] = 4
    """Parts that are answered; what the model names after them is left out."""
    instructions: str = ""
    """How to split, instead of our own words."""

    def __post_init__(self) -> None:
        if (self.then is None) == (self.join is None):
            raise ValueError("`decompose` needs `join` (what stands between the answers) or `then` (a strategy), one")
        if (self.json and self.join is None) or (self.cited and not self.json):
            raise ValueError("`json` goes with `join`, and `cited` with `json`")

    @property
    def strategies(self) -> tuple[str, ...]:
        """The one for the parts, and the one for the whole."""
        return (self.of, self.then) if self.then else (self.of,)

    def build(self, parts: Parts) -> Strategy:
        """Its notes have the number of `parts`."""
        ask = parts.strategy(self.of)
        whole = parts.strategy(self.then) if self.then else None
        instructions = prompt("decompose", self.instructions, n=str(self.most))

        async def decompose(query: Query, retriever: Retriever, model: Model) -> Answer:
            reply = await model.chat(layout((), query, (), instructions))
            asked = lines(reply.text, self.most)
            if len(asked) < 2:
                return (await ask(query, retriever, model)).noted(parts=1.0)
            answers = await at_once(*(ask(replace(query, text=part), retriever, model) for part in asked))
            said = told(query, [(part, answer.text) for part, answer in zip(asked, answers, strict=True)])
            answer = await whole(said, Given(union(answers)), model) if whole else self._joined(said, answers)
            return answer.noted(parts=float(len(asked)))

        return decompose

    def _joined(self, query: Query, answers: Sequence[Answer]) -> Answer:
        """Nobody was sent its prompt: it is what `then` would be, and shows all that the parts' answers rest on."""
        hits = union(answers)
        text = as_json(answers, hits, self.join or "", self.json, self.cited) if self.json else None
        return Answer(
            text=in_a_row(answers, hits, self.join or "") if text is None else text,
            messages=layout((), query, hits),
            sources=hits,
            finish_reason=next((one.finish_reason for one in answers if one.finish_reason != "stop"), "stop"),
        )
