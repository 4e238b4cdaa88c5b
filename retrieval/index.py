"""An index: passages, their vectors and their words, made once and opened whole or not at all.

The only door to FAISS. Knows nothing of how rankings are combined (see `retriever`) or kept on disk (see `generation`).
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from retrieval.batch import Vectors
from retrieval.chunking import passages
from retrieval.embed import PACKAGED, Embedder, locate, open_embedder
from retrieval.files import model_hash, read_jsonl, read_text, write_jsonl
from retrieval.generation import MANIFEST, alone, current, in_use, publish, unusable, verified
from retrieval.lexical import Words
from retrieval.manifest import BuildSettings, Inputs, Manifest
from retrieval.passage import Document, Hit, Passage, RetrievalError
from retrieval.ranking import Ranking

PASSAGES: Final = "passages.jsonl"
VECTORS: Final = "index.faiss"
WORDS: Final = "words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One generation in memory; row n of the vectors and of the words is passage n."""

    manifest: Manifest
    passages: tuple[Passage, ...]
    vectors: Any
    words: Words
    embedder: Embedder

    async def nearest(self, text: str, k: int) -> Ranking:
        """The k rows whose vectors are nearest to the text's; every row is near to some degree."""
        vector = await self.embedder.question(text)
        return await asyncio.to_thread(self._nearest, vector, min(k, len(self.passages)))

    async def matching(self, text: str, k: int) -> Ranking:
        """The k rows that share the most telling words with the text; none when it shares no word."""
        return await asyncio.to_thread(self.words.search, text, k)

    def hits(self, ranking: Ranking) -> tuple[Hit, ...]:
        return tuple(Hit(self.passages[row], score, rank) for rank, (row, score) in enumerate(ranking, start=1))

    def _nearest(self, vector: Vectors, k: int) -> Ranking:
        scores, rows = self.vectors.search(vector[np.newaxis], k)
        return list(zip(rows[0].tolist(), scores[0].tolist(), strict=True))


def build(documents: Iterable[Document], index: Path, settings: BuildSettings) -> Manifest:
    """Make a generation and put it in use; with the same inputs as the one in use, do nothing."""
    sources = tuple(documents)
    pieces = [piece for source in sources for piece in passages(source, settings.size, settings.overlap)]
    if not pieces:
        raise RetrievalError("the documents hold no text, so there is nothing to index")
    folder = locate(settings.embedder)
    sha256 = model_hash(folder)
    anywhere = settings if settings.embedder == PACKAGED else replace(settings, embedder=str(folder))
    inputs = Inputs(corpus_sha256=_corpus_hash(sources), settings=anywhere, embedder_sha256=sha256)
    before = in_use(index)
    if before and before.inputs == inputs:
        return before
    with alone(index):
        texts = [piece.searchable for piece in pieces]
        vectors = open_embedder(folder, sha256).passages(texts)
        manifest = Manifest(inputs=inputs, documents=len(sources), passages=len(pieces), dimension=vectors.shape[1])
        return publish(index, manifest, partial(_write, pieces=pieces, vectors=vectors, words=Words.build(texts)))


def open_index(path: Path) -> Index:
    """The index in use, or a RetrievalError that names what is wrong and the command that mends it."""
    generation = current(path)
    return _open(generation, read_text(generation / MANIFEST))


@lru_cache(maxsize=8)
def _open(generation: Path, manifest_text: str) -> Index:
    """Opened once for all who use it; the manifest's text is what tells two generations of one name apart."""
    import faiss

    manifest = verified(generation)
    index = Index(
        manifest=manifest,
        passages=tuple(Passage(**row) for _, row in read_jsonl(generation / PASSAGES)),
        vectors=faiss.deserialize_index(np.fromfile(generation / VECTORS, dtype=np.uint8)),
        words=Words.load(generation / WORDS),
        embedder=_embedder(generation.parent, manifest.inputs),
    )
    _check_counts(generation, index)
    return index


def _embedder(index: Path, inputs: Inputs) -> Embedder:
    """The embedder that made the index; vectors of another one would be compared with nonsense."""
    name = inputs.settings.embedder
    try:
        folder = locate(name)
    except RetrievalError as error:
        what = f"its embedder cannot be loaded ({error}): bring it back, or choose another"
        raise unusable(index, index, what, " --embedder FOLDER") from None
    sha256 = model_hash(folder)
    if sha256 != inputs.embedder_sha256:
        options = "" if name == PACKAGED else f" --embedder {name}"
        raise unusable(index, index, f"built with another version of the embedder {name}", options)
    return open_embedder(folder, sha256)


def _check_counts(generation: Path, index: Index) -> None:
    expected = index.manifest.passages
    for name, count in ((PASSAGES, len(index.passages)), (VECTORS, index.vectors.ntotal), (WORDS, len(index.words))):
        if count != expected:
            what = f"holds {count} rows where {MANIFEST} says {expected}"
            raise unusable(generation.parent, generation / name, what)


def _write(folder: Path, pieces: Sequence[Passage], vectors: Vectors, words: Words) -> None:
    import faiss

    rows = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    rows.add_with_ids(vectors, np.arange(len(pieces)))
    (folder / VECTORS).write_bytes(faiss.serialize_index(rows).data)
    write_jsonl(folder / PASSAGES, (asdict(piece) for piece in pieces))
    words.save(folder / WORDS)


def _corpus_hash(documents: Iterable[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(asdict(document), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
