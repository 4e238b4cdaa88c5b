"""Our side of `scripts/bench_retrieval.py`, in the shape in which `scripts/peers.py` measures everybody.

python -m scripts.bench_ours build "fulcrum flat" '{"folder": "out/bench/index", ...}'
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from retrieval.embed import Embedder
from retrieval.vectors import Kind, Vectors
from scripts.peers import Matrix, Store, child


class Fulcrum:
    """`retrieval.vectors`, without the passages: the others keep none either."""

    def __init__(self, kind: Kind) -> None:
        import faiss  # noqa: F401  so that what it takes in memory counts as the library's, as with the others

        self._kind: Final = kind
        self._vectors = Vectors((), kind)

    def build(self, vectors: Matrix) -> None:
        self._vectors = Vectors.build(vectors, self._kind)

    def save(self, folder: Path) -> None:
        self._vectors.save(folder / "index.faiss")
        (folder / "manifest.json").write_text(json.dumps({"probes": self._vectors.probes}), encoding="utf-8")

    def open(self, folder: Path, to_add: bool) -> None:
        probes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["probes"]
        self._vectors = Vectors.load(folder / "index.faiss", self._kind, probes)

    def add(self, vectors: Matrix) -> None:
        """A new generation of the old vectors and the new: indexes are never changed in place."""
        old = self._vectors.take(np.arange(len(self._vectors)))
        self.build(np.concatenate([old, vectors]))

    def search(self, vector: Matrix, k: int) -> list[int]:
        return [row for row, _ in self._vectors.search(vector, k)]

    def probe(self, groups: int) -> bool:
        """It has chosen by itself, from the vectors alone."""
        return False

    @property
    def probes(self) -> int:
        return self._vectors.probes


STORES: Final[dict[str, Callable[[], Store]]] = {
    "fulcrum flat": partial(Fulcrum, "flat"),
    "fulcrum fp16": partial(Fulcrum, "fp16"),
    "fulcrum ivf": partial(Fulcrum, "ivf"),
}


def embedder(model: str) -> Callable[[list[str]], Matrix]:
    return Embedder(Path(model)).passages


if __name__ == "__main__":
    child(sys.argv[1:], STORES, {"fulcrum": embedder})
