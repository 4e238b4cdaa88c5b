"""Documents from disk: a BEIR `corpus.jsonl`, a file, or a folder of files.

What is wrong with a corpus is said before anything slow begins; a file that is broken is told of and left out.
Knows nothing of passages, nor of how a file is read (see `reader` and `loaders`).
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tqdm import tqdm

from retrieval.corpus import read_corpus, shortened
from retrieval.databases import DATABASES, STYLE, Style
from retrieval.files import FileError
from retrieval.loaders import LOADERS, SURROGATE
from retrieval.passage import Document
from retrieval.reader import Limits, Reader

LIMITS: Final = Limits()
CORPUS: Final = "corpus.jsonl"
KINDS: Final = ", ".join(LOADERS)
"""What can be read, for those who ask."""
HIDDEN: Final = (".", "~$")
"""How names begin that are nobody's documents: hidden files, and the locks that Office leaves beside an open one."""
NAMED: Final = 5
"""How many files of other kinds are named where a folder holds them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading(Iterator[Document]):
    """Documents as they are read; at their end, `skipped` says which files were left out and why."""

    documents: Iterator[Document]
    skipped: Sequence[str] = ()

    def __next__(self) -> Document:
        return next(self.documents)


def read_documents(path: Path, limits: Limits = LIMITS, tables: Style = STYLE) -> Reading:
    """Each document of a `.jsonl` corpus, of a folder that holds `corpus.jsonl`, or else of a file or a folder of them.

    A file (text, Markdown, HTML, PDF, docx, pptx, xlsx) is a document whose id is its path in the folder, such as
    `leave/policy.pdf`. The rows of CSV and other JSONL files are documents whose ids end in the row's own, as in
    `faq.csv#q7`, or else in its number in a spreadsheet, `faq.csv#2`; a corpus alone keeps the ids that it gives.
    A table of a SQLite database is one, written in the style `tables` and called as in a query, after the name of the
    file: `concert_singer.singer`. Hidden files are passed over. A file that cannot be read is left out, whole, and told
    of at the end.

    Raises FileError for any bad line of a corpus, and where nothing could be read at all.
    """
    corpus = path / CORPUS if path.is_dir() else path
    if corpus.is_file() and corpus.suffix == ".jsonl":
        return Reading(read_corpus(corpus))
    skipped: list[str] = []
    if path.is_dir():
        return Reading(_read(_files(path, skipped), path, Reader(limits, tables), skipped), skipped)
    if not path.is_file():
        raise FileError(f"{path}: there is no such file or folder; give a {CORPUS}, or files: {KINDS}")
    if not _is_known(path):
        raise FileError(f"{path}: no kind of file that can be read; those are {KINDS}")
    return Reading(_read([path], path.parent, Reader(limits, tables), skipped), skipped)


def _files(folder: Path, skipped: list[str]) -> list[Path]:
    """All files of known kinds in the folder and below, in order; a folder that stays shut is skipped."""
    files: list[Path] = []
    for here, below, names in os.walk(
        folder, onerror=lambda error: skipped.append(f"{error.filename}: {error.strerror}")
    ):
        below[:] = [name for name in below if not name.startswith(HIDDEN)]
        files += [Path(here, name) for name in names if not name.startswith(HIDDEN)]
    known, others = sorted(filter(_is_known, files)), sorted(file for file in files if not _is_known(file))
    if others:
        named = ", ".join(file.relative_to(folder).as_posix() for file in others[:NAMED])
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        log.warning("%s: passed over %d of other kinds: %s%s", folder, len(others), named, more)
    if not known and not skipped:
        raise FileError(f"{folder}: no {CORPUS} in it, nor other files that can be read: {KINDS}")
    return known


def _is_known(file: Path) -> bool:
    return file.suffix.lower() in LOADERS


def _read(files: Sequence[Path], root: Path, opened: Reader, skipped: list[str]) -> Iterator[Document]:
    """The documents of each file, called after its place below `root`; what is wrong with others goes to `skipped`."""
    found = False
    with opened as reader:
        for file in tqdm(files, desc="reading", unit="file", disable=None):
            name = file.relative_to(root).as_posix()
            try:
                if SURROGATE.search(name):
                    raise FileError(f"{name!r}: the file's name is not UTF-8: rename it")
                documents = reader.read(file)
            except FileError as error:
                skipped.append(str(error))
                continue
            for document in documents:
                found = True
                yield document if file.suffix.lower() in DATABASES else replace(document, id=_called(document, name))
    if not found:
        raise FileError("\n".join(shortened(skipped)))
    for sentence in shortened(skipped):
        log.warning("skipped: %s", sentence)


def _called(document: Document, name: str) -> str:
    """After the file, and within it after itself, if it has a name."""
    return f"{name}#{document.id}" if document.id else name
