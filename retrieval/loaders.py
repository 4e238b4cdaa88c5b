"""One file into documents: text, Markdown, HTML, PDF, office files, CSV, JSONL, SQLite, each by a well-kept library.

A file is one document, without an id (its path is that); a row of a CSV or JSONL file is a document with the row's id,
and a table of a database one with its own.
Text files are kept character for character, CRLF and all, because evidence and citations count characters.
Knows nothing of folders, processes, time or memory: `reader` calls it where a bad file can do no harm.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

from retrieval.corpus import read_corpus, too_long
from retrieval.databases import DATABASES, STYLE, Style, read_database
from retrieval.files import FileError
from retrieval.passage import Document
from retrieval.table import read_table

Loader: TypeAlias = Callable[[Path, int], Iterable[Document]]
"""(file, most characters of a document) -> its documents; any exception means that it has none to give."""

SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
"""Half of a character, which a broken font or file name leaves behind and no file in UTF-8 could hold."""
UTF8_BYTES: Final = 4
"""The most bytes of a character: a longer file need not be read to be refused."""
UNPACKED_BYTES: Final = 1 << 30
"""What the parts of an office file may come to; what unpacks to more is a zip bomb, or a film."""
COMPOUND: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How a file begins that Office 97 wrote, or that today's Office has encrypted (MS-CFB 2.2)."""
SLIDE: Final = re.compile(r"\s*<!-- Slide number: \d+ -->\s*")


def load(path: Path, characters: int, tables: Style = STYLE) -> Iterator[Document]:
    """The documents of one file, none with more than so many characters, its tables written in this style.

    FileError says what is wrong with the file.
    """
    kind = path.suffix.lower()
    loader = partial(read_database, style=tables) if kind in DATABASES else LOADERS[kind]
    try:
        if path.stat().st_size == 0:
            raise FileError(f"{path}: is empty")
        for document in loader(path, characters):
            if not document.id and not document.text.strip():
                raise FileError(f"{path}: holds no text")
            if long := too_long(document.text, characters):
                raise FileError(f"{path}{document.id and '#'}{document.id}: {long}")
            yield document
    except (FileError, MemoryError):
        raise
    except Exception as error:  # the libraries promise nothing about what a broken file makes them raise
        if isinstance(error, OSError) and error.filename:
            raise FileError(f"{path}: cannot be read: {error.strerror}") from None
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FileError(
            f"{path}: is no {path.suffix} file that can be read ({why}): save it again, or convert it"
        ) from None


def _plain(path: Path, characters: int) -> Iterator[Document]:
    if path.stat().st_size > UTF8_BYTES * characters:
        raise FileError(f"{path}: holds more than {characters:,} characters: split it")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")  # a byte order mark is no text
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}:{line}: not UTF-8 ({error.reason}): save it as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FileError(f"{path}:{line}: holds a null byte, so it is no text in UTF-8: save it as UTF-8")
    yield Document(id="", title=_title(path, text), text=text)


def _pdf(path: Path, characters: int) -> Iterator[Document]:
    from pypdf import PdfReader

    reader = PdfReader(path)
    # The empty password opens a file that is locked only against printing or copying.
    if reader.is_encrypted and not reader.decrypt(""):
        raise FileError(f"{path}: is encrypted: save it without a password")
    pages = [page.extract_text() for page in reader.pages]
    if pages and not any(map(str.strip, pages)):
        raise FileError(f"{path}: no page holds text: if it is a scan, run text recognition on it")
    yield _paged(path, pages)


def _html(path: Path, characters: int) -> Iterator[Document]:
    from markitdown.converters import HtmlConverter

    yield _converted(HtmlConverter(), path)


def _word(path: Path, characters: int) -> Iterator[Document]:
    from markitdown.converters import DocxConverter

    yield _converted(DocxConverter(), _opened(path))


def _slides(path: Path, characters: int) -> Iterator[Document]:
    """One document, whose pages are the slides."""
    from markitdown.converters import PptxConverter

    yield _paged(path, SLIDE.split(_converted(PptxConverter(), _opened(path)).text)[1:])


def _sheets(path: Path, characters: int) -> Iterator[Document]:
    """One document, whose pages are the sheets, each a heading and a table; a formula is its value."""
    from openpyxl import load_workbook

    # Not by markitdown: it reads by pandas, which makes 7.0 of the code 007 and nothing of the words "NA" and "None".
    book = load_workbook(_opened(path), read_only=True, data_only=True)
    yield replace(_paged(path, map(_sheet, book.worksheets)), title=_title(path, ""))


def _sheet(sheet: Any) -> str:
    sheet.reset_dimensions()  # what the file says of its size may be a million rows too many
    rows = [tuple(map(_cell, row)) for row in sheet.iter_rows(values_only=True)]
    lines = [f"| {' | '.join(row)} |" for row in rows if any(row)]
    return "\n".join([f"## {sheet.title}", *lines]) if lines else ""


def _cell(value: object) -> str:
    """A cell on one line; of a date without a time, the date."""
    return " ".join(str("" if value is None else value).removesuffix(" 00:00:00").split())


def _converted(converter: Any, path: Path) -> Document:
    """What one converter of markitdown makes of the file; asked to choose, it tries others on a broken file."""
    from markitdown import StreamInfo

    with path.open("rb") as file:
        made = converter.convert(file, StreamInfo(extension=path.suffix.lower()))
    text = _clean(made.markdown)
    return Document(id="", title=" ".join(_clean(made.title or "").split()) or _title(path, text), text=text)


def _opened(path: Path) -> Path:
    """The office file, if it is an archive that unpacks to something reasonable."""
    with path.open("rb") as file:
        if file.read(len(COMPOUND)) == COMPOUND:
            raise FileError(f"{path}: is encrypted, or of an older Office: save it as {path.suffix} without a password")
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > UNPACKED_BYTES:
        raise FileError(f"{path}: unpacks to {size >> 20:,} MB, more than {UNPACKED_BYTES >> 20:,} MB: split it")
    return path


def _paged(path: Path, pages: Iterable[str]) -> Document:
    """The pages as one text, with a blank line between them, and where each begins."""
    texts = [_clean(page) for page in pages]
    starts = accumulate((len(text) + len("\n\n") for text in texts[:-1]), initial=0)
    text = "\n\n".join(texts)
    return Document(id="", title=_title(path, text), text=text, pages=tuple(starts) if texts else ())


def _clean(text: str) -> str:
    """Without halves of characters, and without the null bytes that a broken font is read as."""
    return SURROGATE.sub("\ufffd", text).replace("\0", "")


def _title(path: Path, text: str) -> str:
    """The heading that a text in Markdown begins with, or else the file's name, read as words."""
    first = text.lstrip().partition("\n")[0]
    heading = first.removeprefix("# ").strip() if first.startswith("# ") else ""
    return heading or path.stem.replace("_", " ").replace("-", " ")


LOADERS: Final[dict[str, Loader]] = {
    ".txt": _plain,
    ".md": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".docx": _word,
    ".pptx": _slides,
    ".xlsx": _sheets,
    ".csv": read_table,
    ".jsonl": read_corpus,
    **dict.fromkeys(DATABASES, read_database),
}
"""What can be read, by the end of its name."""
