"""What each library does with the same vectors: build and save, open and search, add; and with the same texts: embed.

One process for each step, so that memory is its own; the last line of its output is JSON. Run by path with the
interpreter that has the library; needs nothing else of this project. Every library gets its best: vectors of length 1
under inner product, rows in blocks instead of lists of numbers, texts no longer than their ids, questions as vectors,
its own switch for memory mapping where it has one.

    python scripts/peers.py build "langchain flat" '{"folder": "out/bench/index", ...}'
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

BLOCK: Final = 2000
"""Rows handed over at once, for those who want objects: a million of them would be the memory that is measured."""
WARM: Final = 10
"""Questions before the clock starts."""


class Store(Protocol):
    """A library's index of unit vectors, whose ids are rows."""

    def build(self, vectors: Matrix) -> None: ...
    def save(self, folder: Path) -> None: ...
    def open(self, folder: Path, to_add: bool) -> None: ...
    def add(self, vectors: Matrix) -> None: ...
    def search(self, vector: Matrix, k: int) -> list[int]: ...
    def probe(self, groups: int) -> bool:
        """Read so many groups in a search; False when that is not for us to choose, or there are no more."""
        ...

    @property
    def probes(self) -> int:
        """How many groups a search reads; 0 where there are none."""
        ...


# Peers ----------------------------------------------------------------------------------------------------------------


class LangChain:
    """langchain_community's FAISS store around an index of FAISS: flat, or in groups as in `grouped`."""

    def __init__(self, kind: str) -> None:
        import faiss
        from langchain_community.docstore.in_memory import InMemoryDocstore
        from langchain_community.vectorstores import FAISS
        from langchain_community.vectorstores.utils import DistanceStrategy
        from langchain_core.embeddings import DeterministicFakeEmbedding

        self.kind, self.faiss = kind, faiss
        self.store: Any = None
        self.given = {"distance_strategy": DistanceStrategy.MAX_INNER_PRODUCT}
        self.make = partial(FAISS, DeterministicFakeEmbedding(size=1), docstore=InMemoryDocstore(), **self.given)
        self.load = partial(FAISS.load_local, embeddings=DeterministicFakeEmbedding(size=1), **self.given)

    def build(self, vectors: Matrix) -> None:
        self.store = self.make(index=faiss_index(self.kind, vectors), index_to_docstore_id={})
        self.add(vectors)

    def add(self, vectors: Matrix) -> None:
        for block in blocks(vectors):
            first = len(self.store.index_to_docstore_id)
            ids = [str(first + row) for row in range(len(block))]
            self.store.add_embeddings(zip(ids, block, strict=True), ids=ids)

    def save(self, folder: Path) -> None:
        self.store.save_local(str(folder))

    def open(self, folder: Path, to_add: bool) -> None:
        mapped = 0 if to_add else self.faiss.IO_FLAG_MMAP_IFC
        self.store = self.load(str(folder), allow_dangerous_deserialization=True, io_flags=mapped)

    def search(self, vector: Matrix, k: int) -> list[int]:
        return [int(found.id) for found, _ in self.store.similarity_search_with_score_by_vector(vector, k)]

    def probe(self, groups: int) -> bool:
        return set_probes(self.store.index, groups)

    @property
    def probes(self) -> int:
        return getattr(self.store.index, "nprobe", 0)


class LlamaIndex:
    """Its FaissVectorStore around an index of FAISS; it adds row by row, and has no switch for memory mapping."""

    def __init__(self, kind: str) -> None:
        from llama_index.core.schema import TextNode
        from llama_index.core.vector_stores.types import VectorStoreQuery
        from llama_index.vector_stores.faiss import FaissVectorStore

        self.kind, self.query, self.node, self.make = kind, VectorStoreQuery, TextNode, FaissVectorStore
        self.store: Any = None

    def build(self, vectors: Matrix) -> None:
        self.store = self.make(faiss_index=faiss_index(self.kind, vectors))
        self.add(vectors)

    def add(self, vectors: Matrix) -> None:
        for block in blocks(vectors):
            # As lists: a node made of numbers in Python is checked in a fifth of the time that one unchecked takes.
            self.store.add([self.node(text="", embedding=row) for row in block.tolist()])

    def save(self, folder: Path) -> None:
        self.store.persist(str(folder / "index.faiss"))

    def open(self, folder: Path, to_add: bool) -> None:
        self.store = self.make.from_persist_path(str(folder / "index.faiss"))

    def search(self, vector: Matrix, k: int) -> list[int]:
        return [int(row) for row in self.store.query(self.query(query_embedding=vector, similarity_top_k=k)).ids]

    def probe(self, groups: int) -> bool:
        return set_probes(self.store.client, groups)

    @property
    def probes(self) -> int:
        return getattr(self.store.client, "nprobe", 0)


