"""Vectors and questions to search, where nobody has the time to embed a million texts; what is right by brute force.

The vectors: a topic in 2,000 and an offset of the row's own, both Gaussian with variances that fall as a power of the
direction's number, scaled to length 1. The three numbers were chosen so that 2,600 of them are as easy to group as the
embeddings of 2,600 SciFact abstracts (all-MiniLM-L6-v2). Cosine to the nearest other, at 10, 50 and 90 %: 0.52, 0.69,
0.82 here and 0.53, 0.65, 0.77 there; found of ten neighbours in 1, 2, 4, 8, 16 of 40 groups: 0.49, 0.68, 0.85, 0.96,
0.99 here and 0.59, 0.76, 0.89, 0.96, 0.99 there.

Knows nothing of stores.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scripts.peers import Matrix

WIDTH: Final = 384
BLOCK: Final = 50_000
CENTRES: Final = 2000
DECAY: Final = 0.6
SPREAD: Final = 0.7
MADE: Final = f"made of {CENTRES:,} topics, {WIDTH} wide"


def made_vectors(path: Path, rows: int) -> Matrix:
    """Write seeded unit vectors to a file and map it: see above for what they are."""
    random = np.random.default_rng(0)
    spectrum = (np.arange(1, WIDTH + 1) ** -DECAY).astype(np.float32)
    centres = random.standard_normal((CENTRES, WIDTH), dtype=np.float32) * spectrum
    mapped: Matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, WIDTH))  # type: ignore[no-untyped-call]
    for start in range(0, rows, BLOCK):
        some = min(BLOCK, rows - start)
        own = random.standard_normal((some, WIDTH), dtype=np.float32) * spectrum
        mapped[start : start + some] = unit(centres[random.integers(CENTRES, size=some)] + np.float32(SPREAD) * own)
    return mapped


def nearest(vectors: Matrix, questions: Matrix, k: int) -> NDArray[np.int64]:
    """By brute force, best first: row numbers (questions, k)."""
    scores = np.empty((len(questions), 0), dtype=np.float32)
    rows = np.empty((len(questions), 0), dtype=np.int64)
    for start in range(0, len(vectors), BLOCK):
        block = questions @ np.asarray(vectors[start : start + BLOCK]).T
        here = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores, rows = np.hstack([scores, block]), np.hstack([rows, here])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def unit(matrix: Matrix) -> Matrix:
    """
    >>> unit(np.array([[3.0, 4.0]], dtype=np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    length: Matrix = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / length, dtype=np.float32)
