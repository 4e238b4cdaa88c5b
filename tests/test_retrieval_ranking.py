"""Rankings: the best rows, and two rankings made one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.ranking import best, convex, fuse, interleave


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), max_size=30), st.integers(1, 40))
def test_the_best_rows_are_those_that_sorting_everything_gives(scores: list[float], k: int) -> None:
    by_sorting = sorted((-score, row) for row, score in enumerate(scores) if score > 0)[:k]

    assert best(np.array(scores), k) == [(row, -negative) for negative, row in by_sorting]


def test_reciprocal_rank_fusion_by_hand() -> None:
    near = [(10, 0.93), (11, 0.90), (12, 0.20)]
    matching = [(12, 31.0), (10, 7.5), (13, 7.4)]

    fused = fuse([near, matching], k=3)

    assert fused == [
        (10, 1 / 61 + 1 / 62),  # first and second
        (12, 1 / 63 + 1 / 61),  # third and first
        (11, 1 / 62),  # second, and not found by the other
    ]


def test_a_tie_goes_to_the_earlier_ranking() -> None:
    assert [row for row, _ in fuse([[(1, 0.5)], [(2, 9.0)]], k=2)] == [1, 2]


@given(st.lists(st.lists(st.integers(0, 9), max_size=6, unique=True), max_size=4), st.integers(0, 12))
def test_interleaving_takes_turns_and_no_row_twice(rows: list[list[int]], k: int) -> None:
    rankings = [[(row, 1.0) for row in ranking] for ranking in rows]

    merged = interleave(rankings, k)

    turns = [ranking[turn] for turn in range(6) for ranking in rows if turn < len(ranking)]
    assert [row for row, _ in merged] == list(dict.fromkeys(turns))[:k]
    assert [score for _, score in merged] == sorted((score for _, score in merged), reverse=True)
    assert all(score == max(1 / (one.index(row) + 1) for one in rows if row in one) for row, score in merged)


candidates = st.lists(st.tuples(st.floats(-1, 1, width=32), st.floats(0, 50, width=32)), max_size=30).map(
    lambda pairs: np.array(pairs, dtype=np.float32).reshape(-1, 2).T
)


@given(candidates, st.integers(1, 40))
def test_all_the_weight_on_one_side_is_the_order_of_that_side(scores: np.ndarray, k: int) -> None:
    dense, lexical = scores

    assert [row for row, _ in convex(dense, lexical, 0.0, k)] == [row for row, _ in best(lexical, k)]
    assert [row for row, _ in convex(dense, lexical, 1.0, k)] == [row for row, _ in best(dense.astype(float) + 1, k)]


@given(candidates, st.floats(0, 1))
def test_a_convex_combination_is_its_definition(scores: np.ndarray, weight: float) -> None:
    dense, lexical = scores.astype(float)
    by_definition = [
        weight * ((d + 1) / (max(dense) + 1) if max(dense) > -1 else 0)
        + (1 - weight) * (s / max(lexical) if max(lexical) else 0)
        for d, s in zip(dense, lexical, strict=True)
    ]

    found = convex(dense, lexical, weight, k=100)

    assert dict(found) == pytest.approx({row: score for row, score in enumerate(by_definition) if score > 0})
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_convex_combination_by_hand() -> None:
    combined = convex(np.array([0.5, 0.2, -0.4]), np.array([0.0, 10.0, 5.0]), weight=0.4, k=2)

    assert combined == [(1, pytest.approx(0.4 * 0.8 + 0.6)), (2, pytest.approx(0.4 * 0.4 + 0.6 * 0.5))]