class Txtai:
    """Its Embeddings without a database; `settings` are those of its FAISS backend."""

    def __init__(self, settings: Mapping[str, Any], tuned: bool) -> None:
        from txtai import Embeddings

        self.tuned = tuned
        self.store = Embeddings({"method": "external", "content": False, "backend": "faiss", "faiss": dict(settings)})

    def build(self, vectors: Matrix) -> None:
        self.store.index((row, vector, None) for row, vector in enumerate(vectors))

    def add(self, vectors: Matrix) -> None:
        first = self.store.count()
        self.store.upsert((first + row, vector, None) for row, vector in enumerate(vectors))

    def save(self, folder: Path) -> None:
        self.store.save(str(folder))

    def open(self, folder: Path, to_add: bool) -> None:
        settings = self.store.config["faiss"] | {"mmap": self.tuned and not to_add}
        self.store.load(str(folder), config={"faiss": settings})

    def search(self, vector: Matrix, k: int) -> list[int]:
        return [row for row, _ in self.store.search(vector, k)]

    def probe(self, groups: int) -> bool:
        if not self.tuned or not hasattr(self.store.ann.backend, "nprobe"):
            return False
        self.store.config["faiss"]["nprobe"] = groups
        return bool(groups <= self.store.ann.backend.nlist)

    @property
    def probes(self) -> int:
        return getattr(self.store.ann.backend, "nprobe", 0)


STORES: Final[dict[str, Callable[[], Store]]] = {
    "langchain flat": partial(LangChain, "flat"),
    "langchain ivf": partial(LangChain, "ivf"),
    "llamaindex flat": partial(LlamaIndex, "flat"),
    "llamaindex ivf": partial(LlamaIndex, "ivf"),
    "txtai": partial(Txtai, {}, tuned=False),
    "txtai flat": partial(Txtai, {"components": "IDMap,Flat", "mmap": True}, tuned=True),
    # `sample` trains on a quarter; with all, a million vectors are not done within minutes.
    "txtai ivf": partial(Txtai, {"components": "IVF,SQfp16", "sample": 0.25, "mmap": True}, tuned=True),
}


def sentence_transformers(model: str, batch_size: int = 32, **how: Any) -> Callable[[list[str]], Matrix]:
    """The library as its documentation uses it, and with its own settings for speed on a CPU."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, local_files_only=True, device="cpu", model_kwargs=how)
    return partial(loaded.encode_document, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)


ENCODERS: Final[dict[str, Callable[[str], Callable[[list[str]], Matrix]]]] = {
    "sentence-transformers": sentence_transformers,
    "sentence-transformers, batches of 8": partial(sentence_transformers, batch_size=8),
    "sentence-transformers, batches of 128": partial(sentence_transformers, batch_size=128),
    "sentence-transformers, bfloat16": partial(sentence_transformers, dtype="bfloat16"),
}


# Their common parts ---------------------------------------------------------------------------------------------------


def faiss_index(kind: str, vectors: Matrix) -> Any:
    """An empty index: flat, or the groups that we use too (float16, 4 sqrt(n) centres, 64 vectors seen for each)."""
    import faiss

    rows, width = vectors.shape
    if kind == "flat":
        return faiss.IndexFlatIP(width)
    groups = max(1, min(round(4 * rows**0.5), rows // 64))
    index = faiss.index_factory(width, f"IVF{groups},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = 10, 64
    chosen = np.random.default_rng(0).choice(rows, min(rows, groups * 64), replace=False)
    index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    return index


def set_probes(index: Any, groups: int) -> bool:
    if not hasattr(index, "nprobe"):
        return False
    index.nprobe = groups
    return bool(groups <= index.nlist)


def blocks(vectors: Matrix) -> Iterator[Matrix]:
    for start in range(0, len(vectors), BLOCK):
        yield np.ascontiguousarray(vectors[start : start + BLOCK])


# Steps, the same for all ----------------------------------------------------------------------------------------------


def build(store: Store, job: Mapping[str, Any]) -> dict[str, Any]:
    """Peak memory includes the pages of the vectors' file, for everybody."""
    idle = memory("VmRSS")
    vectors = np.load(job["vectors"], mmap_mode="r")
    began = time.perf_counter()
    store.build(vectors)
    built = time.perf_counter()
    store.save(folder := fresh(job["folder"]))
    saved = time.perf_counter()
    return {
        "build_seconds": built - began,
        "save_seconds": saved - built,
        "build_mib": memory("VmHWM"),
        "idle_mib": idle,
        "disk_mib": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20,
    }


