"""Search equals brute force over what is kept: any kind that is exact, any mask, any k."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import retrieval.vectors
from retrieval.batch import Vectors as Matrix
from retrieval.ranking import fuse
from retrieval.vectors import Kind, Vectors


def unit_rows(random: np.random.Generator, count: int, width: int = 8) -> Matrix:
    matrix = random.normal(size=(count, width)).astype(np.float32)
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


def with_all_groups(matrix: Matrix, folder: Path) -> Vectors:
    """Vectors in groups, of which a search reads every one."""
    Vectors.build(matrix, "ivf").save(folder / "ivf")
    return Vectors.load(folder / "ivf", "ivf", probes=len(matrix))


@pytest.mark.parametrize("kind", ["flat", "fp16"])
@settings(max_examples=60)
@given(st.integers(1, 80), st.integers(1, 100), st.floats(0, 1), st.booleans(), st.integers(0, 10**6))
def test_search_is_brute_force(kind: Kind, rows: int, k: int, density: float, masked: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = unit_rows(random, rows)[random.integers(0, rows, rows)]  # duplicates
    vectors, mask = Vectors.build(matrix, kind), random.random(rows) < density if masked else None
    allowed = np.arange(rows) if mask is None else np.flatnonzero(mask)
    scores = vectors.take(np.arange(rows)) @ matrix[0]

    found = vectors.search(matrix[0], k, mask)

    assert len({row for row, _ in found}) == len(found) == min(k, len(allowed))
    assert {row for row, _ in found} <= set(allowed.tolist())
    assert [score for _, score in found] == pytest.approx(sorted(scores[allowed], reverse=True)[:k], abs=1e-5)
    assert [score for _, score in found] == pytest.approx([scores[row] for row, _ in found], abs=1e-5)


@pytest.mark.parametrize("kind", ["flat", "fp16", "ivf"])
def test_vectors_made_of_what_an_index_keeps_are_the_same_again(kind: Kind) -> None:
    matrix = np.random.default_rng(3).normal(size=(1500, 16)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    kept = Vectors.build(matrix, kind).take(np.arange(1500))

    again = Vectors.build(kept, kind).take(np.arange(1500))

    assert np.array_equal(again, kept)
    assert kept == pytest.approx(matrix, abs=0 if kind == "flat" else 1e-3)


@pytest.mark.parametrize("kind", ["flat", "fp16", "ivf"])
@pytest.mark.parametrize("density", [0.0, 0.003, 0.1, 0.5, 0.9, 1.0])
def test_a_mask_that_faiss_searches_under_is_brute_force_too(
    kind: Kind, density: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval.vectors, "FEW", -1)  # else so few rows would be compared one by one
    random = np.random.default_rng(5)
    matrix = unit_rows(random, 1501)
    vectors = with_all_groups(matrix, tmp_path) if kind == "ivf" else Vectors.build(matrix, kind)

    for question in unit_rows(random, 10):
        mask = random.random(len(matrix)) < density
        scores = np.where(mask, vectors.take(np.arange(len(matrix))) @ question, -np.inf)
        expected = np.argsort(-scores, kind="stable")[: min(20, mask.sum())]

        found = vectors.search(question, 20, mask)

        assert {row for row, _ in found} == set(expected.tolist())
        assert [score for _, score in found] == pytest.approx(scores[expected], abs=1e-5)


def test_groups_that_are_all_read_find_what_half_precision_finds(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    matrix = unit_rows(random, 3000, width=16)
    grouped, plain = with_all_groups(matrix, tmp_path), Vectors.build(matrix, "fp16")

    for question in unit_rows(random, 30, width=16):
        ours, theirs = grouped.search(question, 25), plain.search(question, 25)

        assert [row for row, _ in ours] == [row for row, _ in theirs]
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-6)


@pytest.mark.parametrize("kind", ["flat", "fp16"])
@settings(max_examples=30)
@example(rows=[0], seed=36670)
@given(rows=st.lists(st.integers(0, 49), max_size=60), seed=st.integers(0, 10**6))
def test_what_is_taken_is_what_was_given_row_by_row(kind: Kind, rows: list[int], seed: int) -> None:
    matrix = unit_rows(np.random.default_rng(seed), 50)
    kept = matrix if kind == "flat" else matrix.astype(np.float16).astype(np.float32)

    taken = Vectors.build(matrix, kind).take(np.array(rows, dtype=np.int64))

    # As near as it can be: a number half-way between two halves, FAISS and NumPy may round to either of them.
    assert np.array_equal(np.abs(taken - matrix[rows]), np.abs(kept[rows] - matrix[rows]))
    assert kind == "flat" or np.array_equal(taken, taken.astype(np.float16))


@given(st.lists(st.lists(st.integers(0, 12), max_size=10, unique=True), max_size=4), st.integers(0, 15))
def test_fusing_is_its_definition(rows: list[list[int]], k: int) -> None:
    everywhere = {row for ranking in rows for row in ranking}
    score = {row: sum(1 / (60 + one.index(row) + 1) for one in rows if row in one) for row in everywhere}

    fused = fuse([[(row, 1.0) for row in ranking] for ranking in rows], k)

    assert len(fused) == min(k, len(everywhere))
    assert fused == [(row, pytest.approx(score[row])) for row, _ in fused]
    assert [one for _, one in fused] == pytest.approx(sorted(score.values(), reverse=True)[:k])
