"""The query in a reply, run on the database that its question names. Knows nothing of who wrote it, or why."""

from pathlib import Path

from retrieval.passage import Query
from serve.chat import ServeError
from serve.sql.queries import query_in
from serve.sql.runner import Result, runner_of


async def result_of(databases: Path, query: Query, reply: str) -> Result:
    """What the reply's query gives; ServeError when the question names no database of the folder."""
    name = query.meta.get("db_id")
    if not isinstance(name, str):
        raise ServeError("the question names no database: put its name into `meta.db_id`")
    sql = query_in(reply)
    return await runner_of(databases).run(name, sql) if sql else Result(error="there is no query in the reply")
