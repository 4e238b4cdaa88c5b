"""Questions as people keep them, in a CSV file with the headers `question` and `answer` or in JSONL of the same.

May have: `id`, `evidence` (a document, `doc#p12` or `doc@120-480`), `page` (of the document), `slice`, `cluster`,
`unanswerable` (yes or no). Several answers or marks in one cell are parted by ` | `. Any other column goes to `meta`.
Every problem of the file is told at once, with its line. Knows nothing of documents or splits.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from eval.task import Example
from retrieval.files import LINE_BYTES, FileError, read_jsonl
from retrieval.table import header, separator

KNOWN: Final = ("id", "question", "answer", "answers", "evidence", "page", "unanswerable", "meta")
LISTS: Final = ("answer", "answers", "evidence", "page")
NEEDED: Final = {"question": "question", "answer": "answer", "answers": "answer"}
ABSTAINING: Final = ("unknown", "I do not know")
"""What counts as right where no document has the answer, unless the file says otherwise."""
YES, NO = ("yes", "true", "1", "x"), ("", "no", "false", "0")
PARTED: Final = re.compile(r"\s+\|\s+")


@dataclass(frozen=True, slots=True)
class Asked:
    """An example and the `file:line` where it stands."""

    place: str
    example: Example


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: Mapping[str, Any]
    wrong: str = ""


def read_questions(path: Path) -> tuple[Asked, ...]:
    """Every question of the file, in its order; one without an id is called by its number. FileError has all that is
    wrong."""
    asked: list[Asked] = []
    problems: list[str] = []
    taken: dict[str, str] = {}
    for number, row in enumerate(_rows(path), start=1):
        place = f"{path}:{row.line}"
        try:
            if row.wrong:
                raise ValueError(row.wrong)
            example = _example(row.cells, f"q{number:04d}")
        except ValueError as error:
            problems += [f"{place}: {line}" for line in str(error).splitlines()]
            continue
        if taken.setdefault(example.id, place) != place:
            problems.append(f"{place}: id {example.id!r} was taken by {taken[example.id]}; ids must differ")
        asked.append(Asked(place, example))
    if problems or not asked:
        raise FileError("\n".join(problems) or f"{path}:1: there is no question below the header")
    return tuple(asked)


def _rows(path: Path) -> Iterator[_Row]:
    if path.suffix == ".jsonl":
        return (_Row(line, {key.lower(): value for key, value in row.items()}) for line, row in read_jsonl(path))
    if path.suffix in (".csv", ".tsv"):
        return _table(path)
    raise FileError(f"{path}: questions come in a .csv or .jsonl file, by the end of its name")


def _table(path: Path) -> Iterator[_Row]:
    csv.field_size_limit(LINE_BYTES)
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            mark = separator(file.readline())
            file.seek(0)
            table = csv.reader(file, delimiter=mark, strict=True)  # else an open quote swallows rows
            names = [name.lower() for name in header(next(table, []))]
            _check_header(names)
            line = table.line_num + 1
            for cells in table:
                many = f"{len(cells)} cells below {len(names)} columns: put quotes round a cell that holds {mark!r}"
                if any(map(str.strip, cells)):
                    yield _Row(line, dict(zip(names, cells, strict=False)), many if len(cells) > len(names) else "")
                line = table.line_num + 1
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 ({error.reason}): save it as CSV in UTF-8") from None
    except csv.Error as error:
        told = "a cell that begins with a quote must end with one, and quotes inside it are doubled"
        raise FileError(f"{path}:{line}: {told} ({error})") from None
    except ValueError as error:
        raise FileError(f"{path}:1: {error}") from None


def _check_header(names: list[str]) -> None:
    """ValueError when a column that every question needs is missing."""
    missing = [name for name in ("question", "answer") if not any(NEEDED.get(one) == name for one in names)]
    if not missing:
        return
    near = [f"rename {found[0]!r} to {name!r}" for name in missing if (found := get_close_matches(name, names, n=1))]
    said = f"; {' and '.join(near)}" if near else ""
    raise ValueError(f"the header has no column {' and no column '.join(map(repr, missing))}{said}")


def _example(cells: Mapping[str, Any], number: str) -> Example:
    """ValueError has a line for each problem of the row."""
    if problems := list(_unreadable(cells)):
        raise ValueError("\n".join(problems))
    question = str(cells.get("question") or "").strip()
    answers = tuple(dict.fromkeys((*_several(cells.get("answer")), *_several(cells.get("answers")))))
    unanswerable = str(cells.get("unanswerable") or "").strip().lower()
    meta = {key: value for key, value in cells.items() if key not in KNOWN and value not in ("", None)}
    meta |= cells.get("meta") or {}
    if unanswerable in YES or meta.get("unanswerable"):
        meta["unanswerable"] = True
        answers = answers or ABSTAINING
    elif unanswerable not in NO:
        problems.append(f"unanswerable: {unanswerable!r} is neither yes nor no")
    if not question:
        problems.append("question: is empty")
    if not answers:
        problems.append("answer: is empty; write what counts as right, or `yes` in a column `unanswerable`")
    try:
        evidence = _marks(_several(cells.get("evidence")), _several(cells.get("page")))
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    called = str(cells.get("id") or "").strip() or number
    return Example(id=called, question=question, answers=answers, evidence=evidence, meta=meta)


def _unreadable(cells: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each value of a kind that its key cannot have."""
    for key, value in cells.items():
        parts = value if isinstance(value, list) and key in LISTS else [value]
        if key == "meta" and not isinstance(value, dict | None):
            yield "meta: is no object; in a CSV file give each key a column of its own"
        elif key in KNOWN and key != "meta" and not all(isinstance(one, str | int | float | None) for one in parts):
            yield f"{key}: is no text{' or list of texts' if key in LISTS else ''}"
        elif any("\0" in one for one in parts if isinstance(one, str)):
            yield f"{key}: holds a null byte: save the file in UTF-8"


def _several(value: Any) -> tuple[str, ...]:
    """The parts of a cell, or of a list.

    >>> _several("Oslo | Kristiania"), _several(["a|b"]), _several(None)
    (('Oslo', 'Kristiania'), ('a|b',), ())
    """
    parts = value if isinstance(value, list) else PARTED.split(str("" if value is None else value))
    return tuple(part for part in (str(one).strip() for one in parts) if part)


def _marks(documents: tuple[str, ...], pages: tuple[str, ...]) -> tuple[str, ...]:
    """Evidence as a test set has it.

    >>> _marks(("leave.pdf",), ("3",))
    ('leave.pdf#p3',)
    """
    if not pages:
        return documents
    if len(pages) != len(documents):
        raise ValueError(f"page: {len(pages)} for {len(documents)} of `evidence`; give each document its page")
    if wrong := [page for page in pages if not page.isdigit()]:
        raise ValueError(f"page: {wrong[0]!r} is no whole number")
    return tuple(f"{document}#p{page}" for document, page in zip(documents, pages, strict=True))
