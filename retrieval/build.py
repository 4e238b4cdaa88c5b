"""Documents become a generation of an index: cut, seen through a view, embedded, counted, written, put in use.

Costs what has changed since the last generation. Knows nothing of how a generation is published, or searched.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from retrieval import store
from retrieval.batch import Vectors as Matrix
from retrieval.chunking import passages
from retrieval.cluster import Each
from retrieval.corpus import shortened
from retrieval.embed import PACKAGED, locate, open_same
from retrieval.files import model_hash, read_jsonl, write_jsonl
from retrieval.generation import alone, current, in_use, publish
from retrieval.index import VECTORS, WORDS, contents
from retrieval.lexical import Words
from retrieval.manifest import BuildSettings, Inputs, Manifest
from retrieval.passage import Document, Passage, RetrievalError
from retrieval.reuse import Write, embedded, key, prompt_key, written
from retrieval.vectors import Vectors
from retrieval.views import VIEWS, by_a_model, prompt

KEYS: Final = "keys.npy"
"""The hash of each passage's searched text, by which the next generation finds its vector."""
WRITTEN: Final = "written.jsonl"
"""What a model wrote, by the hash of what it was asked."""
CUT_AT_ONCE: Final = 1000
"""Documents that are cut in one call."""
UNFINISHED: Final = ".unfinished"
"""What a build has computed so far: it outlives a death, and not the build's success."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage, and the document it was cut from, which has this number."""

    number: int
    source: Document
    passage: Passage


@dataclass(frozen=True, slots=True)
class Last:
    """The generation before the one that is made."""

    folder: Path
    manifest: Manifest

    def notes(self) -> dict[str, str]:
        """What a model wrote, by the hash of what it was asked."""
        return {row["key"]: row["text"] for _, row in read_jsonl(self.folder / WRITTEN)}

    def vectors(self) -> Vectors:
        shards = self.manifest.inputs.settings.shards
        return Vectors.load(self.folder / VECTORS, self.manifest.kind, self.manifest.probes, shards)

    def by_text(self) -> dict[bytes, Matrix]:
        """The vectors, by the hashes of their texts."""
        keys, vectors = np.load(self.folder / KEYS, allow_pickle=False), self.vectors()
        return dict(zip((row.tobytes() for row in keys), vectors.take(np.arange(len(vectors))), strict=True))


def build(
    documents: Iterable[Document],
    index: Path,
    settings: BuildSettings,
    write: Write | None = None,
    each: Each = map,
) -> Manifest:
    """Make a generation and put it in use; with the same inputs as the one in use, do nothing.

    `write` is the model that `settings.writer` names, for a view that a model writes. `each` does what can be done in
    many places at once, cutting and embedding; who does it changes nothing in what is made.
    """
    sources = tuple(documents)
    folder = locate(settings.embedder)
    inputs = _inputs(sources, index, settings, folder)
    before = in_use(index)
    if before and before.inputs == inputs:
        return before
    pieces = tuple(_pieces(sources, settings, each))
    if not pieces:
        raise RetrievalError("the documents hold no text, so there is nothing to index")
    if len(pieces) < settings.shards:
        raise RetrievalError(f"{settings.shards} shards of {len(pieces)} passages: each needs one, so ask for fewer")
    with alone(index):
        last = _last(index)  # only now: nobody else replaces it any more
        notes = _notes(pieces, settings, write, index / UNFINISHED, last)
        texts = [VIEWS[settings.view](piece.passage, note) for piece, (_, note) in zip(pieces, notes, strict=True)]
        name = PACKAGED if settings.embedder == PACKAGED else str(folder)
        embed = partial(_embed, name, inputs.embedder_sha256)
        unfinished = index / UNFINISHED / inputs.embedder_sha256[:12]
        known = last if last and last.manifest.inputs.embedder_sha256 == inputs.embedder_sha256 else None
        vectors = Vectors.build(
            embedded(texts, embed, unfinished, known.by_text() if known else {}, each),
            settings.vectors,
            known.vectors() if known else None,
            settings.shards,
        )
        words = Words.build(texts, settings.language)

        def fill(aside: Path) -> None:
            store.write(aside, sources, np.array([(p.number, p.passage.start, p.passage.end) for p in pieces]))
            vectors.save(aside / VECTORS)
            np.save(aside / KEYS, np.frombuffer(b"".join(map(key, texts)), dtype=np.uint8).reshape(-1, 16))
            words.save(aside / WORDS)
            write_jsonl(aside / WRITTEN, ({"key": one, "text": note} for one, note in dict(notes).items() if one))
            _read_again(aside, made)

        made = Manifest(
            inputs=inputs,
            documents=len(sources),
            passages=len(pieces),
            dimension=vectors.dimension,
            kind=vectors.kind,
            probes=vectors.probes,
        )
        made = publish(index, made, fill)
        shutil.rmtree(index / UNFINISHED, ignore_errors=True)
        return made


