"""The process that searches on a GPU speaks its protocol, and says why when there is no GPU."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval import gpu
from retrieval.batch import Vectors as Matrix
from retrieval.gpu import GpuSearch, start
from retrieval.vectors import Vectors
from tests.logs import told

CHILD = """
import sys
import faiss
from retrieval.gpu import answer
answer(faiss.read_index(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
"""


@pytest.fixture
def matrix() -> Matrix:
    rows = np.random.default_rng(3).normal(size=(500, 16)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def test_what_the_child_answers_is_what_the_index_finds(matrix: Matrix, tmp_path: Path) -> None:
    vectors = Vectors.build(matrix)
    vectors.save(tmp_path / "index.faiss")
    command, pipe = [sys.executable, "-c", CHILD, str(tmp_path / "index.faiss")], subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe)

    search = GpuSearch(child)

    for k in (1, 7, 500):
        found, expected = search.search(matrix[k - 1], k), vectors.search(matrix[k - 1], k)
        assert [row for row, _ in found] == [row for row, _ in expected]
        assert np.allclose([score for _, score in found], [score for _, score in expected])
    child.kill()
    child.wait()
    with pytest.raises(OSError):
        search.search(matrix[0], 1)


def test_when_the_child_dies_the_cpu_goes_on(matrix: Matrix, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.wait()
    plain = Vectors.build(matrix)
    vectors = Vectors(plain._shards, "flat", 0, [GpuSearch(child)])

    found = [vectors.search(matrix[5], 3) for _ in range(2)]

    assert found == [plain.search(matrix[5], 3)] * 2
    assert len(told(caplog)) == 1


def test_without_a_gpu_the_child_says_so_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "retrieval.gpu", str(tmp_path / "index.faiss")]

    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)

    assert json.loads(done.stdout) == {"error": "FAISS sees no GPU"}


def test_a_gpu_that_cannot_be_used_is_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "version", lambda name: "1.15.1")

    with caplog.at_level(logging.INFO):
        assert start(tmp_path / "index.faiss", 1_000_000) is None

    assert told(caplog) == [f"{tmp_path / 'index.faiss'}: searched on the CPU, not on a GPU: FAISS sees no GPU"]


@pytest.mark.parametrize(("rows", "tried"), [(100_004, 4), (100_000, 0)])
def test_the_passages_of_an_index_are_counted_and_not_those_of_a_shard(
    rows: int, tried: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "version", lambda name: "1.15.1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    vectors = Vectors.build(np.ones((rows, 1), dtype=np.float32), "flat", shards=4)
    vectors.save(tmp_path / "index.faiss")

    accelerated = vectors.accelerated(tmp_path / "index.faiss")

    said = told(caplog)
    assert len(said) == tried
    assert all("searched on the CPU, not on a GPU" in sentence for sentence in said)
    assert len(accelerated) == rows
