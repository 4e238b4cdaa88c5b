"""Search equals brute force over what is kept: any kind that is exact, any mask, any k."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.vectors import Kind, Vectors


@pytest.mark.parametrize("kind", ["flat", "fp16"])
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(1, 100), st.floats(0, 1), st.booleans(), st.integers(0, 10**6))
def test_search_is_brute_force(kind: Kind, rows: int, k: int, density: float, masked: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, 8)).astype(np.float32)
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True))[random.integers(0, rows, rows)]  # duplicates
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
