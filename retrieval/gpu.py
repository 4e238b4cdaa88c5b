"""Vectors on a GPU, searched by a process of their own after a self-test; where it fails, a sentence says why.

FAISS brings its own CUDA runtime, another one than torch's: the two do not share a process. The child loads an index,
copies its vectors to the GPU in float16 and answers one question at a time. Knows nothing of passages or filters:
under a mask the CPU searches.

    python -m retrieval.gpu out/index/docs/gen-0001/index.faiss
"""

import json
import logging
import struct
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import IO, Any, Final

import numpy as np

from retrieval.batch import Vectors as Matrix
from retrieval.ranking import Ranking

WORTH_IT: Final = 100_000
"""Rows of an index above which it is tried: below, a CPU answers in some milliseconds."""
TESTED: Final = 64
"""Vectors that both machines search for, first of all."""
AGREE: Final = 0.99
"""The share of the nearest ten on which they must agree: float16 exchanges neighbours that are equally near."""
QUESTION: Final = struct.Struct("<II")
"""How many neighbours, of a vector of how many float32; the vector follows."""

logger = logging.getLogger(__name__)


class GpuSearch:
    """The child, ready."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self._lock = Lock()

    def search(self, vector: Matrix, k: int) -> Ranking:
        """The k nearest rows; OSError when the child is gone."""
        with self._lock:
            assert self._child.stdin
            assert self._child.stdout
            self._child.stdin.write(QUESTION.pack(k, len(vector)) + vector.astype("<f4").tobytes())
            self._child.stdin.flush()
            scores = np.frombuffer(_exactly(self._child.stdout, 4 * k), dtype="<f4")
            rows = np.frombuffer(_exactly(self._child.stdout, 8 * k), dtype="<i8")
        return [(row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True) if row >= 0]


def start(path: Path, rows: int) -> GpuSearch | None:
    """The child for this index file, or None, and why in the log, where the CPU has to search."""
    if not _installed():
        return None
    # A session of its own: Ctrl-C is for us, and the child ends when we do, because its questions end.
    command, pipe = [sys.executable, "-m", "retrieval.gpu", str(path)], subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
    assert child.stdout
    said = child.stdout.readline()
    answer = json.loads(said) if said.strip() else {"error": f"its process ended with {child.wait()}"}
    if "error" in answer:
        logger.warning(f"{path}: searched on the CPU, not on a GPU: {answer['error']}")
        child.kill()
        return None
    logger.info(f"{path}: {rows:,} vectors on the GPU; a test of {TESTED} questions agrees with the CPU")
    return GpuSearch(child)


def _installed() -> bool:
    try:
        return bool(version("faiss-gpu"))
    except PackageNotFoundError:
        return False


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise OSError("the process that searches on the GPU is gone")
    return data


def main(words: list[str]) -> int:
    """Copy, test, say so in one line of JSON, then answer until the questions end."""
    try:
        index = on_gpu(Path(words[0]))
    except Exception as error:  # whatever it is, the parent must hear it and search on the CPU
        index, said = None, {"error": " ".join(str(error).split())}
    else:
        said = {}
    print(json.dumps(said), flush=True)  # noqa: T201
    if index is not None:
        answer(index, sys.stdin.buffer, sys.stdout.buffer)
    return 0


def on_gpu(path: Path) -> Any:
    """The file's vectors on the GPU, compared with the CPU's own search; RuntimeError says what is wrong."""
    import faiss

    if not getattr(faiss, "get_num_gpus", int)():
        raise RuntimeError("FAISS sees no GPU")
    cpu = faiss.read_index(str(path))
    vectors = cpu.reconstruct_n(0, cpu.ntotal)
    settings = faiss.GpuIndexFlatConfig()
    settings.useFloat16 = True
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), cpu.d, settings)
    index.add(vectors)
    sample = vectors[:: max(1, len(vectors) // TESTED)][:TESTED]
    share = agreement(index.search(sample, 10)[1], faiss.knn(sample, vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)[1])
    if share < AGREE:
        raise RuntimeError(f"its nearest neighbours are the CPU's in {share:.0%} of cases only")
    return index


def agreement(one: Any, other: Any) -> float:
    """The share of each row's neighbours that are the same, in any order.

    >>> agreement([[1, 2], [3, 4]], [[2, 1], [3, 9]])
    0.75
    """
    shared = [len({*ours} & {*theirs}) / len(theirs) for ours, theirs in zip(one, other, strict=True)]
    return sum(shared) / len(shared)


def answer(index: Any, questions: IO[bytes], answers: IO[bytes]) -> None:
    """One question after the other, until there is none."""
    while head := questions.read(QUESTION.size):
        k, width = QUESTION.unpack(head)
        vector = np.frombuffer(_exactly(questions, 4 * width), dtype="<f4")
        scores, rows = index.search(vector[np.newaxis], k)
        answers.write(scores.astype("<f4").tobytes() + rows.astype("<i8").tobytes())
        answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
