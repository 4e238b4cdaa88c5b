"""A SQLite file into documents, one for each table: its name, and its schema as a prompt shows it.

Reads only, and leaves nothing beside the file. A schema is written from what SQLite says of the table, so that every
database looks alike, however its tables were once made. Knows nothing of other kinds of files, or of questions.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from retrieval.files import FileError
from retrieval.passage import Document

Style: TypeAlias = Literal["create", "compact", "names"]
"""How a table is written: a statement with its first rows as a comment; a line for each column; the columns' names and
what they refer to, where there is room for no more."""
STYLE: Final[Style] = "create"
DATABASES: Final = (".sqlite", ".db")
"""How the names of such files end."""
ROWS: Final = 3
"""Rows of a table that are shown, and values of a column."""
LONG: Final = 40
"""Characters of a value that are shown."""
LOOKED_AT: Final = 1000
"""Rows among which different values of a column are looked for: a table may have any number."""
KEYWORDS: Final = frozenset(
    (
        "by",
        "check",
        "default",
        "from",
        "group",
        "index",
        "order",
        "references",
        "select",
        "table",
        "to",
        "values",
        "where",
    )
)
"""Words that cannot stand as a name without quotes, of those that people call columns."""

Value: TypeAlias = str | int | float | None


class Column(NamedTuple):
    """A column, and some of what stands in it."""

    name: str
    type: str
    key: int
    """Its place in the primary key, from 1; 0 when it is not in it."""
    values: tuple[Value, ...]
    """Different ones, none of them NULL."""


class Reference(NamedTuple):
    """A foreign key: these columns name a row of that table, by those columns."""

    columns: tuple[str, ...]
    table: str
    named: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All that is told of a table."""

    name: str
    columns: tuple[Column, ...]
    references: tuple[Reference, ...]
    rows: tuple[tuple[Value, ...], ...]
    """The first ones."""

    @property
    def links(self) -> tuple[tuple[str, str], ...]:
        """A column, and the `table.column` that it refers to, as a query writes them."""
        return tuple(
            (column, f"{quoted(one.table)}.{quoted(named)}")
            for one in self.references
            for column, named in zip(one.columns, one.named, strict=False)
        )

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of its primary key, in order."""
        return tuple(one.name for one in sorted(self.columns, key=lambda one: one.key) if one.key)


def read_database(path: Path, characters: int, style: Style = STYLE) -> Iterator[Document]:
    """A document for each table, called `database.table`, where the database is called after its file.

    FileError when it has no table, or another program is writing in it.
    """
    tables = read_tables(path)
    if not tables:
        raise FileError(f"{path}: holds no tables")
    for table in tables:
        meta = {"db_id": path.stem, "table": table.name, "columns": [one.name for one in table.columns]}
        yield Document(id=f"{path.stem}.{table.name}", title=table.name, text=STYLES[style](table), meta=meta)


def read_tables(path: Path) -> tuple[Table, ...]:
    """The tables of a database, in the order in which they were made; views, and SQLite's own tables, are left out."""
    if wal := pending(path):
        raise FileError(f"{path}: has changes in {wal.name} that are not yet in it: close the program that writes them")
    with closing(sqlite3.connect(as_it_lies(path), uri=True)) as database:
        database.text_factory = partial(str, encoding="utf-8", errors="replace")
        database.execute("PRAGMA trusted_schema = OFF")
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()
        return tuple(_table(database, name) for (name,) in names if not name.startswith("sqlite_"))


def pending(path: Path) -> Path | None:
    """The file beside a database with changes that are not yet in it, if there is one."""
    wal = path.with_name(f"{path.name}-wal")
    return wal if wal.exists() and wal.stat().st_size else None


def as_it_lies(path: Path) -> str:
    """The address to open a database by for reading: immutable, so that not even a lock appears beside it."""
    return f"{path.resolve().as_uri()}?mode=ro&immutable=1"


def _table(database: sqlite3.Connection, name: str) -> Table:
    about = database.execute("SELECT name, type, pk FROM pragma_table_info(?)", (name,)).fetchall()
    shown = ", ".join(_shortened(column) for column, _, _ in about)
    rows = database.execute(f"SELECT {shown} FROM {always_quoted(name)} LIMIT {ROWS}").fetchall()
    columns = (Column(one, kind or "", key, _values(database, name, one)) for one, kind, key in about)
    return Table(
        name=name,
        columns=tuple(columns),
        references=tuple(_references(database, name)),
        rows=tuple(tuple(map(_plain, row)) for row in rows),
    )


