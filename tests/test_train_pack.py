import doctest
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train import pack, recipe
from train.holdout import held_out
from train.pack import Budget, best_fit_decreasing, share, steps

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=60)


@pytest.mark.parametrize("module", [pack, recipe])
def test_the_examples_in_the_text_are_true(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@given(LENGTHS)
def test_every_row_is_in_one_pack_and_no_pack_is_too_full(lengths: list[int]) -> None:
    packs = best_fit_decreasing(lengths, range(len(lengths)), budget=100)

    assert sorted(chain(*packs)) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= 100 for pack in packs)


@given(LENGTHS)
def test_packing_is_the_plain_best_fit_decreasing(lengths: list[int]) -> None:
    plain: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [pack for pack in plain if sum(pack) + length <= 100]
        max(fitting, key=sum).append(length) if fitting else plain.append([length])

    packs = best_fit_decreasing(lengths, range(len(lengths)), budget=100)

    assert sorted(sorted(lengths[row] for row in pack) for pack in packs) == sorted(sorted(pack) for pack in plain)


@given(LENGTHS, st.integers(1, 3), st.integers(0, 5))
def test_a_plan_runs_every_row_once_an_epoch_and_is_the_same_each_time(
    lengths: list[int], epochs: int, seed: int
) -> None:
    budget = Budget(pack=100, step=250)

    plan = list(steps(lengths, budget, epochs, seed))

    assert plan == list(steps(lengths, budget, epochs, seed))
    assert all(1 <= len(step) <= 2 for step in plan)
    assert sorted(row for step in plan for pack in step for row in pack) == sorted(list(range(len(lengths))) * epochs)


def test_epochs_differ_in_who_meets_whom() -> None:
    first, second = (list(steps([30] * 30, Budget(pack=100, step=100), 1, seed)) for seed in (0, 1))

    assert sorted(map(sorted, chain(*first))) != sorted(map(sorted, chain(*second)))


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_a_step_in_equal_numbers(processes: int) -> None:
    packs = [(n,) for n in range(5)]

    shares = [share(packs, process, processes) for process in range(processes)]

    assert len({len(mine) for mine in shares}) == 1
    assert sorted(pack for mine in shares for pack in mine if pack) == packs


@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=2, max_size=80), st.floats(0, 0.5), st.integers(0, 3))
def test_a_group_is_held_out_whole_or_not_at_all(groups: list[str], fraction: float, seed: int) -> None:
    out = held_out(groups, fraction, seed)

    assert {groups[i] for i in out}.isdisjoint(groups[i] for i in range(len(groups)) if i not in out)


def test_what_is_held_out_depends_on_the_rows_and_not_on_their_order() -> None:
    groups = [f"question {n}" for n in range(500)]

    forwards, backwards = held_out(groups, 0.1, 0), held_out(groups[::-1], 0.1, 0)

    assert len(forwards) == 50
    assert {groups[i] for i in forwards} == {groups[::-1][i] for i in backwards}
    assert held_out(groups, 0.1, 1) != forwards


@pytest.mark.parametrize(
    ("rows", "fraction", "expected"), [(100, 0.05, 20), (50, 0.05, 10), (4, 0.05, 0), (100, 0.0, 0)]
)
def test_small_files_hold_out_twenty_rows_or_a_fifth(rows: int, fraction: float, expected: int) -> None:
    assert len(held_out([str(n) for n in range(rows)], fraction, 0)) == expected


def test_one_giant_group_is_trained_on_not_held_out() -> None:
    groups = ["giant"] * 90 + [f"small {n}" for n in range(10)]

    assert all(groups[i] != "giant" for i in held_out(groups, 0.05, 0))
