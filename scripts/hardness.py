"""What a gold query says of its question: which tables it reads, and how hard it is.

The levels are Spider's (Yu et al. 2018), by the criteria that its authors describe: how many clauses, how many
subqueries, how many things of a kind beyond the first. Pure; sqlglot reads the SQL. Knows nothing of databases.
"""

import re
from collections.abc import Iterator
from typing import Final

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

UNREADABLE: Final = "unreadable"
"""The level of what is no SQL."""
WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")


def words_of(name: str) -> list[str]:
    """The words of a sentence, or of a name, none twice.

    >>> words_of("Song_release_year"), words_of("petTypeID")
    (['Song', 'release', 'year'], ['pet', 'Type', 'ID'])
    """
    return list(dict.fromkeys(WORD.findall(name)))


def tables_of(sql: str) -> tuple[str, ...]:
    """The tables that a query reads, in small letters, none twice; none where it is no SQL.

    >>> tables_of("SELECT a FROM Singer AS t JOIN concert ON t.id = concert.id WHERE b IN (SELECT c FROM stadium)")
    ('singer', 'concert', 'stadium')
    """
    query = _parsed(sql)
    if query is None:
        return ()
    named = {cte.alias.lower() for cte in query.find_all(exp.CTE)}
    found = dict.fromkeys(table.name.lower() for table in query.find_all(exp.Table, bfs=False))
    return tuple(name for name in found if name not in named)


def hardness(sql: str) -> str:
    """easy, medium, hard or extra.

    >>> hardness("SELECT count(*) FROM singer"), hardness("SELECT a FROM b WHERE c > 1 GROUP BY a")
    ('easy', 'medium')
    >>> hardness("SELECT a FROM b WHERE c NOT IN (SELECT d FROM e)")
    'hard'
    """
    query = _parsed(sql)
    if query is None:
        return UNREADABLE
    first = _first(query)
    clauses, nested, more = _clauses(first), _nested(query, first), _more(first)
    if clauses <= 1 and not more and not nested:
        return "easy"
    if not nested and ((more <= 2 and clauses <= 1) or (clauses <= 2 and more < 2)):
        return "medium"
    if not nested and ((more > 2 and clauses <= 2) or (clauses == 3 and more <= 2)):
        return "hard"
    return "hard" if clauses <= 1 and not more and nested <= 1 else "extra"


def _parsed(sql: str) -> exp.Query | None:
    try:
        query = parse_one(sql, dialect="sqlite")
    except SqlglotError:
        return None
    return query if isinstance(query, exp.Query) else None


def _first(query: exp.Query) -> exp.Select:
    """The select that counts: of a union, an intersection or a difference, the first."""
    while not isinstance(query, exp.Select):
        query = query.this
    return query


def _clauses(select: exp.Select) -> int:
    """where, group by, order by, limit, and one for each join, each `or` and each `like`."""
    keys = sum(select.args.get(key) is not None for key in ("where", "group", "order", "limit"))
    joins = len(select.args.get("joins") or ())
    conditions = [one for one in _own(select) if isinstance(one, exp.Or | exp.Like)]
    return keys + joins + len(conditions)


def _nested(query: exp.Query, first: exp.Select) -> int:
    """Queries in the conditions of the first, or set beside it; how deep these go says nothing."""
    beside = 0 if query is first else 1
    inside = [
        one
        for one in first.find_all(exp.Select, exp.SetOperation)
        if one.parent_select is first
        and not isinstance(one.parent, exp.SetOperation)
        and not one.find_ancestor(exp.From)
    ]
    return beside + len(inside)


def _more(select: exp.Select) -> int:
    """How many of these there are more than one of: aggregates (outside of having), columns, conditions, groups."""
    own = list(_own(select))
    where = select.args.get("where")
    group = select.args.get("group")
    conditions = 1 + sum(isinstance(one, exp.And | exp.Or) and bool(one.find_ancestor(exp.Where)) for one in own)
    counts = (
        sum(isinstance(one, exp.AggFunc) and not one.find_ancestor(exp.Having) for one in own),
        len(select.expressions),
        conditions if where else 0,
        len(group.expressions) if group else 0,
    )
    return sum(count > 1 for count in counts)


def _own(select: exp.Select) -> Iterator[exp.Expression]:
    """What belongs to this select and to no query inside it."""
    yield from (one for one in select.walk() if one is not select and one.parent_select is select)