def _values(database: sqlite3.Connection, table: str, column: str) -> tuple[Value, ...]:
    some = f"SELECT {_shortened(column)} AS value FROM {always_quoted(table)} LIMIT {LOOKED_AT}"
    found = database.execute(f"SELECT DISTINCT value FROM ({some}) WHERE value IS NOT NULL LIMIT {ROWS}")
    return tuple(_plain(value) for (value,) in found)


def _references(database: sqlite3.Connection, name: str) -> Iterator[Reference]:
    rows = database.execute(
        'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq', (name,)
    )
    keys: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, table, column, named in rows:
        keys.setdefault(number, []).append((table, column, named))
    # SQLite counts them backwards: the last that was written is number 0.
    for parts in reversed(keys.values()):
        table = parts[0][0]
        named = tuple(name for _, _, name in parts if name) or _key(database, table)
        yield Reference(tuple(column for _, column, _ in parts), table, named)


def _key(database: sqlite3.Connection, table: str) -> tuple[str, ...]:
    """The primary key, which a foreign key means that names no columns."""
    found = database.execute("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (table,))
    return tuple(name for (name,) in found)


def _shortened(column: str) -> str:
    """SQL for what is shown of a value: a long one never leaves the file."""
    name = always_quoted(column)
    text = f"CASE WHEN length({name}) > {LONG} THEN substr({name}, 1, {LONG}) || '...' ELSE {name} END"
    blob = f"'(' || length({name}) || ' bytes)'"
    return f"CASE typeof({name}) WHEN 'text' THEN {text} WHEN 'blob' THEN {blob} ELSE {name} END"


def _plain(value: Value) -> Value:
    """On one line."""
    return " ".join(value.replace("\0", " ").split()) if isinstance(value, str) else value


def _create(table: Table) -> str:
    """The statement that makes the table, and its first rows: Rajkumar et al., 2204.00498."""
    alone = table.key if len(table.key) == 1 else ()
    lines = [
        f"{quoted(one.name)} {one.type}".rstrip() + (" PRIMARY KEY" if one.name in alone else "")
        for one in table.columns
    ]
    lines += [f"PRIMARY KEY ({_listed(table.key)})"] if len(table.key) > 1 else []
    lines += [
        f"FOREIGN KEY ({_listed(one.columns)}) REFERENCES {quoted(one.table)}"
        + (f" ({_listed(one.named)})" if one.named else "")
        for one in table.references
    ]
    statement = f"CREATE TABLE {quoted(table.name)} (\n" + ",\n".join(f"  {line}" for line in lines) + "\n)"
    if not table.rows:
        return f"{statement}\n/* no rows */"
    rows = [" | ".join(one.name for one in table.columns), *(" | ".join(map(_said, row)) for row in table.rows)]
    return f"{statement}\n/*\n" + "\n".join(row.replace("*/", "* /") for row in rows) + "\n*/"


def _compact(table: Table) -> str:
    """A line for each column, after M-Schema (Gao et al., 2411.08599)."""
    return "\n".join(_line(one, table) for one in table.columns)


def _line(column: Column, table: Table) -> str:
    others = [f"= {other}" for mine, other in table.links if mine == column.name]
    values = ", ".join(repr(one) if isinstance(one, str) else str(one) for one in column.values)
    said = [f"{quoted(column.name)}: {column.type}".rstrip(": "), *(["primary key"] if column.key else []), *others]
    return ", ".join(said) + (f", e.g. {values}" if values else "")


def _names(table: Table) -> str:
    """The columns, then a line for each foreign key."""
    columns = _listed(tuple(one.name for one in table.columns))
    return "\n".join([columns, *(f"{quoted(mine)} = {other}" for mine, other in table.links)])


def _said(value: Value) -> str:
    return "NULL" if value is None else str(value)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(quoted, names))


def quoted(name: str) -> str:
    """The name as a query has to write it.

    >>> quoted("Song_Name"), quoted("Home Town"), quoted("order")
    ('Song_Name', '"Home Town"', '"order"')
    """
    return name if name.isidentifier() and name.lower() not in KEYWORDS else always_quoted(name)


def always_quoted(name: str) -> str:
    """The name in quotes, whatever it is."""
    return '"' + name.replace('"', '""') + '"'


STYLES: Final[Mapping[Style, Callable[[Table], str]]] = {"create": _create, "compact": _compact, "names": _names}
