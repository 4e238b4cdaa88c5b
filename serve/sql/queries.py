"""SQL as text: the query in a reply, and the two things that rules of comparison ask of a query. Nothing is parsed.

What stands in quotes and comments is stepped over; nothing else is needed, because in SQLite every ORDER BY but the
outermost stands in brackets. Knows nothing of databases.
"""

import re
from typing import Final

QUOTED: Final = r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]"
COMMENT: Final = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
ASIDE: Final = re.compile(f"{QUOTED}|{COMMENT}", re.DOTALL)
DISTINCT: Final = re.compile(rf"({QUOTED}|{COMMENT})|\bdistinct\b", re.DOTALL | re.IGNORECASE)
ORDER_BY: Final = re.compile(r"\border\s+by\b", re.IGNORECASE)
BRACKETS: Final = re.compile(r"\([^()]*\)")

FENCE: Final = re.compile(r"```[ \t]*(?:sql\w*|\w+[ \t]*\n)?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
QUERY: Final = r"(?:select\b|values\s*\(|with\s+(?:recursive\s+)?[\w\"`]+\s*(?:\([^)]*\)\s*)?as\b)"
"""How a query begins, and "With this query we ..." does not."""
LABEL: Final = re.compile(rf"(?:answer|sql|query)\b[*`\s]*:[*`\s]*(?={QUERY})", re.IGNORECASE)
BEGINS: Final = re.compile(rf"^\W*?\b(?={QUERY})", re.IGNORECASE | re.MULTILINE)
STATEMENT: Final = re.compile(rf"(?:{QUOTED}|{COMMENT}|[^;])*+", re.DOTALL)


def query_in(text: str) -> str:
    """The query in a reply that says more: after the thoughts, in the last code block, after the last label, or else
    from the first line that begins as a query does, up to an empty line; and of several statements the first. Empty
    when there is none.

    >>> query_in("I count.\\n```sql\\nSELECT count(*) FROM singer;\\n```\\nThis counts them.")
    'SELECT count(*) FROM singer'
    >>> query_in("<think>SELECT 1?</think>Answer: SELECT name FROM singer; it is short.")
    'SELECT name FROM singer'
    """
    _, _, said = text.rpartition("</think>")
    blocks = [block for block in FENCE.findall(said) if BEGINS.search(block)]
    if blocks:
        found = blocks[-1]
    elif begin := next(iter([*LABEL.finditer(said)][::-1]), None) or BEGINS.search(said):
        found = re.split(r"\n\s*\n", said[begin.end() :], maxsplit=1)[0]
    else:
        return ""
    statement = STATEMENT.match(found.strip())
    return statement[0].strip() if statement else ""


def without_distinct(sql: str) -> str:
    """The query with every DISTINCT gone, that of `count(DISTINCT x)` too.

    >>> without_distinct("SELECT DISTINCT a, 'distinct' FROM t")
    "SELECT  a, 'distinct' FROM t"
    """
    return DISTINCT.sub(lambda found: found[1] or "", sql)


def is_ordered(sql: str) -> bool:
    """Whether the outermost query says in which order its rows come.

    >>> is_ordered("SELECT a FROM t ORDER BY a"), is_ordered("SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 3)")
    (True, False)
    """
    bare, inner = ASIDE.sub(" ", sql), 1
    while inner:
        bare, inner = BRACKETS.subn(" ", bare)
    return bool(ORDER_BY.search(bare))