def search(store: Store, job: Mapping[str, Any]) -> dict[str, Any]:
    """One question at a time. Peers that leave it to us read the fewest groups, doubling, that find `aim`."""
    import faiss

    queries, truth, k = np.load(job["questions"]), np.load(job["truth"]), job["k"]
    began = time.perf_counter()
    store.open(Path(job["folder"]), False)
    opened = time.perf_counter()
    store.search(queries[0], k)
    first = time.perf_counter()

    def found() -> list[list[int]]:
        return [store.search(query, k) for query in queries]

    groups = 1
    while store.probe(groups) and recall(found(), truth) < job["aim"]:
        groups *= 2
    measured = {"open_seconds": opened - began, "first_ms": (first - opened) * 1000, "recall": recall(found(), truth)}
    for threads in job["threads"]:
        faiss.omp_set_num_threads(threads)
        took = [clocked(store, query, k) for query in (*queries[:WARM], *queries)][WARM:]
        measured |= {f"p50_ms_{threads}": percentile(took, 50), f"p95_ms_{threads}": percentile(took, 95)}
    return measured | {"probes": store.probes, "search_mib": memory("VmHWM"), "private_mib": memory("RssAnon")}


def add(store: Store, job: Mapping[str, Any]) -> dict[str, Any]:
    """Open, add, save: what a user waits for before the new rows are found after a restart."""
    more = np.load(job["more"])
    began = time.perf_counter()
    store.open(Path(job["folder"]), True)
    opened = time.perf_counter()
    store.add(more)
    added = time.perf_counter()
    store.save(fresh(job["folder"] + "-more"))
    saved = time.perf_counter()
    rows = [store.search(row, 1) for row in more[:WARM]]
    return {
        "open_seconds": opened - began,
        "add_seconds": added - opened,
        "save_seconds": saved - added,
        "all_seconds": saved - began,
        "add_mib": memory("VmHWM"),
        "found": float(np.mean([bool(row and row[0] >= job["rows"]) for row in rows])),
    }


def embed(encode: Callable[[list[str]], Matrix], job: Mapping[str, Any]) -> dict[str, Any]:
    """Texts to unit vectors; loading and the first few texts are nobody's time."""
    texts = json.loads(Path(job["texts"]).read_text(encoding="utf-8"))
    encode(texts[:WARM])
    began = time.perf_counter()
    vectors = encode(texts)
    seconds = time.perf_counter() - began
    np.save(job["vectors"], vectors)
    return {"texts_per_second": len(texts) / seconds, "embed_mib": memory("VmHWM")}


def clocked(store: Store, query: Matrix, k: int) -> float:
    """Milliseconds of one search."""
    began = time.perf_counter()
    store.search(query, k)
    return (time.perf_counter() - began) * 1000


def recall(found: list[list[int]], truth: NDArray[np.int64]) -> float:
    """The mean share of the true neighbours that were found.

    >>> recall([[1, 2], [3, 9]], np.array([[2, 1], [3, 4]]))
    0.75
    """
    shares = [len({*rows} & {*true}) / len(true) for rows, true in zip(found, truth.tolist(), strict=True)]
    return sum(shares) / len(shares)


def percentile(milliseconds: list[float], share: int) -> float:
    return float(np.percentile(milliseconds, share))


def memory(line: str) -> float:
    """MiB of this process: VmHWM is the peak with mapped files, RssAnon what it has for itself alone."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{line}:")[1].split()[0]) / 1024


def fresh(name: str) -> Path:
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def child(words: Sequence[str], stores: Mapping[str, Any], encoders: Mapping[str, Any]) -> None:
    """Do a step (STEP CONTESTANT JOB) within the job's memory limit and print what was measured."""
    step, contestant, given = words
    job = json.loads(given)
    limit = int(job["memory_gib"] * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    made = encoders[contestant](job["model"]) if step == "embed" else stores[contestant]()
    steps: Mapping[str, Callable[..., dict[str, Any]]] = {"build": build, "search": search, "add": add, "embed": embed}
    print(json.dumps(steps[step](made, job)))


if __name__ == "__main__":
    child(sys.argv[1:], STORES, ENCODERS)
