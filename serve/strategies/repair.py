"""`repair`: run the query that was written, and show what went wrong with it to its writer, who tries again.

Self-debugging by execution feedback (Chen et al. 2023, 2304.05128; the talk's "self-consistency check"). Knows nothing
of how a query is written.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Message, Model
from serve.passed import continued
from serve.sql.asked import result_of
from serve.sql.runner import Result
from serve.strategies.kind import Kind, Parts, Strategy, prompt

EMPTY: Final = "it gives no rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair(Kind):
    """`of` writes a query, and writes another after each that fails."""

    kind: Literal["repair"]
    of: str
    """The strategy that writes the query. It is asked again as in a conversation: with its reply and the error below
    the question."""
    databases: Path
    """A folder of SQLite files; a question's `meta.db_id` names one of them."""
    retries: Annotated[int, Field(ge=1)] = 2
    empty_fails: bool = False
    """Whether a query that gives no rows is to be written again; off, because some questions have no rows."""
    instructions: str = ""
    """Instead of `serve/prompts/repair.txt`; `$error` stands for what went wrong."""

    def build(self, parts: Parts) -> Strategy:
        """Notes how often it asked again, and whether the last query still failed."""
        ask = parts.strategy(self.of)

        async def repair(query: Query, retriever: Retriever, model: Model) -> Answer:
            first = answer = await ask(query, retriever, model)
            wrong, retries = self._wrong(await result_of(self.databases, query, answer.text)), 0
            asked = continued(query)
            while wrong and retries < self.retries:
                retries += 1
                note = Message("user", prompt("repair", self.instructions, error=wrong))
                asked = continued(asked, Message("assistant", answer.text), note)
                answer = await ask(asked, retriever, model)
                wrong = self._wrong(await result_of(self.databases, query, answer.text))
            # What the answer rests on is what the first prompt showed: the later ones end in our note.
            return replace(answer, messages=first.messages).noted(retries=retries, error=float(bool(wrong)))

        return repair

    def _wrong(self, result: Result) -> str:
        return result.error or (EMPTY if self.empty_fails and not result.rows else "")
