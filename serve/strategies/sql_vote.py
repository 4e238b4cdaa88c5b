"""`sql_vote`: ask for a query several times, and give one whose result most agree on.

Two queries may be written otherwise and say the same. Knows nothing of how one query is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrieval.passage import Query
from serve.chat import Answer
from serve.meter import at_once
from serve.sql.asked import result_of
from serve.sql.queries import is_ordered, query_in
from serve.strategies.vote import Voting


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlVote(Voting):
    """Answers agree when their queries give the same rows; one that cannot be run has no vote."""

    kind: Literal["sql_vote"]
    databases: Path
    """A folder of SQLite files; a question's `meta.db_id` names one of them."""

    async def ballots(self, query: Query, answers: Sequence[Answer]) -> list[str | None]:
        """The rows: in their order where the query asks for one, else in any."""
        return await at_once(*(self._ballot(query, one.text) for one in answers))

    async def _ballot(self, query: Query, text: str) -> str | None:
        result = await result_of(self.databases, query, text)
        rows = list(map(repr, result.rows))
        if result.error:
            return None
        return "\n".join(["in this order:", *rows] if is_ordered(query_in(text)) else sorted(rows))
