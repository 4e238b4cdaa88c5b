"""Unit vectors by row, searched by inner product: exact while the corpus is small, smaller and faster above.

They lie in one file or in several, the shards, each a range of rows; a search merges what it finds in each by score.
The only door to FAISS, but for the process of `gpu`. Knows nothing of texts, passages or generations; what is
loaded was verified by its hash before.
"""

import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.batch import Vectors as Matrix
from retrieval.gpu import WORTH_IT, GpuSearch, start
from retrieval.passage import RetrievalError
from retrieval.ranking import Ranking, best, merge

Kind: TypeAlias = Literal["flat", "fp16", "ivf"]
"""Float32; float16, half the memory; float16 in groups, of which a search reads the nearest."""

Mask: TypeAlias = NDArray[np.bool_]
"""Which rows may be found."""

FLAT_TO: Final = 100_000
FP16_TO: Final = 500_000
"""Up to how many rows each kind is what `build` chooses."""

AIM: Final = 0.99
"""The recall@10 against all groups, for made-up questions, that decides how many groups are read."""
SAMPLED: Final = 200
"""Questions that are made up."""
CLOSENESS: Final = 0.7
"""The cosine of a made-up question with the row it was made of. A row itself would be too easy a question."""
POINTS: Final = 64
"""Vectors for each group's centre that k-means sees; below 39 FAISS warns, and more cost more than they bring."""
ROUNDS: Final = 10
ALIKE: Final = 1.5
"""How many times more or fewer rows still suit the same groups."""
BLOCK: Final = 50_000
FEW: Final = 20_000
"""As many rows under a mask are compared one by one: exact, and no slower than a search that passes over the others."""

logger = logging.getLogger(__name__)


class Vectors:
    """FAISS indexes, the shards, that hold the rows 0 to n - 1 one range after the other; most often there is one."""

    def __init__(
        self, shards: Sequence[Any], kind: Kind, probes: int = 0, gpus: Sequence[GpuSearch | None] = ()
    ) -> None:
        self._shards = tuple(shards)
        self._gpus = list(gpus) or [None] * len(self._shards)
        self._firsts = np.cumsum([0, *(shard.ntotal for shard in self._shards)])
        """The first row of each shard, and how many rows there are."""
        self.kind: Final[Kind] = kind
        self.probes: Final = probes
        """How many groups a search reads; 0 where there are none. It is a number of the manifest, not of the file."""

    @classmethod
    def build(
        cls, matrix: Matrix, kind: Kind | None = None, like: "Vectors | None" = None, shards: int = 1
    ) -> "Vectors":
        """Rows of length 1, float32 (n, d), in the kind named or in the one for so many rows.

        Groups are those of `like`, vectors of the same embedder, while there are about as many rows: finding their
        centres takes most of the time.
        """
        import faiss

        faiss.omp_set_num_threads(os.cpu_count() or 1)  # this thread may have searched before
        kind = kind or kind_for(len(matrix))
        ranges = [matrix[first:after] for first, after in ranges_of(len(matrix), shards)]
        theirs = like._shards if like and len(like._shards) == shards else [None] * shards
        made = [_made(rows, kind, their) for rows, their in zip(ranges, theirs, strict=True)]
        # The most that any shard needs: one number for all, and none finds less than it promises.
        probes = max(_probes(one, rows) for one, rows in zip(made, ranges, strict=True)) if kind == "ivf" else 0
        return cls(made, kind, probes)

    @classmethod
    def load(cls, path: Path, kind: Kind, probes: int, shards: int = 1) -> "Vectors":
        """Memory-mapped: pages are read when a search wants them, and readers share them."""
        import faiss

        read = []
        for file in files_of(path, shards):
            try:
                read.append(faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC))
            except RuntimeError as error:
                raise RetrievalError(f"{file}: FAISS cannot read it: {str(error).splitlines()[0]}") from None
        return cls(read, kind, probes)

    def accelerated(self, path: Path) -> "Vectors":
        """The same, searched on a GPU where there is one that FAISS can use and all rows together are worth it."""
        if len(self) <= WORTH_IT:
            return self
        files = files_of(path, len(self._shards))
        gpus = [start(file, shard.ntotal) for file, shard in zip(files, self._shards, strict=True)]
        return Vectors(self._shards, self.kind, self.probes, gpus)

    def save(self, path: Path) -> None:
        import faiss

        for file_path, shard in zip(files_of(path, len(self._shards)), self._shards, strict=True):
            # Not by its name: FAISS overlooks a disk that is full when it closes the file, and leaves it short.
            with file_path.open("wb") as file:
                faiss.write_index(shard, faiss.PyCallbackIOWriter(file.write))

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def dimension(self) -> int:
        return int(self._shards[0].d)

    def search(self, vector: Matrix, k: int, rows: Mask | None = None) -> Ranking:
        """The k nearest rows to a unit vector (d,), of those that `rows` allows; a score is the cosine.

        Equal scores keep the order of the rows, so that what is found does not depend on where shards begin.
        """
        if rows is not None:
            kept = np.flatnonzero(rows)
            if len(kept) <= FEW:
                return [(int(kept[row]), score) for row, score in _nearest(self.take(kept) @ vector, k)]
        return merge([self._in_shard(number, vector, k, rows) for number in range(len(self._shards))], k)

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """The vectors of these rows, as exactly as the kind keeps them: float32 (len(rows), d)."""
        rows = np.asarray(rows, dtype=np.int64)
        taken = np.empty((len(rows), self.dimension), dtype=np.float32)
        owners = np.searchsorted(self._firsts, rows, side="right") - 1
        for number, shard in enumerate(self._shards):
            here = owners == number
            taken[here] = shard.reconstruct_batch(rows[here] - self._firsts[number])
        return taken

    def _in_shard(self, number: int, vector: Matrix, k: int, rows: Mask | None) -> Ranking:
        first, after = self._firsts[number : number + 2].tolist()
        gpu = self._gpus[number]
        if gpu and rows is None:
            try:
                return _moved(gpu.search(vector, min(k, after - first)), first)
            except OSError as error:
                logger.warning(f"{error}: the CPU searches from now on")
                self._gpus[number] = None
        here = None if rows is None else rows[first:after]
        return _moved(_searched(self._shards[number], vector, k, self._how(here)), first)

    def _how(self, rows: Mask | None) -> Any:
        """FAISS's parameters of one search."""
        import faiss

        chosen: dict[str, Any] = {}
        if rows is not None:
            chosen["sel"] = faiss.IDSelectorBitmap(np.packbits(rows, bitorder="little"))
        if self.kind == "ivf":
            return faiss.SearchParametersIVF(nprobe=self.probes, **chosen)
        return faiss.SearchParameters(**chosen) if chosen else None


