"""A CSV file with a header: a document for each row.

With a column `text` (and at will `title`, and `_id` or `id`) the row is a document as in BEIR, its other columns meta;
otherwise its text has a line `column: value` for each cell that is filled. Knows nothing of other kinds of files.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from retrieval.corpus import shortened, twice
from retrieval.files import FileError
from retrieval.passage import Document

SEPARATORS: Final = ",;\t"
"""Which of them a file uses shows in its header; spreadsheets write semicolons where the comma is a decimal point."""


def read_table(path: Path, characters: int) -> Iterator[Document]:
    """Each row that is not blank. FileError at its end names every row that is no document.

    A row without an id of its own has the number that a spreadsheet shows: the header is 1, the first row below it 2.
    """
    csv.field_size_limit(characters)
    problems: list[str] = []
    rows: dict[str, int] = {}
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            mark = separator(file.readline(characters))
            file.seek(0)
            table = csv.reader(file, delimiter=mark)
            columns = header(next(table, []))
            for number, cells in enumerate(table, start=2):
                if not any(map(str.strip, cells)):
                    continue
                document = _document(dict(zip(columns, cells, strict=False)), str(number))
                wrong = _problem(columns, cells, document) or twice(document.id, number, rows, "row")
                if wrong:
                    problems.append(f"{path}: row {number}: {wrong}")
                else:
                    yield document
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 below row {number} ({error.reason}): save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise FileError(f"{path}: row {number + 1}: {error}") from None
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    if not rows and not problems:
        raise FileError(f"{path}: has no rows below its header")
    if problems:
        raise FileError("\n".join(shortened(problems)))


def separator(line: str) -> str:
    """The one that makes the most columns of a header."""
    return max(SEPARATORS, key=lambda mark: len(next(csv.reader([line], delimiter=mark), [])))


def header(names: Sequence[str]) -> tuple[str, ...]:
    """What the columns are called; one without a name is called by its number."""
    columns = tuple(name.strip() or f"column {number}" for number, name in enumerate(names, start=1))
    double = next((name for name in columns if columns.count(name) > 1), None)
    if double:
        raise ValueError(f"two columns are called {double!r}: rename one")
    return columns


def _document(row: Mapping[str, str], number: str) -> Document:
    names = {name.lower(): name for name in reversed(tuple(row))}
    if "text" not in names:
        lines = (f"{name}: {value}" for name, value in row.items() if value.strip())
        return Document(id=number, title="", text="\n".join(lines))
    identity, title, text = names.get("_id", names.get("id")), names.get("title"), names["text"]
    return Document(
        id=row[identity].strip() if identity else number,
        title=row[title] if title else "",
        text=row[text],
        meta={name: value for name, value in row.items() if name not in (identity, title, text)},
    )


def _problem(header: Sequence[str], cells: Sequence[str], document: Document) -> str:
    """What keeps the row from being a document; empty when nothing does."""
    if len(cells) > len(header):
        return f"{len(cells)} cells below {len(header)} columns: put quotes round a cell that holds the separator"
    if not document.id:
        return "has no id: write one"
    return "holds a null byte: save the file as CSV in UTF-8" if any("\0" in cell for cell in cells) else ""