def _read_again(folder: Path, manifest: Manifest) -> None:
    """OSError when something did not arrive: NumPy overlooks a disk that is full when it closes a file."""
    try:
        contents(folder, manifest)
        np.load(folder / KEYS, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise OSError("what was written cannot be read again") from error


def _pieces(sources: Sequence[Document], settings: BuildSettings, each: Each) -> Iterator[Piece]:
    blocks = [sources[first : first + CUT_AT_ONCE] for first in range(0, len(sources), CUT_AT_ONCE)]
    cut = each(partial(_cut, settings.size, settings.overlap), blocks)
    for number, (source, spans) in enumerate(zip(sources, chain.from_iterable(cut), strict=True)):
        for start, end in spans:
            yield Piece(number, source, source.cut(start, end))


def _cut(size: int, overlap: int, sources: Sequence[Document]) -> list[list[tuple[int, int]]]:
    """Where each passage of each document starts and ends."""
    return [[(one.start, one.end) for one in passages(source, size, overlap)] for source in sources]


def _embed(name: str, sha256: str, texts: list[str]) -> Matrix:
    """A row for each text, on whatever machine this is called."""
    return open_same(name, sha256).passages(texts)


def _inputs(sources: Sequence[Document], index: Path, settings: BuildSettings, folder: Path) -> Inputs:
    """An embedder of the user's own is named by the way to it from the index, so that both can be moved together."""
    named = (
        settings
        if settings.embedder == PACKAGED
        else replace(settings, embedder=os.path.relpath(folder, index.resolve()))
    )
    return Inputs(corpus_sha256=_corpus_hash(sources), settings=named, embedder_sha256=model_hash(folder))


def _notes(
    pieces: Sequence[Piece], settings: BuildSettings, write: Write | None, unfinished: Path, last: Last | None
) -> list[tuple[str, str]]:
    """What a model writes about each passage, after the hash of what it was asked; both empty where none writes."""
    if not by_a_model(settings.view):
        return [("", "")] * len(pieces)
    if write is None:
        raise RetrievalError(f"what is searched is {settings.view!r}, which a model writes, and no model was given")
    prompts = [prompt(settings.view, piece.passage, piece.source) for piece in pieces]
    log = unfinished / f"{key(settings.writer).hex()}.jsonl"
    known = last.notes() if last and last.manifest.inputs.settings.writer == settings.writer else {}
    notes = written(prompts, write, log, known)
    return [(one, notes[one]) for one in map(prompt_key, prompts)]


def _last(index: Path) -> Last | None:
    """The generation in use, when it is whole."""
    manifest = in_use(index)
    return Last(current(index), manifest) if manifest else None


def _corpus_hash(documents: Iterable[Document]) -> str:
    """RetrievalError that names every document whose id is another's, or whose text no file can hold."""
    digest, problems, seen = hashlib.sha256(), [], set[str]()
    for document in documents:
        if document.id in seen:
            problems.append(f"document {document.id!r}: there are two of this id; an id names one document")
        seen.add(document.id)
        try:
            digest.update(json.dumps(store.plain(document), sort_keys=True, ensure_ascii=False).encode() + b"\n")
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            problems.append(
                f"document {document.id!r}: holds {half!r}, half of a character; mend it where it comes from"
            )
    if problems:
        raise RetrievalError("\n".join(shortened(problems)))
    return digest.hexdigest()
