"""SQL that is right when its result is: run on the database that `meta.db_id` names, and compared with gold's.

    ex_strict    the same columns in the same order, the same rows as often; in order if gold's outermost query orders
    ex_colperm   as strict, but for the order of the columns
    ex_spider    as the official scorer of Spider has it (taoyds/test-suite-sql-eval, one database): DISTINCT is taken
                 out of both, columns stand in any order, and order counts where gold says ORDER BY anywhere
    ex_bird      as BIRD has it: the set of the rows

A query that fails, or takes more than `serve.sql` allows, is wrong; a gold query that does is refused with the task.
Knows nothing of who wrote a query.
"""

import hashlib
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from eval.example import Example
from eval.record import RunError
from eval.scoring.kinds import Kind, Scorer, ScorerSettings
from eval.scoring.reading import reading
from eval.scoring.tables import Same, in_any_order, same_bag, same_rows, same_set
from retrieval.files import file_hash
from serve.chat import ServeError
from serve.sql.queries import is_ordered, query_in, without_distinct
from serve.sql.runner import Result, database_file, runner_of

RIGHT: Final = "right"
WRONG: Final = "wrong result"
NO_QUERY: Final = "no query"
CAUSES: Final = (
    NO_QUERY,
    "no such column",
    "no such table",
    "no such function",
    "ambiguous column",
    "syntax error",
    "incomplete input",
    "misuse of aggregate",
    "not authorized",
    "one statement at a time",
)
"""What is said against a query, as far as it tells kinds of mistakes apart; the words are SQLite's."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How one kind compares."""

    same: Same
    ordered: Callable[[str], bool]
    """Whether the order of the rows counts, by the gold query."""
    rewritten: Callable[[str], str] = str
    """What is run in place of both queries."""
    width_counts: bool = False
    """Whether results without rows can differ, by their number of columns."""


def official(sql: str) -> str:
    """A query as Spider's scorer runs it: without DISTINCT, with operators mended and MySQL's year of 2020."""
    for apart, whole in (("> =", ">="), ("< =", "<="), ("! =", "!=")):
        sql = sql.replace(apart, whole)
    return re.sub(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", "2020", without_distinct(sql), flags=re.IGNORECASE)


RULES: Final[Mapping[Kind, Rules]] = {
    "ex_strict": Rules(same_rows, is_ordered, width_counts=True),
    "ex_colperm": Rules(in_any_order(same_rows), is_ordered, width_counts=True),
    "ex_spider": Rules(in_any_order(same_bag), lambda gold: "order by" in gold.lower(), official),
    "ex_bird": Rules(same_set, lambda gold: False),
}


def execution(settings: ScorerSettings) -> Scorer:
    """1 when the query gives what a gold query gives."""
    why = verdict(settings)
    return lambda example, text, _: float(why(example, text) == RIGHT)


def verdict(settings: ScorerSettings) -> Callable[[Example, str], str]:
    """What became of a reply, in a few words: RIGHT, WRONG, or what was wrong with its query.

    ValueError when there is no folder of databases.
    """
    rules, folder = RULES[settings.kind], _folder(settings)
    said = queries_of(settings)

    def why(example: Example, text: str) -> str:
        found = Result(error=NO_QUERY)
        for query in said(text):
            found = _said_result(folder, example.meta["db_id"], rules.rewritten(query))
            if not found.error or found.timed_out:
                break
        if found.error:
            return cause(found)
        return RIGHT if any(_agrees(rules, folder, example, gold, found) for gold in example.answers) else WRONG

    return why


def queries_of(settings: ScorerSettings) -> Callable[[str], list[str]]:
    """What may be the query. Strict: the reply, or its field, and nothing else. Loose: that, or else what is in it."""
    said = reading(settings)
    forms = (str.strip, query_in) if settings.loose else (str.strip,)
    return lambda text: [query for form in forms if (query := form(said(text) or ""))]


def cause(result: Result) -> str:
    """What kind of error it is."""
    if result.timed_out:
        return "timeout"
    return next((known for known in CAUSES if known in result.error), "other error")


def holds_query(settings: ScorerSettings, example: Example) -> None:
    """ValueError when the example names no database, or a gold query of it does not run."""
    if not isinstance(example.meta.get("db_id"), str):
        raise ValueError(f"`meta.db_id` does not name a database, on which {settings.kind} could run anything")
    if not example.answers:
        raise ValueError(f"`answers` is empty, so there is no gold query for {settings.kind}")
    for gold in example.answers:
        try:
            found = _gold_result(_folder(settings), example.meta["db_id"], RULES[settings.kind].rewritten(gold))
        except ServeError as error:
            raise ValueError(str(error)) from None
        if found.error:
            raise ValueError(f"the gold query {gold!r} does not run on {example.meta['db_id']}: {found.error}")


def vacuous(settings: ScorerSettings, examples: Sequence[Example]) -> list[str]:
    """The examples whose gold queries give no row: there any query that gives none is right."""
    rewritten, folder = RULES[settings.kind].rewritten, _folder(settings)
    return [
        one.id
        for one in examples
        if not any(_gold_result(folder, one.meta["db_id"], rewritten(gold)).rows for gold in one.answers)
    ]


def execution_signature(settings: ScorerSettings, examples: Sequence[Example]) -> str:
    """What its scores depend on: SQLite, and what is in the databases; and how many of them say little."""
    folder = _folder(settings)
    used = [database_file(folder, name) for name in sorted({one.meta["db_id"] for one in examples})]
    content = hashlib.sha256("".join(_content(file, file.stat().st_mtime_ns) for file in used).encode()).hexdigest()
    empty = f"vacuous:{len(vacuous(settings, examples))} of {len(examples)}"
    return f"sqlite:{sqlite3.sqlite_version}|databases:{content[:16]}|{empty}"


def _agrees(rules: Rules, folder: Path, example: Example, gold: str, found: Result) -> bool:
    wanted = rules.rewritten(gold)
    expected = _gold_result(folder, example.meta["db_id"], wanted)
    if expected.error:
        raise RunError(f"the gold query {gold!r} of example {example.id!r} does not run: {expected.error}")
    if rules.width_counts and len(expected.columns) != len(found.columns):
        return False
    return rules.same(expected.rows, found.rows, rules.ordered(wanted))


def _folder(settings: ScorerSettings) -> Path:
    if settings.databases is None or not settings.databases.is_dir():
        raise ValueError(f"{settings.databases}: there is no such folder, and `databases` is one of SQLite files")
    return settings.databases


@cache
def _gold_result(folder: Path, database: str, sql: str) -> Result:
    """Run once, however many combinations are compared with it."""
    return runner_of(folder).run_now(database, sql)


@lru_cache(maxsize=64)
def _said_result(folder: Path, database: str, sql: str) -> Result:
    """The scorers of a task look at a reply one after the other."""
    return runner_of(folder).run_now(database, sql)


@lru_cache(maxsize=1024)
def _content(file: Path, _: int) -> str:
    return file_hash(file)
