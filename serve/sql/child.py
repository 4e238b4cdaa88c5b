"""The process that runs queries: one line of JSON in, one out, until the lines end. Only the standard library.

It opens a database as read-only for one statement, which an authorizer allows to read and nothing else. The kernel
holds what SQLite does not: memory, processor time, and that no file grows. Started by `serve.sql.runner`, as a file, so
that it imports nothing of ours. Knows nothing of questions, or of what a result is good for.
"""

import json
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

STEPS: Final = 1_000
"""Steps of SQLite's machine between two looks at the clock."""
GRACE: Final = 1.0
"""Seconds of processor time after which the kernel ends what does not look at the clock, such as one long function."""
READING: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
INWARD: Final = frozenset(
    {
        (sqlite3.SQLITE_UPDATE, "sqlite_master"),
        (sqlite3.SQLITE_PRAGMA, "data_version"),
        (sqlite3.SQLITE_PRAGMA, "page_size"),
    }
)
"""What SQLite asks of itself when it opens json_each or a full-text table. It refuses a statement that would write to
sqlite_master anyway, as the read-only file does. An R-tree asks for more, and cannot be read."""
FORBIDDEN: Final = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
"""Functions that reach beyond the database; `fts3_tokenizer` hands out and takes addresses in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one statement may take."""

    seconds: float = 5.0
    """Of processor time, so that a busy machine changes no result; three times as long by the clock."""
    rows: int = 100_000
    value_bytes: int = 4_000_000
    """Of one text or blob, and of one row while SQLite works on it."""
    result_bytes: int = 32_000_000
    statement_bytes: int = 100_000
    memory_mib: int = 512


class TooMuch(Exception):  # noqa: N818 - a limit that was met, not a mistake of ours
    """A result over a limit; the message says which."""


def run(uri: str, sql: str, limits: Limits) -> Mapping[str, Any]:
    """The columns and rows of one statement, or the error, and whether time ran out."""
    try:
        with closing(opened(uri, limits)) as database:
            columns, rows = fetched(database, sql, limits)
            return {"columns": columns, "rows": rows}
    except MemoryError:
        return {"error": f"needed more than {limits.memory_mib} MiB of memory"}
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            return {"error": f"took more than {limits.seconds:g} s of processor time", "timed_out": True}
        return {"error": str(error)}
    # More than one statement is a Warning in Python 3.11; a NUL, or half a character, cannot be handed to SQLite.
    except (TooMuch, sqlite3.Warning, ValueError) as error:
        return {"error": str(error)}


def opened(uri: str, limits: Limits) -> sqlite3.Connection:
    """The database, closed to everything but reading: a connection for one statement, which finds nothing left over."""
    database = sqlite3.connect(uri, uri=True, isolation_level=None)
    database.text_factory = readable
    database.execute("PRAGMA temp_store = MEMORY")
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.value_bytes)
    database.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, limits.statement_bytes)
    database.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000)  # matching takes length times length
    database.set_authorizer(allowed)
    deadline = time.process_time() + limits.seconds
    database.set_progress_handler(lambda: time.process_time() > deadline, STEPS)
    return database


def allowed(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Whether a statement may do this: reading, and functions of values."""
    if action == sqlite3.SQLITE_FUNCTION:
        safe = str(second).lower() not in FORBIDDEN
    elif action == sqlite3.SQLITE_PRAGMA:
        safe = (action, first) in INWARD and second is None
    else:
        safe = action in READING or (action, first) in INWARD
    return sqlite3.SQLITE_OK if safe else sqlite3.SQLITE_DENY


def fetched(database: sqlite3.Connection, sql: str, limits: Limits) -> tuple[list[str], list[tuple[Any, ...]]]:
    """All rows, unless they are too many or too long."""
    cursor = database.execute(sql)
    if cursor.description is None:
        raise TooMuch("is no query: there is nothing in it to run")
    rows, size = [], 0
    for row in cursor:
        rows.append(row)
        size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
        if len(rows) > limits.rows:
            raise TooMuch(f"gave more than {limits.rows:,} rows")
        if size > limits.result_bytes:
            raise TooMuch(f"gave more than {limits.result_bytes:,} bytes")
    return [column[0] for column in cursor.description], rows


def readable(raw: bytes) -> str:
    """Text that may be no UTF-8: bytes that are none stay apart, and can be printed."""
    return raw.decode("utf-8", "backslashreplace")


def written(value: object) -> Mapping[str, str]:
    """What JSON has no word for: a blob."""
    assert isinstance(value, bytes)
    return {"blob": value.hex()}


def main(words: list[str]) -> int:
    """Take the limits, then run what comes in."""
    limits = Limits(**json.loads(words[0]))
    memory = limits.memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        # Ends this process should nobody be left to do so. No handler of Python's: that would wait for the statement.
        signal.setitimer(signal.ITIMER_PROF, limits.seconds + GRACE)
        try:
            uri, sql = json.loads(line)
            said = json.dumps(run(uri, sql, limits), default=written)
        except MemoryError:
            said = json.dumps({"error": f"needed more than {limits.memory_mib} MiB of memory"})
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(said.encode() + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
