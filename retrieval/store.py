"""Documents and passages on disk: each document once, each passage as the characters of it that it is.

    documents.jsonl     a document a line
    documents.npy       where each line begins, in bytes, and where the last ends
    passages.npy        document, start, end of each passage, the passages of one document next to each other

Read where they lie, a passage when it is asked for. Knows nothing of how passages are cut or searched.
"""

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from retrieval.passage import Document, Passage, RetrievalError

DOCUMENTS: Final = "documents.jsonl"
PLACES: Final = "documents.npy"
CUTS: Final = "passages.npy"
REMEMBERED: Final = 256
"""Documents kept as they were last read: neighbouring hits are often of one document."""

Cuts = NDArray[np.int64]
"""A row a passage: document, start, end."""


def plain(document: Document) -> dict[str, Any]:
    """The document as a row of JSON; `asdict` would first copy all of it, which takes nine times as long."""
    return {field.name: getattr(document, field.name) for field in fields(document)}


def write(folder: Path, documents: Iterable[Document], cuts: Cuts) -> None:
    places = [0]
    with (folder / DOCUMENTS).open("wb") as file:
        for document in documents:
            places.append(places[-1] + file.write(json.dumps(plain(document), ensure_ascii=False).encode() + b"\n"))
    np.save(folder / PLACES, np.array(places, dtype=np.int64), allow_pickle=False)
    np.save(folder / CUTS, cuts, allow_pickle=False)


class Passages(Sequence[Passage]):
    """The passages of a generation, in order of their rows."""

    def __init__(self, folder: Path) -> None:
        """RetrievalError when the files do not belong together."""
        with (folder / DOCUMENTS).open("rb") as file:
            empty = file.seek(0, 2) == 0
            self._lines: Any = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._places: NDArray[np.int64] = np.load(folder / PLACES, mmap_mode="r", allow_pickle=False)
        self._cuts: Cuts = np.load(folder / CUTS, mmap_mode="r", allow_pickle=False)
        whole = self._places[-1] == len(self._lines)
        if not whole or (len(self._cuts) and int(self._cuts[:, 0].max()) >= self.documents):
            raise RetrievalError(f"{folder / DOCUMENTS}: does not fit {PLACES} and {CUTS}")
        self.document_at = lru_cache(maxsize=REMEMBERED)(self._document_at)
        """The document of this number, counted from 0."""

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self._places) - 1

    @property
    def owners(self) -> NDArray[np.int64]:
        """The number of each passage's document."""
        return self._cuts[:, 0]

    def __len__(self) -> int:
        return len(self._cuts)

    @overload
    def __getitem__(self, row: int) -> Passage: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[Passage, ...]: ...
    def __getitem__(self, row: int | slice) -> Passage | tuple[Passage, ...]:
        if isinstance(row, slice):
            return tuple(self[number] for number in range(*row.indices(len(self))))
        document, start, end = self._cuts[row].tolist()
        return self.document_at(document).cut(start, end)

    def each_document(self) -> Iterator[Document]:
        """All documents in order, each read once and not kept."""
        return map(self._document_at, range(self.documents))

    @cached_property
    def metas(self) -> tuple[Mapping[str, Any], ...]:
        """What each document says of itself: read once, because every new filter asks all of them."""
        return tuple(document.meta for document in self.each_document())

    def document(self, name: str) -> Document:
        """The document of this id; KeyError when there is none."""
        return self.document_at(self._numbers[name])

    def of(self, name: str) -> range:
        """The rows of this document's passages; KeyError when there is no such document."""
        first, after = np.searchsorted(self.owners, [self._numbers[name], self._numbers[name] + 1])
        return range(int(first), int(after))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {document.id: number for number, document in enumerate(self.each_document())}

    def _document_at(self, number: int) -> Document:
        start, end = self._places[number : number + 2].tolist()
        row = json.loads(self._lines[start:end])
        return Document(**{**row, "pages": tuple(row["pages"])})
