"""SQL without its literals, to see that two queries are one with other values. Knows nothing of dialects or schemas."""

import re
from typing import Final


def masked(sql: str) -> str:
    """SQL without literals, case and spacing. Text in double quotes is a name, unless it is compared with."""
    tokens: list[str] = []
    in_list = False
    for token in SQL_TOKENS.findall(sql.rstrip("; \n")):
        token = {"<>": "!=", "==": "="}.get(token, token.casefold())
        in_list = token == "in" or (in_list and token not in (")", "select"))
        compared = in_list or (bool(tokens) and tokens[-1] in COMPARISONS)
        if token[0] == "'" or token[0].isdigit() or (token[0] == '"' and compared):
            token = "?"
        if tokens[-2:] == ["?", ","] and token == "?" and in_list:
            tokens.pop()
        else:
            tokens.append(token)
    return " ".join(tokens)


SQL_TOKENS: Final = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\d+(?:\.\d+)?|\w+|[<>!=]+|\S""")
COMPARISONS: Final = frozenset({"=", "!=", "<", ">", "<=", ">=", "like", "between"})
