"""One database file in words that a model reads: its tables, and what a query gave. Knows nothing of prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from retrieval.databases import always_quoted
from retrieval.files import FileError
from serve.chat import ServeError
from serve.sql.runner import Result, runner_of

ROWS: Final = 20
"""The most rows of a result that are shown: what is longer is no answer."""
TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid"


async def run_on(file: Path, sql: str) -> Result:
    """What one read-only statement gives on this database."""
    return await runner_of(file.parent).run(file.stem, sql)


def tables_of(file: Path, only: Sequence[str] = ()) -> str:
    """Its tables, or those that are named, as `Table: vessels(name, port)`, one a line; FileError without them."""
    there = [str(name) for (name,) in _read(file, TABLES).rows]
    if missing := [name for name in only if name not in there]:
        raise FileError(f"{file}: has no table {missing[0]!r}; there is: {', '.join(there) or 'none'}")
    columns = {name: _read(file, f"SELECT * FROM {always_quoted(name)} LIMIT 0").columns for name in only or there}
    return "\n".join(f"Table: {name}({', '.join(some)})" for name, some in columns.items())


def rows_of(result: Result) -> str:
    """A value alone as it is; else the columns, and below them the first rows.

    >>> rows_of(Result(columns=("COUNT(*)",), rows=((3,),)))
    '3'
    >>> print(rows_of(Result(columns=("name", "port"), rows=(("Varn", "Tarn"), ("Odo", None)))))
    name | port
    Varn | Tarn
    Odo | NULL
    """
    if not result.rows:
        return "no rows"
    if is_value(result):
        return _word(result.rows[0][0])
    rows = [" | ".join(map(_word, row)) for row in (result.columns, *result.rows[:ROWS])]
    more = len(result.rows) - ROWS
    return "\n".join([*rows, f"and {more:,} more rows"] if more > 0 else rows)


def is_value(result: Result) -> bool:
    """Whether it is one value alone, as of a count."""
    return len(result.rows) == len(result.columns) == 1


def _word(value: object) -> str:
    return "NULL" if value is None else str(value)


def _read(file: Path, sql: str) -> Result:
    try:
        result = runner_of(file.parent).run_now(file.stem, sql)
    except ServeError as error:
        raise FileError(str(error)) from None
    if result.error:
        raise FileError(f"{file}: cannot be read as a database: {result.error}")
    return result
