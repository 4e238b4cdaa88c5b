"""`sql_tool`: the model writes a query for the question, and answers with what the query gives in view.

Tool use (Schick et al. 2023, 2302.04761) with one tool: a database that the stack names, for reading. Knows nothing of
how the answer is made.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.layout import layout
from serve.passed import Besides, tool_hit
from serve.sql.queries import query_in
from serve.sql.shown import is_value, rows_of, run_on, tables_of
from serve.strategies.kind import Kind, Parts, Strategy, prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlTool(Kind):
    """`of` answers; above what its retriever finds stands what a query on the database gave."""

    kind: Literal["sql_tool"]
    of: str
    """The strategy that answers: another `sql_tool` perhaps, for other tables or questions."""
    database: Path
    """An SQLite file. It is read, never written to."""
    tables: tuple[str, ...] = ()
    """Those that the model is told of; all, unless named."""
    when: str = ""
    """A pattern in questions that the tool is for; others go to `of` as they are. Every question has the empty one."""
    form: str = ""
    """How a value alone is answered without asking `of`, `$value` standing for it, such as {"answer": "$value"}: for a
    model that writes queries better than it reads what they give."""
    instructions: str = ""
    """Instead of `serve/prompts/sql_tool.txt`; `$tables` stands for the tables and their columns."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.when)
        except re.error as error:
            raise ValueError(f"`when` is no regular expression: {error}") from None

    def build(self, parts: Parts) -> Strategy:
        """Notes, where the tool was used, whether its query could be run: the mean is the rate of valid calls."""
        ask, tables = parts.strategy(self.of), tables_of(self.database, self.tables)
        instructions = prompt("sql_tool", self.instructions, tables=tables)

        async def answer(query: Query, retriever: Retriever, model: Model) -> Answer:
            if not re.search(self.when, query.text):
                return await ask(query, retriever, model)
            messages = layout((), query, (), instructions)
            sql = query_in((await model.chat(messages)).text)
            result = await run_on(self.database, sql)
            hits = () if result.error else (tool_hit(self.database.stem, sql, rows_of(result)),)
            if self.form and is_value(result):
                text = Template(self.form).safe_substitute(value=rows_of(result))
                said = Answer(text=text, messages=messages, sources=hits)
            else:
                said = await ask(query, Besides(hits, retriever), model)
            return said.noted(valid_call=float(not result.error))

        return answer
