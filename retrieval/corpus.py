"""BEIR's corpus.jsonl: one document a line, `{"_id", "title", "text"}` and what else its owner wrote.

Also a test set's rows and training chats, each of which is a worked example (see `worked`). All bad lines are said at
once. Knows nothing of folders or of other kinds of files.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from retrieval.files import FileError, read_jsonl
from retrieval.passage import Document
from retrieval.worked import corpus_row, held_out, is_example

EXAMPLE: Final = '{"_id": "d1", "title": "", "text": "..."}'
SHOWN: Final = 20
"""The same mistake a million times is reported with this many sentences."""
CHARACTERS: Final = 20_000_000
"""The longest text of one document: some ten thousand pages, more than one thing that is found and cited."""


def read_corpus(path: Path, characters: int = CHARACTERS) -> Iterator[Document]:
    """Each document of the file; FileError at its end names every line that is none."""
    problems: list[str] = []
    lines: dict[str, int] = {}
    for number, given in read_jsonl(path):
        row = corpus_row(given, number) if is_example(given) else given
        if isinstance(row, str):
            problems.append(f"{path}:{number}: {row}")
        elif wrong := _problem(row, characters) or held_out(row) or twice(str(row["_id"]), number, lines):
            problems.append(f"{path}:{number}: {wrong}")
        else:
            yield _document(row)
    if not lines and not problems:
        raise FileError(f"{path}: holds no documents; write one a line, e.g. {EXAMPLE}")
    if problems:
        raise FileError("\n".join(shortened(problems)))


def shortened(problems: list[str]) -> list[str]:
    """The first of many sentences, and how many more there are."""
    return problems[:SHOWN] + ([f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])


def too_long(text: str, characters: int) -> str:
    """Why a text is too long to be one document, to end a sentence with; empty when it is not."""
    return f"holds {len(text):,} characters, more than {characters:,}: split it" if len(text) > characters else ""


def twice(document: str, number: int, lines: dict[str, int], noun: str = "line") -> str:
    """Why the id cannot be given again, where each stands being kept in `lines`; empty when it is new."""
    first = lines.setdefault(document, number)
    return "" if first == number else f"document {document!r} is already on {noun} {first}; an _id names one document"


def _problem(row: Mapping[str, Any], characters: int) -> str:
    """What keeps the row from being a document; empty when nothing does."""
    if not isinstance(row.get("_id"), str | int) or row["_id"] == "":
        return f'a document needs an "_id" that is text, e.g. {EXAMPLE}'
    if not isinstance(row.get("text"), str):
        return f'document {row["_id"]!r} needs a "text" that is text'
    if not isinstance(row.get("title", ""), str):
        return f'the "title" of document {row["_id"]!r} is not text'
    half = _half(row)
    if half:
        return f"document {row['_id']!r} holds {half!r}, half of a character: write both halves, or none"
    long = too_long(row["text"], characters)
    return f"document {row['_id']!r} {long}" if long else ""


def _half(row: Mapping[str, Any]) -> str:
    """Half of a surrogate pair: JSON can spell it, no file in UTF-8 can hold it. Empty when there is none."""
    try:
        json.dumps(dict(row), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return str(error.object[error.start])
    return ""


def _document(row: Mapping[str, Any]) -> Document:
    meta = {key: value for key, value in row.items() if key not in ("_id", "title", "text")}
    return Document(id=str(row["_id"]), title=row.get("title", ""), text=row["text"], meta=meta)
