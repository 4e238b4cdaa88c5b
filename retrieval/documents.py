"""Documents from disk: a BEIR `corpus.jsonl`, or a folder of .txt and .md files.

Reads and checks; knows nothing of passages. Whatever is wrong with a corpus is said before anything slow begins.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from retrieval.files import FileError, read_jsonl, read_text
from retrieval.passage import Document
from retrieval.worked import corpus_row, held_out, is_example

SUFFIXES: Final = (".txt", ".md")
EXAMPLE: Final = '{"_id": "d1", "title": "", "text": "..."}'
SHOWN: Final = 20
"""A corpus with the same mistake on every line is refused with this many sentences, not a million."""


def read_documents(path: Path) -> Iterator[Document]:
    """Each document of a `.jsonl` corpus, of a folder that holds `corpus.jsonl`, or of a folder of texts."""
    corpus = path / "corpus.jsonl" if path.is_dir() else path
    if corpus.is_file():
        return _from_jsonl(corpus)
    if path.is_dir():
        return _from_folder(path)
    raise FileError(f"{path}: there is no such file or folder; give a corpus.jsonl or a folder of {_kinds()} files")


def _from_jsonl(path: Path) -> Iterator[Document]:
    if path.suffix != ".jsonl":
        raise FileError(f"{path}: a corpus is a .jsonl file or a folder of {_kinds()} files")
    problems: list[str] = []
    lines: dict[str, int] = {}
    for number, given in read_jsonl(path):
        row = corpus_row(given, number) if is_example(given) else given
        if isinstance(row, str):
            problems.append(f"{path}:{number}: {row}")
        elif wrong := _problem(row) or held_out(row) or _twice(str(row["_id"]), number, lines):
            problems.append(f"{path}:{number}: {wrong}")
        else:
            yield _document(row)
    if not lines and not problems:
        raise FileError(f"{path}: holds no documents; write one a line, e.g. {EXAMPLE}")
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise FileError("\n".join(problems[:SHOWN] + more))


def _problem(row: Mapping[str, Any]) -> str:
    """What keeps the row from being a document; empty when nothing does."""
    if not isinstance(row.get("_id"), str | int) or row["_id"] == "":
        return f'a document needs an "_id" that is text, e.g. {EXAMPLE}'
    if not isinstance(row.get("text"), str):
        return f'document {row["_id"]!r} needs a "text" that is text'
    if not isinstance(row.get("title", ""), str):
        return f'the "title" of document {row["_id"]!r} is not text'
    return ""


def _twice(document: str, number: int, lines: dict[str, int]) -> str:
    first = lines.setdefault(document, number)
    return "" if first == number else f"document {document!r} is already on line {first}; an _id names one document"


def _document(row: Mapping[str, Any]) -> Document:
    meta = {key: value for key, value in row.items() if key not in ("_id", "title", "text")}
    return Document(id=str(row["_id"]), title=row.get("title", ""), text=row["text"], meta=meta)


def _from_folder(folder: Path) -> Iterator[Document]:
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not files:
        raise FileError(f"{folder}: no corpus.jsonl and no {_kinds()} files in it or below it")
    for file in files:
        text = read_text(file)
        yield Document(id=file.relative_to(folder).as_posix(), title=_title(file, text), text=text)


def _title(file: Path, text: str) -> str:
    """A Markdown file's own heading, or else its name, read as words."""
    first = text.lstrip().partition("\n")[0]
    heading = first.removeprefix("# ").strip() if first.startswith("# ") else ""
    return heading or file.stem.replace("_", " ").replace("-", " ")


def _kinds() -> str:
    return " or ".join(SUFFIXES)
