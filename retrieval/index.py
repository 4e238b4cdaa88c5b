"""An index, opened whole or not at all: passages, their vectors and their words.

Knows nothing of how one is made (see `build`), or how rankings are combined (see `retriever`).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retrieval.batch import Vectors as Matrix
from retrieval.embed import PACKAGED, Embedder, locate, open_embedder
from retrieval.files import model_hash, read_text
from retrieval.generation import MANIFEST, steadily, unusable, verified
from retrieval.lexical import Words
from retrieval.manifest import Inputs, Manifest
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.ranking import Ranking
from retrieval.store import CUTS, Passages
from retrieval.vectors import Mask, Vectors
from retrieval.views import asked

VECTORS: Final = "index.faiss"
WORDS: Final = "words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One generation; row n of the vectors and of the words is passage n."""

    manifest: Manifest
    passages: Passages
    vectors: Vectors
    words: Words
    embedder: Embedder

    async def nearest(self, query: Query, k: int, rows: Mask | None = None) -> Ranking:
        """The k rows, of those allowed, whose vectors are nearest to the question's; each is near to some degree."""
        vector = await self._vector(query)
        return await asyncio.to_thread(self.vectors.search, vector, k, rows)

    async def matching(self, query: Query, k: int, rows: Mask | None = None) -> Ranking:
        """The k rows, of those allowed, that share the most telling words with the question; none that share none."""
        return await asyncio.to_thread(self.words.search, self._asked(query), k, rows)

    async def scores(self, query: Query, rows: NDArray[np.int64]) -> tuple[Matrix, Matrix]:
        """The cosine and the BM25 score of each of these rows."""
        vector = await self._vector(query)
        words = await asyncio.to_thread(self.words.scores, self._asked(query))
        return self.vectors.take(rows) @ vector, words[rows]

    def rows(self, keeps: Callable[[Mapping[str, Any]], bool]) -> Mask:
        """Which passages are of a document with metadata that is kept."""
        kept = np.fromiter(map(keeps, self.passages.metas), dtype=np.bool_)
        return kept[self.passages.owners]

    def hits(self, ranking: Ranking) -> tuple[Hit, ...]:
        return tuple(Hit(self.passages[row], score, rank) for rank, (row, score) in enumerate(ranking, start=1))

    def _asked(self, query: Query) -> str:
        """The question as it is searched for here."""
        return asked(self.manifest.inputs.settings.view, query)

    async def _vector(self, query: Query) -> Matrix:
        return await self.embedder.question(self._asked(query))


def open_index(path: Path) -> Index:
    """The index in use, or a RetrievalError that names what is wrong and the command that mends it."""
    return steadily(path, lambda generation: _open(generation, read_text(generation / MANIFEST)))


@lru_cache(maxsize=8)
def _open(generation: Path, manifest_text: str) -> Index:
    """Opened once for all who use it; the manifest's text is what tells two generations of one name apart."""
    manifest = verified(generation)
    passages, vectors, words = contents(generation, manifest)
    return Index(
        manifest=manifest,
        passages=passages,
        vectors=vectors.accelerated(generation / VECTORS),
        words=words,
        embedder=_embedder(generation.parent, manifest.inputs),
    )


def contents(generation: Path, manifest: Manifest) -> tuple[Passages, Vectors, Words]:
    """What the files hold; RetrievalError unless it is what the manifest says."""
    try:
        passages = Passages(generation)
        shards = manifest.inputs.settings.shards
        vectors = Vectors.load(generation / VECTORS, manifest.kind, manifest.probes, shards)
        words = Words.load(generation / WORDS, manifest.inputs.settings.language)
    except RetrievalError:
        raise
    except (OSError, ValueError) as error:
        raise unusable(generation.parent, generation, f"cannot be read: {error}") from None
    for name, count in ((CUTS, len(passages)), (VECTORS, len(vectors)), (WORDS, len(words))):
        if count != manifest.passages:
            what = f"holds {count} rows where {MANIFEST} says {manifest.passages}"
            raise unusable(generation.parent, generation / name, what)
    if vectors.dimension != manifest.dimension:
        what = f"has vectors of {vectors.dimension} numbers where {MANIFEST} says {manifest.dimension}"
        raise unusable(generation.parent, generation / VECTORS, what)
    return passages, vectors, words


def embedder_folder(index: Path, name: str) -> Path:
    """The folder of an index's embedder, which the index names by the way from itself to there."""
    return locate(name if name == PACKAGED else str(index.resolve() / name))


def _embedder(index: Path, inputs: Inputs) -> Embedder:
    """The embedder that made the index; vectors of another one would be compared with nonsense."""
    name = inputs.settings.embedder
    try:
        folder = embedder_folder(index, name)
    except RetrievalError as error:
        what = f"its embedder cannot be loaded ({error}): bring it back, or choose another"
        raise unusable(index, index, what, " --embedder FOLDER") from None
    sha256 = model_hash(folder)
    if sha256 != inputs.embedder_sha256:
        options = "" if name == PACKAGED else f" --embedder {folder}"
        raise unusable(index, index, f"built with another version of the embedder {folder.name}", options)
    return open_embedder(folder, sha256)