def ranges_of(rows: int, shards: int) -> list[tuple[int, int]]:
    """The rows of each shard, from the first up to the one after the last: as even as can be.

    >>> ranges_of(10, 3)
    [(0, 3), (3, 6), (6, 10)]
    """
    return [(rows * number // shards, rows * (number + 1) // shards) for number in range(shards)]


def files_of(path: Path, shards: int) -> list[Path]:
    """Where each shard is kept; a single one in `path` itself.

    >>> [file.name for file in files_of(Path("index.faiss"), 2)]
    ['index-0001.faiss', 'index-0002.faiss']
    """
    return [path.with_stem(f"{path.stem}-{number:04}") for number in range(1, shards + 1)] if shards > 1 else [path]


def _searched(index: Any, vector: Matrix, k: int, how: Any) -> Ranking:
    """FAISS's k nearest, equal scores in the order of their rows.

    FAISS keeps any of several that are equally near to the end of its list: it is asked for more until that end is
    farther than the last that counts.
    """
    import faiss

    # A question is too little work for two: by one, 100,000 vectors take 6 ms, by two 14.
    faiss.omp_set_num_threads(1)
    wanted = k + 1
    while True:
        scores, rows = index.search(vector[np.newaxis], min(wanted, index.ntotal), params=how)
        found = [(row, score) for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True) if row >= 0]
        if len(found) < wanted or found[-1][1] < found[k - 1][1]:
            return merge([found], k)
        wanted *= 2


def _moved(ranking: Ranking, first: int) -> Ranking:
    """A shard's rows as rows of the whole."""
    return [(first + row, score) for row, score in ranking]


def _made(matrix: Matrix, kind: Kind, like: Any) -> Any:
    """A FAISS index of these rows."""
    import faiss

    width = matrix.shape[1]
    if kind == "flat":
        index = faiss.IndexFlatIP(width)
    elif kind == "fp16":
        index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        index = _regrouped(matrix, like) or _grouped(matrix)
    _add(index, matrix)
    return index


def kind_for(rows: int) -> Kind:
    """The kind that `build` chooses for so many rows.

    >>> kind_for(100_000), kind_for(100_001), kind_for(1_000_000)
    ('flat', 'fp16', 'ivf')
    """
    return "flat" if rows <= FLAT_TO else "fp16" if rows <= FP16_TO else "ivf"


def _nearest(scores: Matrix, k: int) -> Ranking:
    """Every row is near to some degree, also one at an obtuse angle."""
    return [(row, float(scores[row])) for row, _ in best(scores.astype(np.float64) + 2.0, k)]


def _regrouped(matrix: Matrix, like: Any) -> Any:
    """An empty index with the groups of another; None when that has none, or too many or too few for so many rows."""
    theirs = getattr(like, "quantizer", None)
    if theirs is None or not like.ntotal / ALIKE < len(matrix) < like.ntotal * ALIKE:
        return None
    index = _empty(matrix.shape[1], theirs.ntotal)
    index.quantizer.add(theirs.reconstruct_n(0, theirs.ntotal))
    index.is_trained = True  # codes in float16 have nothing to learn
    index.make_direct_map()
    return index


def _grouped(matrix: Matrix) -> Any:
    """An empty index of about 4 sqrt(n) groups, each with a centre that k-means has found."""
    rows, width = matrix.shape
    groups = max(1, min(round(4 * math.sqrt(rows)), rows // POINTS))
    index = _empty(width, groups)
    index.cp.niter, index.cp.max_points_per_centroid = ROUNDS, POINTS
    chosen = np.random.default_rng(0).choice(rows, min(rows, groups * POINTS), replace=False)
    logger.info(f"finding the centres of {groups:,} groups among {len(chosen):,} vectors")
    index.train(np.ascontiguousarray(matrix[np.sort(chosen)]))
    index.make_direct_map()
    return index


def _empty(width: int, groups: int) -> Any:
    import faiss

    index = faiss.index_factory(width, f"IVF{groups},SQfp16", faiss.METRIC_INNER_PRODUCT)
    # Codes are then the vectors themselves, and come back the same however often an index is made of another.
    index.by_residual = False
    return index


def _add(index: Any, matrix: Matrix) -> None:
    from tqdm import tqdm

    # A block at a time: a bar that moves, and a matrix on disk is never whole in memory.
    starts = range(0, len(matrix), BLOCK)
    for first in tqdm(starts, desc="indexing", disable=len(starts) < 2 or not sys.stderr.isatty()):
        index.add(np.ascontiguousarray(matrix[first : first + BLOCK], dtype=np.float32))


def _probes(index: Any, matrix: Matrix) -> int:
    """The fewest groups, doubling, that find AIM of what all groups would, for made-up questions."""
    import faiss

    questions = turned(matrix, min(SAMPLED, len(matrix)), seed=1)

    def found(probes: int) -> list[set[int]]:
        rows = index.search(questions, 10, params=faiss.SearchParametersIVF(nprobe=probes))[1]
        return [{*row} - {-1} for row in rows.tolist()]

    truth, probes = found(index.nlist), 1
    while probes < index.nlist:
        shared = sum(len(one & other) for one, other in zip(found(probes), truth, strict=True))
        if shared >= AIM * sum(map(len, truth)):
            break
        probes *= 2
    return min(probes, int(index.nlist))


def turned(matrix: Matrix, count: int, seed: int) -> Matrix:
    """Made-up questions (count, d): some rows, turned aside until their cosine with the row is CLOSENESS.

    Aside is a direction in which the rows themselves differ; one at random would leave neighbours where they are.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(matrix))
    rows, others = matrix[np.sort(chosen[:count])], matrix[np.sort(chosen[-500:])]
    aside = random.standard_normal((len(rows), len(others)), dtype=np.float32) @ others
    aside -= np.sum(aside * rows, axis=1, keepdims=True) * rows
    return _unit(CLOSENESS * rows + np.float32(math.sqrt(1 - CLOSENESS**2)) * _unit(aside))


def _unit(matrix: Matrix) -> Matrix:
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(length > 0, length, 1), dtype=np.float32)
